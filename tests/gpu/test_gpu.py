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


@pytest.fixture
def step(tmp_path: Path):
    def run(name: str) -> dict[str, Any]:
        found = run_step(name, "cuda", tmp_path)
        assert "failed" not in found, (tmp_path / f"{name}.log").read_text()[-3000:]
        return found

    return run


@pytest.mark.parametrize(("name", "limit"), [("engine_float32", 1e-4), ("engine_bfloat16", 0.1)])
def test_the_engine_gives_the_models_log_probs_before_and_after_reloads(step, name, limit):
    found = step(name)
    for when in ("first", "after_reload_1", "after_reload_2"):
        assert found[when]["mean"] < limit


@pytest.mark.parametrize("name", ["grpo_one_process", "stepopsd_two_actors", "opid_lora"])
def test_a_method_trains_and_restores_with_engine_and_learner_on_one_gpu(step, name):
    assert step(name)["difference"] < 0.1


def test_float32_heads_bring_learner_and_engine_nearer(step):
    found = step("engine_head")
    assert found["float32"] < found["model"]


@pytest.mark.parametrize("name", ["update_1_7b", "update_3b"])
def test_an_update_of_a_real_shape_fits_the_card(step, name):
    assert step(name)["peak_gb"] < 80
