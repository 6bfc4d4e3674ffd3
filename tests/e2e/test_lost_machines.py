"""A machine or a process goes away: runners come back elsewhere, trials at their checkpoint."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.helpers.commands import ROOT, results, start, wait_for, workers
from tests.helpers.ray_clusters import started_ray

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

EXAMPLE = str(ROOT / "tuned_examples/grpo/alfworld_tiny.yaml")
LEARNER = "_WrappedExecutable"  # title of the process of a learner, as RLlib starts it
SMALL = (
    "groups_per_step=4",
    "group_size=2",
    "env_config.max_turns=4",
    "sampler=transformers",
    "evaluation_interval=null",
    "entropy_coeff=0.01",  # houses of four turns are never won: the weights move all the same
)


def train(*more: str, storage: Path, name: str) -> list[str]:
    settings = [word for text in (*SMALL, *more) for word in ("--set", text)]
    return ["train", EXAMPLE, *settings, "--storage", str(storage), "--name", name]


@contextmanager
def node(variables: dict[str, str]) -> Iterator[psutil.Process]:
    """A further node of one core; it is gone at once, with all its processes, at the end."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    command += [f"--address={variables['RAY_ADDRESS']}", "--object-store-memory=100000000"]
    process = psutil.Process(subprocess.Popen(command, env=variables).pid)
    try:
        yield process
    finally:
        for each in [process, *process.children(recursive=True)]:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait(30)


def test_runners_of_a_node_that_is_lost_come_back_on_another(tmp_path):
    log = tmp_path / "log"
    with started_ray("--num-cpus=2", "--include-dashboard=false", RAY_AUTH_MODE="disabled") as ray:
        address = {"RAY_ADDRESS": ray["RAY_ADDRESS"], "RAY_AUTH_MODE": "disabled"}
        address["RAY_TMPDIR"] = ray["RAY_TMPDIR"]
        with node(ray) as lost:
            endless = ("stop.training_iteration=100000", "num_env_runners=2")
            limits = ("sample_timeout_s=30", "weight_sync_timeout_s=30", "checkpoint_freq=0")
            command = train(*endless, *limits, storage=tmp_path, name="a")
            process = start(*command, log=log, **address)
            wait_for("iteration      2/", log, process)
            assert workers(lost.pid, "TextEnvRunner"), "the second runner is on the second node"
        before = len(results(tmp_path / "a"))
        wait_for(f"iteration {before + 2:6d}/", log)  # it trains on with the other runner
        with node(ray) as found:
            while not results(tmp_path / "a")[-1]["env_runners"]["runners_restarted_lifetime"]:
                wait_for(f"iteration {len(results(tmp_path / 'a')) + 1:6d}/", log, process)
            assert workers(found.pid, "TextEnvRunner"), "it came back on the third node"
            wait_for(f"iteration {len(results(tmp_path / 'a')) + 2:6d}/", log, process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 143, log.read_text()
    rows = results(tmp_path / "a")
    assert sum(row["env_runners"]["groups_lost"] for row in rows) >= 1
    for row in rows:
        assert sum(row["env_runners"]["status"].values()) == 8
        assert row["learners"]["default_policy"]["sampler_log_prob_difference_max"] < 1e-4
    assert rows[-1]["env_runners"]["runners_restarted_lifetime"] == 1


@pytest.mark.parametrize(("learners", "title"), [(1, LEARNER), (2, LEARNER), (0, "ray::GRPO")])
def test_a_trial_that_loses_a_process_goes_on_from_its_checkpoint_once(tmp_path, learners, title):
    log = tmp_path / "log"
    shape = ("stop.training_iteration=6", "checkpoint_freq=1", f"num_learners={learners}")
    process = start(*train(*shape, storage=tmp_path, name="cut"), log=log)
    wait_for("checkpoint_000001 after", log, process)
    workers(process.pid, title)[0].kill()
    assert process.wait(300) == 0, log.read_text()
    assert "lost a process and goes on from checkpoint_" in log.read_text()
    assert (
        json.loads((tmp_path / "cut/run.json").read_text())["trials"]["GRPO_00000"]["restarts"] == 1
    )
    assert [row["training_iteration"] for row in results(tmp_path / "cut")] == [*range(1, 7)]
    assert start(*train(*shape, storage=tmp_path, name="whole"), log=log).wait(300) == 0
    cut, whole = (
        [
            (checkpoint / "model/model.safetensors").read_bytes()
            for checkpoint in sorted((tmp_path / name).glob("*/checkpoint_*"))
        ]
        for name in ("cut", "whole")
    )
    assert cut == whole and len(set(whole)) == len(whole) > 1, "the weights move, and alike"
