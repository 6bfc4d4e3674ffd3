"""Groups of episodes as the driver knows them: summaries, and where the episodes are.

A group travels once, from the runner that played it to the learner that trains on it. The driver
sees summaries. The reference to the episodes is the driver's own (the result of a call to the
runner, not an object that the runner put): they lie in the store of the runner's machine, and a
runner that dies afterwards takes nothing with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import ray
from ray.exceptions import RayError
from ray.experimental import get_object_locations
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from stepopsd_rllib.episodes import EpisodeSummary, from_rllib

Episodes = list[SingleAgentEpisode]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledGroup:
    """The episodes of one task.

    Attributes:
        summaries: Of all episodes that were played, in the order of their requests.
        episodes: Those that an update may learn from: in this process, or by reference.
    """

    summaries: tuple[EpisodeSummary, ...]
    episodes: Episodes | ray.ObjectRef[Episodes]

    @classmethod
    def of(cls, episodes: Sequence[SingleAgentEpisode]) -> Self:
        """A group that was played in this process."""
        summaries = tuple(EpisodeSummary.of(from_rllib(episode)) for episode in episodes)
        pairs = zip(episodes, summaries, strict=True)
        return cls(summaries=summaries, episodes=[e for e, of_it in pairs if of_it.is_trainable])

    @property
    def trainable(self) -> list[EpisodeSummary]:
        """Summaries of the episodes that an update may learn from."""
        return [summary for summary in self.summaries if summary.is_trainable]

    @property
    def num_tokens(self) -> int:
        """Tokens of the rows that an update forwards."""
        return sum(summary.num_tokens for summary in self.trainable)

    def fetched(self) -> Self:
        """The same with its episodes in this process."""
        return self if isinstance(self.episodes, list) else replace(self, episodes=self.get())

    def get(self) -> Episodes:
        """The episodes."""
        return self.episodes if isinstance(self.episodes, list) else ray.get(self.episodes)

    def reference(self) -> ray.ObjectRef[Episodes]:
        """The episodes by reference; those of this process are put into the store."""
        return ray.put(self.episodes) if isinstance(self.episodes, list) else self.episodes


Groups = dict[int, SampledGroup]


def by_group(episodes: Iterable[SingleAgentEpisode]) -> dict[int, Episodes]:
    """Episodes by the number of their group, each group in the order of its requests."""
    groups: dict[int, Episodes] = defaultdict(list)
    for episode in episodes:
        groups[episode.custom_data["group"]].append(episode)
    return dict(groups)


def lost(groups: Mapping[int, SampledGroup]) -> list[int]:
    """Groups whose episodes are in no store any more: their machine is gone."""
    references = {
        group.episodes: number
        for number, group in groups.items()
        if not isinstance(group.episodes, list)
    }
    return [references[reference] for reference in _in_no_store(list(references))]


def _in_no_store(references: Sequence[ray.ObjectRef[Any]]) -> list[ray.ObjectRef[Any]]:
    if not references:
        return []
    found = get_object_locations(list(references))
    return [ref for ref in references if not (found[ref]["node_ids"] or found[ref]["did_spill"])]


def dealt(groups: Mapping[int, SampledGroup], num_learners: int) -> list[SampledGroup]:
    """Groups in the order in which RLlib hands them out: learner by learner, as many to each.

    The largest first, each goes to the learner with the fewest tokens that has room. One learner
    gets them in their order.

    Args:
        groups: As many as divide over the learners.
        num_learners: How many there are.
    """
    numbers = list(groups)
    room = len(numbers) // num_learners
    shares: list[list[int]] = [[] for _ in range(num_learners)]
    sizes = [0] * num_learners
    for number in sorted(numbers, key=lambda n: -groups[n].num_tokens):
        free = [i for i in range(num_learners) if len(shares[i]) < room]
        lightest = min(free, key=sizes.__getitem__)
        shares[lightest].append(number)
        sizes[lightest] += groups[number].num_tokens
    place = {number: i for i, number in enumerate(numbers)}
    return [groups[n] for share in shares for n in sorted(share, key=place.__getitem__)]


def hand_over(
    actors: Mapping[int, Any],
    played: Mapping[int, Sequence[int]],
    *,
    timeout_s: float,
    failed: Callable[[int, Exception | None], None],
) -> dict[int, Episodes | ray.ObjectRef[Episodes]]:
    """References to the groups that runners hold, once their episodes lie in the store.

    Ray sends what is small with the answer, not to the store: such a group is here already.

    Args:
        actors: Runners by number.
        played: Groups that each runner holds.
        timeout_s: Seconds to wait for the slowest runner.
        failed: Hears of a runner that did not hand its groups over: what was raised, or None where
            it did not answer.
    """
    calls: dict[ray.ObjectRef[int], tuple[int, ray.ObjectRef[Episodes]]] = {}
    for index, numbers in played.items():
        for number in numbers:
            episodes, done = actors[index].hand_over.options(num_returns=2).remote(number)
            calls[done] = index, episodes
    if not calls:
        return {}
    ready, late = ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s)
    found: dict[int, ray.ObjectRef[Episodes]] = {}
    failures: dict[int, Exception | None] = {calls[done][0]: None for done in late}
    for done in ready:
        index, episodes = calls[done]
        try:
            found[ray.get(done)] = episodes
        except RayError as error:
            failures[index] = error
    for index, error in failures.items():
        failed(index, error)
    here = set(_in_no_store(list(found.values())))
    return {number: ray.get(ref) if ref in here else ref for number, ref in found.items()}
