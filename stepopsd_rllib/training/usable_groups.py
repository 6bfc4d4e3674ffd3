"""Which sampled groups an update may use, and whether they are enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from stepopsd_rllib.episodes import EpisodeSummary
from stepopsd_rllib.objectives.advantages import is_informative
from stepopsd_rllib.training.runner_calls import RolloutError
from stepopsd_rllib.training.sampled_group import Groups

if TYPE_CHECKING:
    from stepopsd_rllib.training.agent_config import AgentConfig


def is_flat(group: Sequence[EpisodeSummary]) -> bool:
    """Whether all returns of a group are equal, so that none of its tokens has an advantage."""
    returns_N = torch.tensor([episode.return_ for episode in group], dtype=torch.float64)
    return not is_informative(returns_N, torch.zeros(len(group), dtype=torch.int64)).any()


def enough_groups(
    groups: Groups,
    episodes: Sequence[EpisodeSummary],
    *,
    counts: Mapping[str, int],
    config: AgentConfig,
) -> Groups:
    """The first groups, as many as divide over the learners: every one needs as many, uncut.

    Args:
        groups: Usable groups, by number.
        episodes: All that were played, for their errors.
        counts: Groups that were left out, by reason.
        config: Gives groups a step, learners and the smallest fraction.

    Raises:
        RolloutError: Fewer are left than the config asks for.
    """
    num_learners = max(1, config.num_learners or 0)
    needed = max(num_learners, math.ceil(config.min_groups_fraction * config.groups_per_step))
    if len(groups) < needed:
        errors = sorted({f"{e.status}: {e.error}" for e in episodes if e.error})[:3]
        raise RolloutError(
            f"{len(groups)} of {config.groups_per_step} groups are usable, "
            f"config.min_groups_fraction={config.min_groups_fraction} needs {needed} "
            f"({dict(counts)}). First errors: {errors or 'none'}."
        )
    kept = list(groups)[: len(groups) - len(groups) % num_learners]
    return {number: groups[number] for number in kept}
