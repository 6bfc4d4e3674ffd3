"""Compiled decoder layers and a rounded residual stream: what they change, and what they do not."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch

from tests.helpers.agents import (
    build_learner,
    largest_difference,
    random_groups,
    small_config,
    weights_of,
)
from tests.helpers.agents import update as one_update

GROUPS = random_groups((3, 2), seed=3)


def updated(**agent):
    learner = build_learner(
        small_config(share_prefixes="off", max_sampler_difference=None, **agent)
    )
    metrics = one_update(learner, GROUPS)
    return weights_of(learner), metrics


@pytest.mark.e2e  # compiling takes a minute or two
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_compiled_layers_take_the_step_of_eager_ones(local_ray):
    eager, eager_metrics = updated(gradient_checkpointing=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own modules while they compile
        compiled, metrics = updated(gradient_checkpointing=True, compile_layers=True)
    assert metrics["total_loss"] == pytest.approx(eager_metrics["total_loss"], abs=1e-5)
    assert metrics["gradient_norm"] == pytest.approx(eager_metrics["gradient_norm"], rel=1e-3)
    assert largest_difference(compiled, eager) < 1e-4


def test_a_rounded_residual_stream_leaves_a_float32_learner_alone(local_ray):
    one, _ = updated()
    other, _ = updated(residual_dtype="model")
    assert largest_difference(one, other) == 0.0


def test_a_rounded_residual_stream_is_bfloat16_between_the_layers(local_ray):
    config = small_config(autocast_dtype="bfloat16", residual_dtype="model")
    module = build_learner(config).language_module
    seen = []
    layer = module.language_model.base_model.layers[1]
    layer.register_forward_pre_hook(lambda _, parts: seen.append(parts[0].dtype))
    with torch.no_grad(), module.autocast():
        module.language_model.base_model(input_ids=torch.arange(5)[None])
    assert seen == [torch.bfloat16]
