"""Sharded learners (FSDP2) beside whole ones (DDP), trained on the same recorded episodes."""

from __future__ import annotations

from dataclasses import replace
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
    return {n: whole(w).detach().cpu().numpy().copy() for n, w in learner.whole_weights().items()}


def lost(group: list[AgentEpisode]) -> list[AgentEpisode]:
    """The group as if no episode had been won."""
    return [
        replace(e, won=False, turns=tuple(replace(turn, reward=0.0) for turn in e.turns))
        for e in group
    ]


def trained(
    rank: int, config: GRPOConfig, updates: range, is_lost: bool
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Metrics of updates in which each learner has a group, and the weights before and after."""
    learner = build_learner(config)
    before = arrays(learner)
    seen = []
    for version in updates:
        group = method_groups(config.context, version=version)[rank]
        seen.append(updated(learner, [lost(group) if is_lost and rank else group]))
    return seen, before, arrays(learner)


def both_ways(rank: int, config: GRPOConfig, updates: range, is_lost: bool) -> Any:
    """`trained` as one of two whole learners, then as one of two sharded ones."""
    kinds = [
        config.copy(copy_frozen=False).update_from_dict({"sharding": kind})
        for kind in ("off", "fsdp2")
    ]
    return [trained(rank, kind, updates, is_lost) for kind in kinds]


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "GRPO": ("GRPO", {"kl_coeff": 0.1}),
    "StepOPSD-suffix": (
        "StepOPSD",
        {"hindsight_position": "suffix", "teacher_refresh_interval": 2, "kl_coeff": 0.1},
    ),
    "StepOPSD-prefix": ("StepOPSD", {"hindsight_position": "prefix", "score_all": True}),
    "SDAR": ("SDAR", {}),
    "OPID": ("OPID", {}),
    "UCOB": ("UCOB", {}),
}


def same_training(
    name: str,
    keys: dict[str, Any],
    *,
    updates: int,
    is_lost: bool = False,
    tolerance: float = TOLERANCE,
) -> float:
    """Asserts that two sharded learners are trained as two whole ones are.

    Args:
        name: Of the method.
        keys: Beside those with which it acts.
        updates: How many.
        is_lost: Whether the second learner has no success, and so nothing to be taught.
        tolerance: Largest difference of a weight; relative ones of metrics are ten times as large.

    Returns:
        The largest difference of a weight.
    """
    config = method_config(name, ACTIVE.get(name, {}) | keys, "append")
    differences = []
    for of_learner in in_processes(2, both_ways, config, range(updates), is_lost):
        (expected_metrics, before, expected), (metrics, _, actual) = of_learner
        assert largest_difference(before, expected) > 1e-4
        differences.append(largest_difference(expected, actual))
        assert differences[-1] < tolerance
        for of_whole, of_sharded in zip(expected_metrics, metrics, strict=True):
            near = pytest.approx(of_whole, rel=10 * tolerance, abs=tolerance, nan_ok=True)
            assert of_sharded == near
    return max(differences)
