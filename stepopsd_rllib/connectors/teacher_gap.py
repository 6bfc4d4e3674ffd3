"""Log-prob gap between a teacher that knows more and the policy, on the sampled tokens."""

from __future__ import annotations

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
from stepopsd_rllib.connectors.scored_rows import score_rows
from stepopsd_rllib.modules.causal_lm import CausalLMModule
from stepopsd_rllib.objectives.stepopsd import log_prob_gap
from stepopsd_rllib.rescoring import (
    NOT_SCORED,
    BranchedSequence,
    ScoredSequence,
    score_branches,
    score_sequences,
)

Position = Literal["suffix", "prefix"]
Columns = dict[str, Tensor]


class TeacherGap(ConnectorV2):
    """Writes `log_prob_gap` float32 [B, T] and `is_scored` bool [B, T], on the tokens of the step spans.

    Requires `step_index`, `advantages` and a `Hindsight` for every episode. With `position="suffix"` the hindsight
    stands right before each span, after its causal prefix; with "prefix" once in front of the row.

    Rows are left out (gap 0) where the result cannot matter: when `weight(update)` is 0, where the advantage
    is 0 everywhere, and where a live teacher has no hindsight; `score_all` scores them too, for diagnostics.
    """

    def __init__(
        self,
        *,
        position: Position,
        teacher: Literal["stale", "live"],
        student: Literal["recomputed", "rollout"],
        weight: Callable[[int], float],
        score_all: bool,
        max_tokens: int,
        **kwargs: Any,
    ):
        """Keeps the settings; `max_tokens` is the budget of one forward pass."""
        super().__init__(**kwargs)
        self.position: Position = position
        self.teacher = teacher
        self.student = student
        self.weight = weight
        self.score_all = score_all
        self.max_tokens = max_tokens

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        rl_module: Any,
        batch: dict[str, Any],
        shared_data: dict,
        metrics: MetricsLogger | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Scores teacher and student, and subtracts."""
        module: CausalLMModule = rl_module[DEFAULT_MODULE_ID].unwrapped()
        columns: Columns = batch[DEFAULT_MODULE_ID]
        hindsights: list[Hindsight] = shared_data[HINDSIGHT]
        row_hindsights = [hindsights[n] for n in columns["episode_index"].tolist()]
        is_scored_BT = self._rows_that_matter(columns, row_hindsights)[:, None] & (
            columns["step_index"] >= 0
        )
        teacher_BT, num_forwarded = self._teacher_log_probs(
            module, columns, row_hindsights, is_scored_BT
        )
        student_BT = self._student_log_probs(module, columns, is_scored_BT)
        columns["is_scored"] = is_scored_BT
        columns["log_prob_gap"] = log_prob_gap(teacher_BT, student_BT, is_scored_BT)
        if metrics is not None:
            metrics.log_value(
                (DEFAULT_MODULE_ID, "teacher_tokens_forwarded"), num_forwarded, window=1
            )
        return batch

    def _rows_that_matter(self, columns: Columns, hindsights: list[Hindsight]) -> Tensor:
        """Bool [B]."""
        num_rows = len(hindsights)
        if self.score_all:
            return torch.ones(num_rows, dtype=torch.bool)
        if self.weight(update_number(columns)) == 0:
            return torch.zeros(num_rows, dtype=torch.bool)
        knows_more_B = torch.tensor(
            [self.teacher == "stale" or bool(h.ids) for h in hindsights], dtype=torch.bool
        )
        return knows_more_B & (columns["advantages"] != 0).any(dim=1)

    def _teacher_log_probs(
        self,
        module: CausalLMModule,
        columns: Columns,
        hindsights: list[Hindsight],
        is_scored_BT: Tensor,
    ) -> tuple[Tensor, int]:
        model = module.language_model if self.teacher == "live" else module.teacher
        assert model is not None
        rows = is_scored_BT.any(dim=1).nonzero()[:, 0].tolist()
        branched, plain = [], []
        for b in rows:
            row = _Row(columns, b, is_scored_BT[b])
            ids = np.asarray(hindsights[b].ids, dtype=np.int64)
            if self.position == "prefix" or len(ids) == 0:
                plain.append(row.after(ids))
            elif len(row.spans) == 1:
                plain.append(row.around(ids))
            else:
                branched.append(row.branched(ids))
        log_probs = torch.zeros(is_scored_BT.numel())
        forwarded = score_sequences(module, model, plain, log_probs, max_tokens=self.max_tokens)
        forwarded += score_branches(module, model, branched, log_probs, max_tokens=self.max_tokens)
        return log_probs.view_as(is_scored_BT), forwarded

    def _student_log_probs(
        self, module: CausalLMModule, columns: Columns, is_scored_BT: Tensor
    ) -> Tensor:
        if self.student == "rollout":
            return columns["behaviour_log_probs"]
        if "old_log_probs" in columns:
            return columns["old_log_probs"]
        rows = is_scored_BT.any(dim=1).nonzero()[:, 0]
        student_BT = torch.zeros_like(columns["behaviour_log_probs"])
        if len(rows):
            needed = ("input_ids", "lengths", "response_mask", "behaviour_log_probs")
            part = {name: columns[name][rows] for name in needed}
            student_BT[rows] = score_rows(
                module, module.language_model, part, max_tokens=self.max_tokens
            )
        return student_BT


class _Row:
    """One row of the batch and its scored spans, half-open token ranges."""

    def __init__(self, columns: Columns, b: int, is_scored_T: Tensor):
        length, self._width = int(columns["lengths"][b]), columns["input_ids"].shape[1]
        self._ids = columns["input_ids"][b, :length].numpy()
        self._base = b * self._width
        step_T = (
            columns["step_index"][b, :length].masked_fill(~is_scored_T[:length], NOT_SCORED).numpy()
        )
        edges = np.flatnonzero(np.diff(step_T, prepend=NOT_SCORED, append=NOT_SCORED))
        ranges = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        self.spans = [(start, stop) for start, stop in ranges if step_T[start] != NOT_SCORED]

    def after(self, hindsight: np.ndarray) -> ScoredSequence:
        """The whole row, with the hindsight once in front of it."""
        target = np.full(len(self._ids), NOT_SCORED)
        for start, stop in self.spans:
            target[start:stop] = self._base + np.arange(start, stop)
        inserted = np.full(len(hindsight), NOT_SCORED)
        end = self.spans[-1][1]
        return ScoredSequence(
            ids=np.concatenate((hindsight, self._ids[:end])),
            target=np.concatenate((inserted, target[:end])),
        )

    def around(self, hindsight: np.ndarray) -> ScoredSequence:
        """The only span's causal prefix, the hindsight, the span."""
        start, branch = self._branch(*self.spans[0], hindsight)
        return ScoredSequence(
            ids=np.concatenate((self._ids[:start], branch.ids)),
            target=np.concatenate((np.full(start, NOT_SCORED), branch.target)),
        )

    def branched(self, hindsight: np.ndarray) -> BranchedSequence:
        """The row as shared history; every span a branch behind the hindsight."""
        return BranchedSequence(
            history=self._ids,
            branches=tuple(self._branch(start, stop, hindsight) for start, stop in self.spans),
        )

    def _branch(self, start: int, stop: int, hindsight: np.ndarray) -> tuple[int, ScoredSequence]:
        inserted = np.full(len(hindsight), NOT_SCORED)
        return start, ScoredSequence(
            ids=np.concatenate((hindsight, self._ids[start:stop])),
            target=np.concatenate((inserted, self._base + np.arange(start, stop))),
        )


def update_number(columns: Columns) -> int:
    """Number of the update that is being prepared, counted from 1: the sampling weights' version plus one."""
    return int(columns["weights_version"].max()) + 1 if len(columns["weights_version"]) else 1
