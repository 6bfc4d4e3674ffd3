"""Methods that score on shared histories go on after the first update with checkpointing on."""

from __future__ import annotations

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib.episodes import to_rllib
from tests.helpers.agents import build_learner, weights_of
from tests.helpers.methods import ACTIVE, method_config, method_groups

LIVE = {"StepOPSD": {"teacher": "live"}}  # a snapshot is never in training mode


def trained(name: str, *, checkpointing: bool):
    """Weights after two updates, and the tokens that the teacher forwarded in each."""
    config = method_config(name, ACTIVE[name] | LIVE.get(name, {}), "append")
    config.agent(gradient_checkpointing=checkpointing, max_sampler_difference=None)
    learner = build_learner(config)
    forwarded = []
    for version in (0, 1):
        groups = method_groups("append", version=version)
        episodes = [to_rllib(episode) for group in groups for episode in group]
        metrics = learner.update(episodes=episodes, timesteps={})[DEFAULT_MODULE_ID]
        forwarded.append(metrics["teacher_tokens_forwarded"].peek())
    return weights_of(learner), forwarded


@pytest.mark.parametrize("name", ["StepOPSD", "OPID", "UCOB"])
def test_two_updates_with_checkpointing_are_those_without(name):
    expected_weights, expected_forwarded = trained(name, checkpointing=False)
    weights, forwarded = trained(name, checkpointing=True)
    assert forwarded == expected_forwarded
    assert forwarded[1] > 0
    assert all(torch.equal(weights[key], value) for key, value in expected_weights.items())
