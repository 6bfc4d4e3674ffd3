"""Sharded learners (FSDP2) against whole ones (DDP), as processes with a gloo group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib.algorithms.grpo import GRPOConfig
from stepopsd_rllib.episodes import AgentEpisode, to_rllib
from stepopsd_rllib.models.sharding import whole
from stepopsd_rllib.training.learner import TokenLearner
from tests.helpers.agents import build_learner, largest_difference
from tests.helpers.learner_processes import in_processes
from tests.helpers.methods import ACTIVE, method_config, method_groups

# With its default epsilon Adam divides the rounding noise of a near-zero gradient by itself.
OF_TWO = {"num_learners": 2, "max_sampler_difference": None, "adam_eps": 1e-6}
# The learners' shares are unequal: with so few tokens a pass, so are the numbers of their passes.
SMALL_PASSES = {"micro_batch_tokens": 40, "gradient_checkpointing": True}
TOLERANCE = 1e-5


def updated(learner: TokenLearner, groups: list[list[AgentEpisode]]) -> dict[str, Any]:
    """Trains on some groups; the metrics that are numbers."""
    episodes = [to_rllib(episode) for group in groups for episode in group]
    metrics = learner.update(episodes=episodes, timesteps={})[DEFAULT_MODULE_ID]
    values = {name: getattr(value, "peek", lambda: None)() for name, value in metrics.items()}
    return {n: float(v) for n, v in values.items() if isinstance(v, float | int | torch.Tensor)}


def arrays(learner: TokenLearner) -> dict[str, np.ndarray]:
    """The policy's whole weights."""
    return {n: whole(w).detach().numpy().copy() for n, w in learner.whole_weights().items()}


def trained(
    rank: int, config: GRPOConfig, updates: range
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Metrics of updates in which each learner has a group, and the weights before and after."""
    learner = build_learner(config)
    before = arrays(learner)
    seen = []
    for version in updates:
        seen.append(updated(learner, [method_groups(config.context, version=version)[rank]]))
    return seen, before, arrays(learner)


def both_ways(rank: int, config: GRPOConfig, updates: range) -> Any:
    return [
        trained(rank, config.copy(copy_frozen=False).update_from_dict({"sharding": kind}), updates)
        for kind in ("off", "fsdp2")
    ]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("GRPO", {"kl_coeff": 0.1}),
        ("StepOPSD", {"hindsight_position": "suffix", "teacher_refresh_interval": 2}),
        ("StepOPSD", {"hindsight_position": "prefix", "score_all": True}),
        ("SDAR", {}),
        ("OPID", {}),
        ("UCOB", {}),
    ],
    ids=["GRPO", "StepOPSD-suffix", "StepOPSD-prefix", "SDAR", "OPID", "UCOB"],
)
def test_five_updates_of_sharded_learners_are_those_of_whole_ones(name, keys):
    config = method_config(name, ACTIVE.get(name, {}) | OF_TWO | SMALL_PASSES | keys, "append")
    for learner in in_processes(2, both_ways, config, range(5)):
        (whole_metrics, before, expected), (metrics, _, actual) = learner
        assert largest_difference(before, expected) > 1e-4
        assert largest_difference(expected, actual) < TOLERANCE
        for of_whole, of_sharded in zip(whole_metrics, metrics, strict=True):
            assert of_sharded == pytest.approx(of_whole, rel=1e-4, abs=TOLERANCE, nan_ok=True)
