"""WebShop through RLlib: the methods of the papers' tables train on it, and scores are reported."""

import math
from pathlib import Path

import pytest
import ray

from stepopsd_rllib.commands import tuned
from stepopsd_rllib.report import run_files, tables

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SMALL = ["groups_per_step=4", "group_size=4", "eval_num_tasks=12", "evaluation_interval=1"]


@pytest.fixture(scope="module", autouse=True)
def _ray():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.parametrize("method", ["grpo", "sdar", "opid", "gigpo", "stepopsd"])
def test_a_method_trains_in_generated_shops(method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    example = tuned.read(f"tuned_examples/{method}/webshop_tiny.yaml", SMALL)
    (config,) = tuned.configs(example)
    algorithm = config.build_algo()
    try:
        results = [algorithm.train() for _ in range(2)]
    finally:
        algorithm.stop()
    for result in results:
        learner, sampled = result["learners"]["default_policy"], result["env_runners"]
        assert math.isfinite(learner["policy_loss"])
        assert sampled["valid_action_ratio"] > 0.9
        assert sampled["success_rate"] <= sampled["task_score_mean"] <= 1.0
    evaluation = run_files.evaluation_of(results[-1])
    assert evaluation.total.score is not None
    assert "task score" in tables.single_table(evaluation)
