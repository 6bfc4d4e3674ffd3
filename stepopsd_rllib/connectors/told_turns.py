"""A teacher that reads a text in each turn's own prompt: what SERL and SEED share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    BEHAVIOUR_LOG_PROBS,
    IS_SCORED,
    LOG_PROB_GAP,
    STEP_INDEX,
    TEACHER_LOG_PROBS,
)
from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from stepopsd_rllib.connectors.episode_rows import EpisodeRows, Insert, Sequences, marked
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.connectors.teacher_gap import policy_log_probs
from stepopsd_rllib.models.causal_lm import View
from stepopsd_rllib.objectives.opid import SkillRoute
from stepopsd_rllib.objectives.stepopsd import log_prob_gap
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.scoring.scorer import Scorer

Told = Literal["episode", "turns"]


class ToldTurns(LearnerConnector):
    """Writes `teacher_log_probs`, float32 [R], and `is_scored`, bool [R].

    Requires `shared_data[EPISODE_SKILLS]`. With `told="episode"` the text is the episode's skill,
    in every prompt of its turns, or in the first message of a growing chat; with "turns" it is each
    turn's own step skill, in the turn's message. The response's tokens are scored behind it.

    For methods that shape advantages by the gap (`shapes`) it also writes `log_prob_gap`, 0 where
    not scored; requires `advantages` and `step_index`, and forwards only turns with a token of both
    a span and an advantage. `effect(update)` 0 forwards nothing.
    """

    def __init__(
        self,
        *,
        told: Told,
        chat: ChatFormat,
        insert: Insert,
        view: View,
        effect: Callable[[int], float],
        shapes: bool,
        max_tokens: int,
        **kwargs: Any,
    ):
        """Keeps the settings.

        Args:
            told: What the teacher reads.
            chat: The chat format.
            insert: Puts `episode_skill` or `step_skill` into a user message.
            view: Whose weights judge: "policy" or "teacher".
            effect: Weight of the teacher in an update.
            shapes: Whether the gap is wanted.
            max_tokens: Token budget of a pass.
            kwargs: Keywords of RLlib's connectors.
        """
        super().__init__(**kwargs)
        self.told: Told = told
        self.chat = chat
        self.insert = insert
        self.view: View = view
        self.effect = effect
        self.shapes = shapes
        self.max_tokens = max_tokens

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Builds the teacher's prompts and scores the responses behind them."""
        columns, module = batch.columns, batch.module
        size = len(columns[BEHAVIOUR_LOG_PROBS])
        sequences = self._sequences(batch) if self.effect(batch.update) > 0 else []
        scores = Scorer(module, self.view, max_tokens=self.max_tokens).score(
            sequences, num_tokens=size
        )
        is_scored_R = marked(sequences, size)
        columns[IS_SCORED] = is_scored_R
        columns[TEACHER_LOG_PROBS] = torch.where(is_scored_R, scores.log_probs, 0.0)
        counts: dict[str, float] = {"teacher_tokens_forwarded": scores.num_forwarded}
        if self.shapes:
            policy_R, counts["student_tokens_forwarded"] = policy_log_probs(
                columns, module, is_scored_R, max_tokens=self.max_tokens
            )
            columns[LOG_PROB_GAP] = log_prob_gap(scores.log_probs, policy_R, is_scored_R)
        batch.log(counts)

    def _sequences(self, batch: LearnerBatch) -> Sequences:
        columns = batch.columns
        matters_R: Tensor | None = None
        if self.shapes:
            matters_R = (columns[ADVANTAGES] != 0) & (columns[STEP_INDEX] >= 0)
        sequences: Sequences = []
        first, num_sampled = 0, len(batch.columns[BEHAVIOUR_LOG_PROBS])
        for episode, skills in zip(batch.episodes, batch.shared[EPISODE_SKILLS], strict=True):
            if skills is not None:
                view = EpisodeRows(episode, first, num_sampled, self.chat, self.insert)
                if self.told == "episode":
                    routes = [SkillRoute(episode_skill=True, step_skill=False) for _ in view.turns]
                    sequences += view.with_episode_skill(skills, routes)
                else:
                    routes = [
                        SkillRoute(
                            episode_skill=False,
                            step_skill=k in skills.step_skills
                            and (matters_R is None or view.has_token(k, matters_R)),
                        )
                        for k in view.turns
                    ]
                    sequences += view.with_step_skills(skills, routes, scores_history=False)
            first += episode.num_response_tokens
        return sequences
