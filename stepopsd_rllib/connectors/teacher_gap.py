"""Log-prob gap between a teacher that knows more and the policy, on the sampled tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    BEHAVIOUR_LOG_PROBS,
    EPISODE_INDEX,
    INPUT_IDS,
    IS_SCORED,
    LOG_PROB_GAP,
    OLD_LOG_PROBS,
    STEP_INDEX,
    TAUGHT_TOKEN,
    TAUGHT_TOP_IDS,
    TAUGHT_TOP_LOG_PROBS,
    TEACHER_LOG_PROBS,
)
from stepopsd_rllib.connectors.hindsight import HINDSIGHT, Hindsight
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.connectors.teacher_contexts import TeacherRow
from stepopsd_rllib.episodes import RowLayout
from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.objectives.stepopsd import log_prob_gap
from stepopsd_rllib.scoring.scored_sequences import NOT_SCORED, BranchedSequence, ScoredSequence
from stepopsd_rllib.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

Position = Literal["suffix", "prefix"]
Columns = dict[str, Tensor]
Counts = dict[str, float]


class TeacherGap(LearnerConnector):
    """Writes `log_prob_gap`, `teacher_log_probs`, float32 [R], and `is_scored`, bool [R].

    All three are on the tokens of the spans. Requires `step_index`, `advantages` and a `Hindsight`
    for every episode. With `position="suffix"` the hindsight stands right before each span, after
    its causal prefix; with "prefix" once in front of the row. With `top_tokens` = K it also writes,
    over the P tokens that the teacher forwards, its most likely tokens, `taught_top_log_probs`
    float32 and `taught_top_ids` int64 [P, K], and `taught_token` int64 [R], the number of each
    token, -1 elsewhere.

    Not scored (gap 0) is what cannot matter: everything when `effect(update)`, the largest relative
    change of an advantage, is 0, and rows whose advantage is 0 (with `every_row`, for methods that
    act without one, only the former). `score_all` scores them too, for diagnostics. Rows without
    hindsight whose teacher is the policy itself (a live one, or a snapshot that was just taken)
    count as scored with the gap 0 that they have; the teacher does not forward them. With
    `every_row` it does, as there the teacher's log-probs themselves are what is used.
    """

    def __init__(
        self,
        *,
        position: Position,
        teacher: Literal["stale", "live"],
        student: Literal["recomputed", "rollout"],
        effect: Callable[[int], float],
        score_all: bool,
        max_tokens: int,
        every_row: bool = False,
        top_tokens: int = 0,
        **kwargs: Any,
    ):
        """Keeps the settings; `max_tokens` is the budget of one forward pass."""
        super().__init__(**kwargs)
        self.position: Position = position
        self.teacher = teacher
        self.student = student
        self.effect = effect
        self.score_all = score_all
        self.every_row = every_row
        self.top_tokens = top_tokens
        self.max_tokens = max_tokens

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Scores teacher and student, and subtracts."""
        module = batch.module
        columns = batch.columns
        hindsights: list[Hindsight] = batch.shared[HINDSIGHT]
        row_hindsights = [hindsights[n] for n in columns[EPISODE_INDEX].tolist()]
        matters_B = self._rows_that_matter(columns, batch.update)
        row_R = batch.layout.row_R
        is_scored_R = matters_B[row_R] & (columns[STEP_INDEX] >= 0)
        is_snapshot_new = module.teacher_version == batch.update - 1
        has_gap_B = self._rows_with_gap(row_hindsights, is_snapshot_new=is_snapshot_new)
        is_forwarded_R = is_scored_R & has_gap_B[row_R]
        teacher_R, counts = self._teacher_log_probs(module, columns, row_hindsights, is_forwarded_R)
        student_R, counts["student_tokens_forwarded"] = self._student_log_probs(
            module, columns, is_scored_R if self.every_row else is_forwarded_R
        )
        columns[IS_SCORED] = is_scored_R
        columns[TEACHER_LOG_PROBS] = torch.where(is_forwarded_R, teacher_R, student_R)
        columns[LOG_PROB_GAP] = log_prob_gap(teacher_R, student_R, is_forwarded_R)
        batch.log(counts)

    def _rows_that_matter(self, columns: Columns, update: int) -> Tensor:
        """Bool [B]: rows whose gap can change an advantage."""
        if self.score_all:
            return torch.ones(len(columns[EPISODE_INDEX]), dtype=torch.bool)
        can_change = self.effect(update) > 0
        has_advantage_B = RowLayout.of(columns).any(columns[ADVANTAGES] != 0)
        return (has_advantage_B | self.every_row) & can_change

    def _rows_with_gap(self, hindsights: list[Hindsight], *, is_snapshot_new: bool) -> Tensor:
        """Bool [B]: rows in which teacher and policy can differ, or that need the teacher's own."""
        is_policy = self.teacher == "live" or is_snapshot_new
        is_certain = self.every_row or not is_policy
        return torch.tensor([is_certain or bool(h.ids) for h in hindsights], dtype=torch.bool)

    def _teacher_log_probs(
        self,
        module: CausalLMModule,
        columns: Columns,
        hindsights: list[Hindsight],
        is_forwarded_R: Tensor,
    ) -> tuple[Tensor, Counts]:
        num_tokens = int(is_forwarded_R.sum())
        token_R = torch.full(is_forwarded_R.shape, NOT_SCORED)
        token_R[is_forwarded_R] = torch.arange(num_tokens)
        layout = RowLayout.of(columns)
        rows = [
            TeacherRow(
                columns[INPUT_IDS][layout.tokens_of(b)].numpy(),
                layout.row(token_R, b, fill=NOT_SCORED).numpy(),
                layout.row(columns[STEP_INDEX], b, fill=NOT_SCORED).numpy(),
                np.asarray(hindsights[b].ids, dtype=np.int64),
                max_positions=module.max_positions,
            )
            for b in layout.any(is_forwarded_R).nonzero()[:, 0].tolist()
        ]
        view = "policy" if self.teacher == "live" else "teacher"
        scores = Scorer(module, view, max_tokens=self.max_tokens).score(
            [self._told(row) for row in rows], num_tokens=num_tokens, top=self.top_tokens or None
        )
        if scores.top is not None:
            columns[TAUGHT_TOKEN] = token_R
            columns[TAUGHT_TOP_LOG_PROBS] = scores.top.log_probs
            columns[TAUGHT_TOP_IDS] = scores.top.ids
        counts = self._context_counts(rows) | {"teacher_tokens_forwarded": scores.num_forwarded}
        zeros_R = torch.zeros_like(columns[BEHAVIOUR_LOG_PROBS])
        return zeros_R.masked_scatter(is_forwarded_R, scores.log_probs), counts

    def _told(self, row: TeacherRow) -> ScoredSequence | BranchedSequence:
        """The row as the teacher reads it."""
        if self.position == "prefix" or not row.has_hindsight:
            return row.after()
        return row.around() if len(row.spans) == 1 else row.branched()

    def _context_counts(self, rows: list[TeacherRow]) -> Counts:
        """Shares of the contexts whose hindsight the model's positions cut or crowded out."""
        told = [row for row in rows if row.has_hindsight]
        per_row = 1 if self.position == "prefix" else None
        num_contexts = sum(per_row or len(row.spans) for row in told)
        num_lost = sum(row.num_lost for row in told)
        if num_lost:
            logger.warning(
                "config.hindsight: %d of %d contexts already fill the model's positions, so that "
                "the teacher reads no hindsight there. Lower max_context_tokens, or use "
                "hindsight_position='suffix'.",
                num_lost,
                num_contexts,
            )
        return {
            "hindsight_context_cut_share": sum(r.num_cut for r in told) / max(1, num_contexts),
            "hindsight_context_lost_share": num_lost / max(1, num_contexts),
        }

    def _student_log_probs(
        self, module: CausalLMModule, columns: Columns, is_needed_R: Tensor
    ) -> tuple[Tensor, float]:
        """What the teacher's are compared with, [R], and the tokens forwarded for it."""
        if self.student == "rollout":
            return columns[BEHAVIOUR_LOG_PROBS], 0
        return policy_log_probs(columns, module, is_needed_R, max_tokens=self.max_tokens)


def policy_log_probs(
    columns: Columns, module: CausalLMModule, is_needed_R: Tensor, *, max_tokens: int
) -> tuple[Tensor, float]:
    """The policy's log-probs before the update, and how many tokens were forwarded for them.

    Args:
        columns: Columns of `TokenBatch`, and `old_log_probs` where there are any.
        module: The language model.
        is_needed_R: Bool [R], tokens whose log-probs are wanted.
        max_tokens: Budget of a forward pass.

    Returns:
        Float32 [R], nats; of the wanted tokens at least.
    """
    if OLD_LOG_PROBS in columns:
        return columns[OLD_LOG_PROBS], 0
    scorer = Scorer(module, "policy", max_tokens=max_tokens)
    return scorer.score_some(columns, is_needed_R)
