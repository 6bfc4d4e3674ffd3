"""Log-probs of each turn's response with a hindsight skill in the turn's prompt (OPID)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.connectors.columns import (
    BEHAVIOUR_LOG_PROBS,
    EPISODE_SKILL_LOG_PROBS,
    HAS_EPISODE_SKILL,
    HAS_STEP_SKILL,
    OLD_LOG_PROBS,
    PLAIN_LOG_PROBS,
    STEP_SKILL_LOG_PROBS,
)
from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from stepopsd_rllib.connectors.episode_rows import EpisodeRows, Insert, Sequences, marked
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.episodes import RowLayout
from stepopsd_rllib.objectives.opid import SkillRoute
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.scoring.scorer import Scorer

Route = Callable[[str], SkillRoute]


class SkillLogProbs(LearnerConnector):
    """Writes the log-probs under both kinds of skills, and the policy's own before the update.

    `episode_skill_log_probs`, `step_skill_log_probs`, `plain_log_probs`, float32 [R], and
    `has_episode_skill`, `has_step_skill`, bool [R]: which tokens were scored. Requires
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
        size = len(columns[BEHAVIOUR_LOG_PROBS])
        episode = scorer.score(episode_skill, num_tokens=size)
        # The second half is the policy's own, on the histories that step skills branch off.
        step = scorer.score(step_skill, num_tokens=2 * size)
        columns[EPISODE_SKILL_LOG_PROBS] = episode.log_probs
        columns[HAS_EPISODE_SKILL] = marked(episode_skill, size)
        step_R, plain_R = step.log_probs.split(size)
        has_step_R, is_known_R = marked(step_skill, 2 * size).split(size)
        columns[STEP_SKILL_LOG_PROBS] = step_R.clone()
        columns[HAS_STEP_SKILL] = has_step_R
        columns[PLAIN_LOG_PROBS] = self._plain(scorer, columns, plain_R, is_known_R)
        self._log(batch, episode.num_forwarded + step.num_forwarded)

    def _sequences(self, batch: LearnerBatch) -> tuple[Sequences, Sequences]:
        """What is read with the episode's skill, and with a step's skill."""
        episode_skill: Sequences = []
        step_skill: Sequences = []
        first, num_sampled = 0, len(batch.columns[BEHAVIOUR_LOG_PROBS])
        for episode, skills in zip(batch.episodes, batch.shared[EPISODE_SKILLS], strict=True):
            if skills is not None:
                view = EpisodeRows(episode, first, num_sampled, self.chat, self.insert)
                routes = [self.route(skills.step_skills.get(k, "")) for k in view.turns]
                episode_skill += view.with_episode_skill(skills, routes)
                step_skill += view.with_step_skills(skills, routes)
            first += episode.num_response_tokens
        return episode_skill, step_skill

    def _plain(
        self, scorer: Scorer, columns: dict[str, Tensor], plain_R: Tensor, is_known_R: Tensor
    ) -> Tensor:
        """The policy's log-probs before the update, on rows with a skill.

        Rows whose history was forwarded for their step skills are known from that pass.
        """
        if OLD_LOG_PROBS in columns:
            return columns[OLD_LOG_PROBS]
        layout = RowLayout.of(columns)
        has_skill_B = layout.any(columns[HAS_EPISODE_SKILL] | columns[HAS_STEP_SKILL])
        missing_R = (has_skill_B & ~layout.any(is_known_R))[layout.row_R]
        found_R, _ = scorer.score_some(columns, missing_R)
        return torch.where(missing_R, found_R, plain_R)

    def _log(self, batch: LearnerBatch, num_forwarded: int) -> None:
        batch.log({"teacher_tokens_forwarded": num_forwarded})
        for kind, log_probs, has_skill in (
            ("episode", EPISODE_SKILL_LOG_PROBS, HAS_EPISODE_SKILL),
            ("step", STEP_SKILL_LOG_PROBS, HAS_STEP_SKILL),
        ):
            scored_P = batch.columns[log_probs][batch.columns[has_skill]]
            mean = float(scored_P.mean()) if len(scored_P) else 0.0
            batch.log({f"{kind}_skill_log_prob_mean": mean})
