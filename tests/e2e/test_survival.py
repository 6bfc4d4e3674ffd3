"""A run that is killed, stopped or joined to a running Ray ends as if nothing had happened."""

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, start, wait_for
from tests.helpers.ray_clusters import started_ray

pytestmark = pytest.mark.e2e

ITERATIONS, KILLS = 6, 3
SETTINGS = (
    f"stop.training_iteration={ITERATIONS}",
    "groups_per_step=2",
    "group_size=4",
    "evaluation_interval=3",
    "eval_num_tasks=4",
    "sampler=transformers",
    "checkpoint_freq=1",
    "env_config.max_turns=6",
    "dynamic_sampling=true",
    "dynamic_sampling_rounds=2",
    "entropy_coeff=0.01",  # the weights move without a won house, too
)
EXAMPLE = str(ROOT / "tuned_examples/grpo/alfworld_tiny.yaml")


def settings(*more: str) -> list[str]:
    keys = {text.partition("=")[0]: text for text in (*SETTINGS, *more)}
    return [word for text in keys.values() for word in ("--set", text)]


def last_weights(run: Path) -> bytes:
    *_, before, last = sorted(run.glob("*/checkpoint_*"))
    assert json.loads((last / "stepopsd.json").read_text())["iteration"] == ITERATIONS
    weights = [(each / "model/model.safetensors").read_bytes() for each in (before, last)]
    assert weights[0] != weights[1], "weights that never move would always be equal"
    return weights[1]


def test_a_driver_killed_at_random_moments_ends_with_the_same_weights(tmp_path):
    log = tmp_path / "log"
    train = ["train", EXAMPLE, *settings(), "--storage", str(tmp_path)]
    began = time.monotonic()
    assert start(*train, "--name", "whole", log=log).wait() == 0, log.read_text()
    seconds = time.monotonic() - began
    moments, arguments = random.Random(3), [*train, "--name", "cut"]
    for _ in range(KILLS):
        process = start(*arguments, log=log)
        try:
            assert process.wait(moments.uniform(0.3, 0.9) * seconds) == 0, log.read_text()
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if (tmp_path / "cut/run.json").exists():
            arguments = ["train", "--resume", str(tmp_path / "cut")]
    else:
        assert start(*arguments, log=log).wait() == 0, log.read_text()
    assert last_weights(tmp_path / "cut") == last_weights(tmp_path / "whole")
    rows = [
        (tmp_path / name / "GRPO_00000/evaluation.jsonl").read_text() for name in ("cut", "whole")
    ]
    assert rows[0] == rows[1]
    # The run may have moved; it may be measured and exported, and goes on with a larger stop.
    shutil.move(tmp_path / "cut", tmp_path / "moved")
    assert start("evaluate", str(tmp_path / "moved"), "--tasks", "2", log=log).wait() == 0
    assert start("export", str(tmp_path / "moved"), str(tmp_path / "out"), log=log).wait() == 0
    assert (tmp_path / "out/model.safetensors").read_bytes() == last_weights(tmp_path / "whole")
    assert start("train", "--resume", str(tmp_path / "moved"), log=log).wait() == 2
    assert "is finished" in log.read_text()


def test_sigterm_ends_with_a_checkpoint_that_resume_goes_on_from(tmp_path):
    log = tmp_path / "log"
    endless = settings("stop.training_iteration=100000", "checkpoint_freq=0")
    process = start("train", EXAMPLE, *endless, "--storage", str(tmp_path), "--name", "a", log=log)
    wait_for("iteration      2/", log, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143, log.read_text()
    (checkpoint,) = tmp_path.glob("a/*/checkpoint_*")
    done = json.loads((checkpoint / "stepopsd.json").read_text())["iteration"]
    stop = f"stop.training_iteration={done + 1}"
    assert start("train", "--resume", str(tmp_path / "a"), "--set", stop, log=log).wait() == 0
    assert f"after {done + 1} iterations" in log.read_text()


def test_a_ray_started_on_the_machine_is_joined(tmp_path):
    log = tmp_path / "log"
    with started_ray("--num-cpus=2", "--include-dashboard=false") as cluster:
        one = settings("stop.training_iteration=1", "evaluation_interval=null")
        train = ["train", EXAMPLE, *one, "--storage", str(tmp_path / "with blanks")]
        process = start(*train, log=log, **cluster | {"RAY_ADDRESS": ""})
        assert process.wait() == 0, log.read_text()
        assert "joins the cluster at" in log.read_text()
