"""What was sampled for one update: its groups, and what there is to say of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from stepopsd_rllib.episodes import EpisodeSummary
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from stepopsd_rllib.training.group_sampling import Sampled
from stepopsd_rllib.training.sampled_group import Groups, lost
from stepopsd_rllib.training.usable_groups import is_flat

COUNTS = ("groups_lost", "groups_given_up", "groups_broken", "groups_without_signal")


@dataclass(kw_only=True, slots=True)
class StepBatch:
    """Groups of an update, as they come in.

    Attributes:
        groups: Usable groups by number.
        requests: What was asked for, by the numbers of all groups.
        episodes: Summaries of all episodes that were played.
        counts: Groups that were left out, by reason, and groups that were lost and sampled again.
        metrics: What callbacks logged on the runners.
        seconds: How long it took.
    """

    groups: Groups = field(default_factory=dict)
    requests: dict[int, list[EpisodeRequest]] = field(default_factory=dict)
    episodes: list[EpisodeSummary] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    metrics: list[Any] = field(default_factory=list)
    seconds: float = 0.0

    def add(
        self, asked: dict[int, list[EpisodeRequest]], sampled: Sampled, *, drops_flat: bool
    ) -> None:
        """Takes in what came of some requests; what is broken is left out and counted.

        Args:
            asked: The requests.
            sampled: The groups.
            drops_flat: Whether groups without signal are left out, too.
        """
        self.requests |= asked
        self.metrics += sampled.metrics
        self.counts["groups_lost"] += sampled.num_lost
        self.counts["groups_given_up"] += len(sampled.given_up)
        for number, group in sampled.groups.items():
            self.episodes += group.summaries
            if len(group.trainable) < 2:
                self.counts["groups_broken"] += 1
            elif drops_flat and is_flat(group.trainable):
                self.counts["groups_without_signal"] += 1
            else:
                self.groups[number] = group

    def lost(self) -> dict[int, list[EpisodeRequest]]:
        """Requests of groups whose machine is gone, with their episodes."""
        return {number: self.requests[number] for number in lost(self.groups)}

    def drop(self, numbers: Sequence[int]) -> None:
        """Forgets groups that were lost after they were played, and counts them."""
        for number in numbers:
            del self.groups[number]
        self.episodes = [e for e in self.episodes if e.group not in set(numbers)]
        self.counts["groups_lost"] += len(numbers)

    def fetched(self) -> Self:
        """The same with all episodes in this process, for a checkpoint."""
        groups = {number: group.fetched() for number, group in self.groups.items()}
        return replace(self, groups=groups)
