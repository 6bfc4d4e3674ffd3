"""Log-probs of all response tokens, under the policy before the update or under the KL anchor."""

from __future__ import annotations

from typing import Any

from ray.rllib.utils.annotations import override

from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.models.causal_lm import View
from stepopsd_rllib.scoring.scorer import Scorer


class RowLogProbs(LearnerConnector):
    """Writes a column of log-probs, float32 [R], of one view of the module.

    `old_log_probs` is the policy's, before the first update of the step. It is left out where one
    optimizer step is taken on the whole batch: there the old policy is the current one.
    `reference_log_probs` is the KL anchor's: the reference, or StepOPSD's teacher.
    """

    def __init__(self, *, column: str, view: View, max_tokens: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.column = column
        self.view: View = view
        self.max_tokens = max_tokens

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Scores all rows."""
        scorer = Scorer(batch.module, self.view, max_tokens=self.max_tokens)
        batch.columns[self.column] = scorer.score_rows(batch.columns)
