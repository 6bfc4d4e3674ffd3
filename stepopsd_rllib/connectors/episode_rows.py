"""An episode's token rows with text put into the prompts of its turns, for a teacher to score."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from stepopsd_rllib.connectors.columns import INPUT_IDS, RESPONSE_MASK
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.objectives.opid import SkillRoute
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.scoring.scored_sequences import NOT_SCORED, BranchedSequence, ScoredSequence
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeSkills

Columns = dict[str, Tensor]
Sequences = list[ScoredSequence | BranchedSequence]
Insert = Callable[..., str]


class EpisodeRows:
    """The token rows of one episode, and where its turns stand in them."""

    def __init__(
        self,
        columns: Columns,
        episode: AgentEpisode,
        first_row: int,
        chat: ChatFormat,
        insert: Insert,
    ):
        """Finds the turns in the rows.

        Args:
            columns: `input_ids` and `response_mask`, [B, T].
            episode: The episode.
            first_row: First row of the episode.
            chat: The chat format.
            insert: Puts `episode_skill` or `step_skill` into a user message.
        """
        self._num_places, self._width = columns[INPUT_IDS].numel(), columns[INPUT_IDS].shape[1]
        self._episode = episode
        self._row = first_row
        self._chat = chat
        self._insert = insert
        self._grows = episode.context == "append"
        self._starts: list[int] = []
        end = 0
        for turn in episode.turns:
            self._starts.append(end if self._grows else 0)
            end += len(turn.prompt_ids) + len(turn.response_ids)
        self._ids = columns[INPUT_IDS][first_row, :end].numpy()
        self._is_sampled = columns[RESPONSE_MASK][first_row, :end].numpy()

    @property
    def turns(self) -> range:
        """The turns of the episode, by number."""
        return range(len(self._episode.turns))

    def has_token(self, k: int, is_marked_BT: Tensor) -> bool:
        """Whether a token of a turn's response is marked."""
        turn = self._episode.turns[k]
        start = self._starts[k] + len(turn.prompt_ids)
        row = self._row if self._grows else self._row + k
        return bool(is_marked_BT[row, start : start + len(turn.response_ids)].any())

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
        a place for every token of the batch.
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
        if not scores_history:
            return [*alone, BranchedSequence(history=self._ids, branches=branches)]
        own = self._num_places + self._row * self._width + np.arange(len(self._ids))
        own[~self._is_sampled] = NOT_SCORED
        return [*alone, BranchedSequence(history=self._ids, branches=branches, target=own)]

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
        start = self._starts[k] + len(turn.prompt_ids)
        row = self._row if self._grows else self._row + k
        target = row * self._width + start + np.arange(len(turn.response_ids))
        if route is not None and not route.episode_skill:
            target = np.full(len(target), NOT_SCORED)
        return ScoredSequence(
            ids=np.concatenate((prompt_ids, turn.response_ids)).astype(np.int64),
            target=np.concatenate((np.full(len(prompt_ids), NOT_SCORED), target)),
        )


def marked(sequences: Sequences, num_places: int) -> Tensor:
    """Bool [P], True where some target points."""
    marked_P = torch.zeros(num_places, dtype=torch.bool)
    for sequence in sequences:
        for target in sequence.targets():
            marked_P[torch.from_numpy(target[target != NOT_SCORED])] = True
    return marked_P
