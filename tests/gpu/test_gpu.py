"""The package on a GPU; `make test-gpu`. Each test runs one step of benchmarks/gpu.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import run_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


METHODS = [
    "grpo_one_process",
    "grpo_sleep",
    "grpo_compiled",
    "stepopsd_one_process",
    "stepopsd_two_actors",
    "opid_lora",
    "lora_sleep",
]


@pytest.fixture
def step(tmp_path: Path):
    def run(name: str) -> dict[str, Any]:
        found = run_step(name, "cuda", tmp_path)
        assert "failed" not in found, (tmp_path / f"{name}.log").read_text()[-3000:]
        return found

    return run


@pytest.mark.parametrize(("name", "limit"), [("engine_float32", 5e-3), ("engine_bfloat16", 0.1)])
def test_the_engine_gives_the_models_log_probs_before_and_after_reloads(step, name, limit):
    found = step(name)
    for when in ("first", "after_reload_1", "after_reload_2"):
        assert found[when]["mean"] < limit


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_and_restores_with_engine_and_learner_on_one_gpu(step, name):
    assert step(name)["difference"] < 0.1


def test_the_first_pages_example_runs_as_it_is_on_a_machine_with_a_gpu(step):
    assert step("quickstart")["difference"] < 1e-5


def test_an_engine_that_slept_has_freed_its_memory_and_knows_the_new_weights(step):
    found = step("sleep")
    assert found["freed_gb"] > 8
    assert found["after"]["mean"] < 0.1


def test_the_head_on_bfloat16_units_gives_the_log_probs_of_float32(step):
    found = step("head")
    assert found["log_probs_error"] < 1e-5
    assert found["hidden_grad_error"] < 0.01 and found["weight_grad_error"] < 0.01
    assert found["rounded_ms"] < found["float32_ms"]


def test_float32_heads_bring_learner_and_engine_nearer(step):
    found = step("engine_head")
    assert found["head_float32_residual_model"] < found["head_model_residual_model"]


@pytest.mark.parametrize("name", ["update_1_7b", "update_3b"])
def test_an_update_of_a_real_shape_fits_the_card(step, name):
    found = step(name)
    assert max(found[form]["peak_gb"] for form in found if isinstance(found[form], dict)) < 80


def test_a_runner_reads_the_weights_of_a_learner_on_its_gpu_without_a_copy(step):
    found = step("sampling_3b")
    assert found["shared_is_copied"]
    assert found["shared_again_s"] < 1.0 and found["one_process_sync_again_s"] < 1.0


def test_a_sharded_learner_is_trained_as_a_whole_one(step):
    found = step("sharded")
    for name in ("GRPO", "StepOPSD", "OPID"):
        assert found[f"{name} float32"]["difference"] < 1e-5
