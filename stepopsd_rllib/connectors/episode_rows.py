"""An episode's token rows with text put into the prompts of its turns, for a teacher to score."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.objectives.opid import SkillRoute
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.scoring.scored_sequences import NOT_SCORED, BranchedSequence, ScoredSequence
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeSkills

Sequences = list[ScoredSequence | BranchedSequence]
Insert = Callable[..., str]


class EpisodeRows:
    """The token rows of an episode, and the places of its tokens among those of the batch."""

    def __init__(
        self,
        episode: AgentEpisode,
        first: int,
        num_sampled: int,
        chat: ChatFormat,
        insert: Insert,
    ):
        """Finds the turns.

        Args:
            episode: The episode.
            first: Place of its first sampled token among those of the batch.
            num_sampled: Sampled tokens of the batch, R.
            chat: The chat format.
            insert: Puts `episode_skill` or `step_skill` into a user message.
        """
        self._num_sampled = num_sampled
        self._episode = episode
        self._chat = chat
        self._insert = insert
        self._grows = episode.context == "append"
        self._starts: list[int] = []  # of the turns in their rows
        self._first: list[int] = []  # sampled token of each turn, among those of the batch
        end = 0
        for turn in episode.turns:
            self._starts.append(end if self._grows else 0)
            self._first.append(first)
            end += len(turn.prompt_ids) + len(turn.response_ids)
            first += len(turn.response_ids)

    @property
    def turns(self) -> range:
        """The turns of the episode, by number."""
        return range(len(self._episode.turns))

    def has_token(self, k: int, is_marked_R: Tensor) -> bool:
        """Whether a token of a turn's response is marked."""
        return bool(is_marked_R[torch.from_numpy(self._targets(k))].any())

    def with_episode_skill(
        self, skills: EpisodeSkills, routes: list[SkillRoute]
    ) -> Iterator[ScoredSequence]:
        """A whole growing chat with the skill in its first message, or one prompt a turn."""
        routed = [k for k in self.turns if routes[k].episode_skill]
        if not self._grows:
            yield from (self._turn(k, {"episode_skill": skills.episode_skill}) for k in routed)
        elif routed:
            parts = [self._turn(0, {"episode_skill": skills.episode_skill}, routes[0])]
            parts += [self._turn(k, {}, routes[k]) for k in self.turns[1 : routed[-1] + 1]]
            yield ScoredSequence(
                ids=np.concatenate([part.ids for part in parts]),
                target=np.concatenate([part.target for part in parts]),
            )

    def with_step_skills(
        self, skills: EpisodeSkills, routes: list[SkillRoute], *, scores_history: bool = True
    ) -> Sequences:
        """One prompt a turn that has a skill; in a growing chat on the shared history.

        With `scores_history` the history's own targets lie in the second half of the result, behind
        a place for every sampled token of the batch.
        """
        changed = {
            k: self._turn(k, {"step_skill": skills.step_skills[k]})
            for k in self.turns
            if routes[k].step_skill
        }
        if not self._grows:
            return list(changed.values())
        alone: Sequences = [changed.pop(0)] if 0 in changed else []
        branches = tuple((self._starts[k], sequence) for k, sequence in changed.items())
        if not branches:
            return alone
        own = [self._turn(k, {}) for k in self.turns]
        history = np.concatenate([turn.ids for turn in own])
        if not scores_history:
            return [*alone, BranchedSequence(history=history, branches=branches)]
        target = np.concatenate([turn.target for turn in own])
        target[target != NOT_SCORED] += self._num_sampled
        return [*alone, BranchedSequence(history=history, branches=branches, target=target)]

    def _turn(
        self, k: int, skill: dict[str, str], route: SkillRoute | None = None
    ) -> ScoredSequence:
        """Prompt and response of a turn; a route without the episode skill leaves it unscored."""
        turn = self._episode.turns[k]
        prompt_ids = turn.prompt_ids
        if skill:
            changed = self._chat.with_changed_message(
                prompt_ids.tolist(), lambda message: self._insert(message, **skill)
            )
            prompt_ids = np.asarray(changed)
        target = self._targets(k)
        if route is not None and not route.episode_skill:
            target = np.full(len(target), NOT_SCORED)
        return ScoredSequence(
            ids=np.concatenate((prompt_ids, turn.response_ids)).astype(np.int64),
            target=np.concatenate((np.full(len(prompt_ids), NOT_SCORED), target)),
        )

    def _targets(self, k: int) -> np.ndarray:
        """Where the sampled tokens of a turn stand among those of the batch."""
        return self._first[k] + np.arange(len(self._episode.turns[k].response_ids))


def marked(sequences: Sequences, num_places: int) -> Tensor:
    """Bool [P], True where some target points."""
    marked_P = torch.zeros(num_places, dtype=torch.bool)
    for sequence in sequences:
        for target in sequence.targets():
            marked_P[torch.from_numpy(target[target != NOT_SCORED])] = True
    return marked_P
