"""Log-prob gap between a teacher that knows more and the policy, on the sampled tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from torch import Tensor

from stepopsd_rllib.connectors.hindsight import HINDSIGHT, Hindsight
from stepopsd_rllib.connectors.teacher_contexts import TeacherRow
from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.objectives.stepopsd import log_prob_gap
from stepopsd_rllib.scoring.scored_sequences import NOT_SCORED, BranchedSequence, ScoredSequence
from stepopsd_rllib.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

Position = Literal["suffix", "prefix"]
Columns = dict[str, Tensor]
Counts = dict[str, float]


class TeacherGap(ConnectorV2):
    """Writes `log_prob_gap`, `teacher_log_probs`, float32 [B, T], and `is_scored`, bool [B, T].

    All three are on the tokens of the spans. Requires `step_index`, `advantages` and a `Hindsight`
    for every episode. With `position="suffix"` the hindsight stands right before each span, after
    its causal prefix; with "prefix" once in front of the row. With `top_tokens` = K it also writes,
    over the P tokens that the teacher forwards, its most likely tokens, `taught_top_log_probs`
    float32 and `taught_top_ids` int64 [P, K], and `taught_token` int64 [B, T], the number of each
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

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        rl_module: Any,
        batch: dict[str, Any],
        shared_data: Any = None,
        metrics: MetricsLogger | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Scores teacher and student, and subtracts."""
        module: CausalLMModule = rl_module[DEFAULT_MODULE_ID].unwrapped()
        columns: Columns = batch[DEFAULT_MODULE_ID]
        hindsights: list[Hindsight] = shared_data[HINDSIGHT]
        row_hindsights = [hindsights[n] for n in columns["episode_index"].tolist()]
        is_scored_BT = self._rows_that_matter(columns)[:, None] & (columns["step_index"] >= 0)
        is_snapshot_new = module.teacher_version == update_number(columns) - 1
        has_gap_B = self._rows_with_gap(row_hindsights, is_snapshot_new=is_snapshot_new)
        is_forwarded_BT = is_scored_BT & has_gap_B[:, None]
        teacher_BT, counts = self._teacher_log_probs(
            module, columns, row_hindsights, is_forwarded_BT
        )
        student_BT, counts["student_tokens_forwarded"] = self._student_log_probs(
            module, columns, is_scored_BT if self.every_row else is_forwarded_BT
        )
        columns["is_scored"] = is_scored_BT
        columns["teacher_log_probs"] = torch.where(is_forwarded_BT, teacher_BT, student_BT)
        columns["log_prob_gap"] = log_prob_gap(teacher_BT, student_BT, is_forwarded_BT)
        if metrics is not None:
            for name, value in counts.items():
                metrics.log_value((DEFAULT_MODULE_ID, name), value, window=1)
        return batch

    def _rows_that_matter(self, columns: Columns) -> Tensor:
        """Bool [B]: rows whose gap can change an advantage."""
        if self.score_all:
            return torch.ones(len(columns["lengths"]), dtype=torch.bool)
        can_change = self.effect(update_number(columns)) > 0
        has_advantage_B = (columns["advantages"] != 0).any(dim=1)
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
        is_forwarded_BT: Tensor,
    ) -> tuple[Tensor, Counts]:
        num_tokens = int(is_forwarded_BT.sum())
        token_BT = torch.full(is_forwarded_BT.shape, NOT_SCORED)
        token_BT[is_forwarded_BT] = torch.arange(num_tokens)
        rows = [
            TeacherRow(
                columns,
                b,
                token_BT[b],
                np.asarray(hindsights[b].ids, dtype=np.int64),
                max_positions=module.max_positions,
            )
            for b in is_forwarded_BT.any(dim=1).nonzero()[:, 0].tolist()
        ]
        view = "policy" if self.teacher == "live" else "teacher"
        scores = Scorer(module, view, max_tokens=self.max_tokens).score(
            [self._told(row) for row in rows], num_tokens=num_tokens, top=self.top_tokens or None
        )
        if scores.top is not None:
            columns["taught_token"] = token_BT
            columns["taught_top_log_probs"] = scores.top.log_probs
            columns["taught_top_ids"] = scores.top.ids
        counts = self._context_counts(rows) | {"teacher_tokens_forwarded": scores.num_forwarded}
        zeros_BT = torch.zeros_like(columns["behaviour_log_probs"])
        return zeros_BT.masked_scatter(is_forwarded_BT, scores.log_probs), counts

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
        self, module: CausalLMModule, columns: Columns, is_needed_BT: Tensor
    ) -> tuple[Tensor, float]:
        """The policy's log-probs [B, T], and how many tokens were forwarded for them."""
        if self.student == "rollout":
            return columns["behaviour_log_probs"], 0
        if "old_log_probs" in columns:
            return columns["old_log_probs"], 0
        rows = is_needed_BT.any(dim=1).nonzero()[:, 0]
        student_BT = torch.zeros_like(columns["behaviour_log_probs"])
        if len(rows) == 0:
            return student_BT, 0
        part = {"input_ids": columns["input_ids"][rows], "response_mask": is_needed_BT[rows]}
        # A row is forwarded up to its last scored token.
        position_T = torch.arange(is_needed_BT.shape[1])
        part["lengths"] = (position_T * part["response_mask"]).amax(dim=1) + 1
        student_BT[rows] = Scorer(module, "policy", max_tokens=self.max_tokens).score_rows(part)
        return student_BT, int(part["lengths"].sum())


def update_number(columns: Columns) -> int:
    """Number of the update in preparation, from 1: the version of the sampling weights plus one."""
    return int(columns["weights_version"].max()) + 1 if len(columns["weights_version"]) else 1
