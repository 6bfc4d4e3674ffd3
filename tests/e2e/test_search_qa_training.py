"""Search-QA through RLlib: both algorithms in both protocols, genuine rows, a server that fails."""

import json
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
from ray.rllib.core import DEFAULT_MODULE_ID
from stepopsd_envs.search_qa.retriever import Passage, RetrievalError
from stepopsd_envs.search_qa.server import RetrievalServer
from stepopsd_envs.search_qa.tasks import generated_world, write_world

import stepopsd_cli
from stepopsd_rllib.commands import tuned

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
REAL = Path(
    os.environ.get("STEPOPSD_SEARCHQA_REAL")
    or Path(__file__).resolve().parents[3] / "shared" / "data" / "searchqa_real"
)
SMALL = ["groups_per_step=4", "group_size=4", "eval_num_tasks=12", "evaluation_interval=1"]
ITERATIONS = 3


@pytest.fixture(scope="module", autouse=True)
def _ray():
    start_ray()
    yield
    ray.shutdown()


def start_ray() -> None:
    if not ray.is_initialized():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


@pytest.fixture
def trained(monkeypatch):
    """Trains an example for some iterations; returns the results and the run folder."""
    monkeypatch.chdir(ROOT)

    def train(example: str, *overrides: str) -> tuple[list[dict], Path]:
        start_ray()  # the command line ends its own
        path = f"tuned_examples/{example}.yaml"
        (config,) = tuned.configs(tuned.read(path, [*SMALL, *overrides]))
        algorithm = config.build_algo()
        try:
            return [algorithm.train() for _ in range(ITERATIONS)], algorithm.run_folder()
        finally:
            algorithm.stop()

    return train


@pytest.mark.parametrize("context", ["append", "window"])
@pytest.mark.parametrize("algorithm", ["grpo", "stepopsd"])
def test_both_algorithms_train_in_both_protocols(trained, algorithm, context):
    ending = "" if context == "append" else "_window"
    results, _ = trained(f"{algorithm}/search_qa_tiny{ending}", "entropy_coeff=0.01")
    for result in results:
        learner = result["learners"][DEFAULT_MODULE_ID]
        assert math.isfinite(learner["total_loss"])
        assert learner["sampler_log_prob_difference_max"] < 1e-3
        assert result["env_runners"]["num_episodes"] == 16
        evaluation = result["evaluation"]
        assert evaluation["num_episodes"] == 12
        assert evaluation["success_rate_low"] <= evaluation["success_rate"]
        assert evaluation["task_type_mean"]["success_rate"] == evaluation["success_rate"]
        if algorithm == "stepopsd":
            assert math.isfinite(learner["effect_size"])


class MostlyFails:
    """A retriever behind a server that then answers 502: the outside world of this test."""

    def __init__(self):
        self.index = generated_world("easy", 0).retriever
        self.rng = random.Random(0)
        self.calls = 0

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        self.calls += 1
        if self.calls > 1 and self.rng.random() < 0.8:  # the first call is the client's check
            raise RetrievalError("broken", "the index is gone")
        return self.index.search(queries, top_k)

    def close(self) -> None: ...


def test_training_goes_on_at_a_server_that_fails(trained, tmp_path):
    questions, _ = write_world("easy", 0, tmp_path)
    server = RetrievalServer(MostlyFails(), port=0)
    server.start()
    data = json.dumps({"train": str(questions)})
    retriever = {"kind": "http", "urls": [server.url], "deadline_s": 0.5, "cache_size": 0}
    try:
        results, folder = trained(
            "grpo/search_qa_tiny",
            f"env_config.data={data}",
            f"env_config.retriever={json.dumps(retriever)}",
            "env_config.top_k=1",
            "eval_split=train",
            "min_groups_fraction=0.25",
        )
    finally:
        server.shutdown()
        server.server_close()
    failed = sum(result["env_runners"]["status"]["tool_error"] for result in results)
    assert failed > 0
    by_status = results[-1]["env_runners"]["tool_error_lifetime"]
    assert sum(by_status.values()) == failed and set(by_status) <= {"http_502", "timeout"}
    assert all(math.isfinite(r["learners"][DEFAULT_MODULE_ID]["total_loss"]) for r in results)
    rows = [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]
    errors = [row for row in rows if row["status"] == "tool_error"]
    assert all(row["error"].startswith(("http_502", "timeout")) for row in errors)
    written = [json.loads(line) for line in (folder / "errors.jsonl").read_text().splitlines()]
    assert len(written) == failed + len(errors)
    for result in results:
        evaluation = result["evaluation"]
        assert evaluation["num_episodes"] + evaluation["status"]["tool_error"] == 12


def test_the_command_line_finds_data_and_corpus_from_where_it_runs(tmp_path, monkeypatch, capsys):
    write_world("easy", 0, tmp_path / "world")
    ray.shutdown()
    monkeypatch.chdir(tmp_path)
    overrides = [
        "env_config.data={train: [world/questions.jsonl]}",
        "env_config.retriever=world/corpus.jsonl",
        "env_config.top_k=1",
        "eval_split=train",
        "stop.training_iteration=1",
        *SMALL,
    ]
    arguments = [part for override in overrides for part in ("--set", override)]
    example = str(ROOT / "tuned_examples/grpo/search_qa_tiny.yaml")
    assert stepopsd_cli.main(["train", example, "--name", "here", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "popqa" in shown and str(tmp_path / "runs" / "here") in shown


@pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no genuine rows: STEPOPSD_SEARCHQA_REAL or {REAL} must hold them"
)
def test_genuine_rows_are_evaluated_by_source_with_both_averages(trained):
    sources = ["nq", "hotpotqa", "bamboogle"]
    data = {
        "train": [str(REAL / "popqa.jsonl")],
        "valid_unseen": [str(REAL / f"{source}.jsonl") for source in sources],
    }
    results, _ = trained(
        "grpo/search_qa_tiny",
        f"env_config.data={json.dumps(data)}",
        f"env_config.retriever={REAL / 'corpus.jsonl'}",
        "max_context_tokens=2000",
    )
    by_source = results[-1]["evaluation"]["task_type"]
    assert set(by_source) == set(sources)
    assert sum(values["num_episodes"] for values in by_source.values()) == 12
    for values in by_source.values():
        assert values["success_rate_low"] <= values["success_rate"] <= values["success_rate_high"]
