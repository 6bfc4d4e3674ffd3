"""Log-probs of each turn's response with a hindsight skill in the turn's prompt (OPID)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.connectors.columns import (
    EPISODE_SKILL_LOG_PROBS,
    HAS_EPISODE_SKILL,
    HAS_STEP_SKILL,
    INPUT_IDS,
    LENGTHS,
    OLD_LOG_PROBS,
    PLAIN_LOG_PROBS,
    RESPONSE_MASK,
    STEP_SKILL_LOG_PROBS,
)
from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.objectives.opid import SkillRoute
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.scoring.scored_sequences import NOT_SCORED, BranchedSequence, ScoredSequence
from stepopsd_rllib.scoring.scorer import Scorer
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeSkills

Columns = dict[str, Tensor]
Sequences = list[ScoredSequence | BranchedSequence]
Route = Callable[[str], SkillRoute]
Insert = Callable[..., str]


class SkillLogProbs(LearnerConnector):
    """Writes the log-probs under both kinds of skills, and the policy's own before the update.

    `episode_skill_log_probs`, `step_skill_log_probs`, `plain_log_probs`, float32 [B, T], and
    `has_episode_skill`, `has_step_skill`, bool [B, T]: which tokens were scored. Requires
    `shared_data[EPISODE_SKILLS]`. The old policy scores. Each skill stands in its turn's user
    message; with a growing chat the episode's skill stands in the first message, where the task is,
    and a step's in the message that the step answers.
    """

    def __init__(
        self, *, route: Route, chat: ChatFormat, insert: Insert, max_tokens: int, **kwargs: Any
    ):
        """Keeps the arguments.

        Args:
            route: Which skills a turn is scored under, from its step skill.
            chat: The chat format.
            insert: Puts `episode_skill` or `step_skill` into a user message.
            max_tokens: Token budget of a pass.
            kwargs: Keywords of RLlib's connectors.
        """
        super().__init__(**kwargs)
        self.route = route
        self.chat = chat
        self.insert = insert
        self.max_tokens = max_tokens

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Builds the skill prompts and scores them."""
        columns = batch.columns
        scorer = Scorer(batch.module, "policy", max_tokens=self.max_tokens)
        episode_skill, step_skill = self._sequences(batch)
        shape, size = columns[INPUT_IDS].shape, columns[INPUT_IDS].numel()
        episode = scorer.score(episode_skill, num_tokens=size)
        # The second half is the policy's own, on the histories that step skills branch off.
        step = scorer.score(step_skill, num_tokens=2 * size)
        columns[EPISODE_SKILL_LOG_PROBS] = episode.log_probs.view(shape)
        columns[HAS_EPISODE_SKILL] = _marked(episode_skill, size).view(shape)
        step_P, plain_P = step.log_probs.split(size)
        has_step_P, is_known_P = _marked(step_skill, 2 * size).split(size)
        columns[STEP_SKILL_LOG_PROBS] = step_P.view(shape)
        columns[HAS_STEP_SKILL] = has_step_P.view(shape)
        columns[PLAIN_LOG_PROBS] = self._plain(
            scorer, columns, plain_P.view(shape), is_known_P.view(shape).any(dim=1)
        )
        self._log(batch, episode.num_forwarded + step.num_forwarded)

    def _sequences(self, batch: LearnerBatch) -> tuple[Sequences, Sequences]:
        """What is read with the episode's skill, and with a step's skill."""
        episode_skill: Sequences = []
        step_skill: Sequences = []
        first_row = 0
        for episode, skills in zip(batch.episodes, batch.shared[EPISODE_SKILLS], strict=True):
            if skills is not None:
                view = _EpisodeRows(batch.columns, episode, first_row, self.chat, self.insert)
                routes = [self.route(skills.step_skills.get(k, "")) for k in view.turns]
                episode_skill += view.with_episode_skill(skills, routes)
                step_skill += view.with_step_skills(skills, routes)
            first_row += 1 if episode.context == "append" else len(episode.turns)
        return episode_skill, step_skill

    def _plain(
        self, scorer: Scorer, columns: Columns, plain_BT: Tensor, is_known_B: Tensor
    ) -> Tensor:
        """The policy's log-probs before the update, on rows with a skill.

        Rows whose history was forwarded for their step skills are known from that pass.
        """
        if OLD_LOG_PROBS in columns:
            return columns[OLD_LOG_PROBS]
        has_skill_B = (columns[HAS_EPISODE_SKILL] | columns[HAS_STEP_SKILL]).any(dim=1)
        rows = (has_skill_B & ~is_known_B).nonzero()[:, 0]
        if len(rows):
            names = (INPUT_IDS, LENGTHS, RESPONSE_MASK)
            plain_BT[rows] = scorer.score_rows({name: columns[name][rows] for name in names})
        return plain_BT

    def _log(self, batch: LearnerBatch, num_forwarded: int) -> None:
        batch.log({"teacher_tokens_forwarded": num_forwarded})
        for kind, log_probs, has_skill in (
            ("episode", EPISODE_SKILL_LOG_PROBS, HAS_EPISODE_SKILL),
            ("step", STEP_SKILL_LOG_PROBS, HAS_STEP_SKILL),
        ):
            scored_P = batch.columns[log_probs][batch.columns[has_skill]]
            mean = float(scored_P.mean()) if len(scored_P) else 0.0
            batch.log({f"{kind}_skill_log_prob_mean": mean})


class _EpisodeRows:
    """The token rows of one episode, and where its turns stand in them."""

    def __init__(
        self,
        columns: Columns,
        episode: AgentEpisode,
        first_row: int,
        chat: ChatFormat,
        insert: Insert,
    ):
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
        return range(len(self._episode.turns))

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

    def with_step_skills(self, skills: EpisodeSkills, routes: list[SkillRoute]) -> Sequences:
        """One prompt a turn that has a skill; in a growing chat on the shared history.

        The history's own targets lie in the second half of the result, behind a place for every
        token of the batch.
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


def _marked(sequences: Sequences, num_places: int) -> Tensor:
    """Bool [P], True where some target points."""
    marked_P = torch.zeros(num_places, dtype=torch.bool)
    for sequence in sequences:
        for target in sequence.targets():
            marked_P[torch.from_numpy(target[target != NOT_SCORED])] = True
    return marked_P
