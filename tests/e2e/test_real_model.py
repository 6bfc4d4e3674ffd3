"""SmolLM2 with real vLLM on a CPU: two iterations of each method, and memory as planned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stepopsd_rllib.models import smollm2

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, resource, sys, tempfile
import ray
from stepopsd_rllib.commands import tuned
from stepopsd_rllib.training import resource_plan
file, overrides = sys.argv[1], sys.argv[2:]
example = tuned.read(file, ["evaluation_interval=null", "sampler=vllm", *overrides])
config = tuned.configs(example)[0]
ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
algorithm = config.build_algo()
for _ in range(2):
    results = algorithm.train()
learner = results["learners"]["default_policy"]
print(json.dumps({
    "difference": float(learner["sampler_log_prob_difference_max"]),
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "planned": resource_plan.plan_of(config).largest,
}))
algorithm.stop()
"""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.vllm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(smollm2.missing_parts()), reason="the extra `smollm2` is missing"),
]


def trained(file: str, *overrides: str) -> dict[str, float]:
    pytest.importorskip("vllm")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT / "tuned_examples" / file), *overrides],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("method", ["grpo", "stepopsd", "sdar", "opid"])
def test_a_real_model_trains_and_the_sampler_is_the_learner(method):
    found = trained(f"{method}/alfworld_smollm2.yaml")
    assert found["difference"] < 1e-4


def test_the_plan_says_the_memory_that_the_embedded_model_takes():
    found = trained("grpo/alfworld_tiny.yaml")
    assert found["planned"] == pytest.approx(found["peak"], rel=0.15)
