"""The one place where methods change advantages before the updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    GROUP_ADVANTAGES,
    IS_SCORED,
    LOG_PROB_GAP,
    RESPONSE_MASK,
    TOKEN_WEIGHTS,
)
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.objectives.shaping import Shaping

Shape = Callable[[LearnerBatch], Shaping]
"""A method: from the batch, whose `advantages` are A, to Ã and what there is to say of it."""


class AdvantageShaping(LearnerConnector):
    """Replaces `advantages` A by what a method makes of it, Ã.

    Keeps A as `group_advantages`; writes `token_weights` w where the method has them. Logs what the
    method says of itself; evenly spaced percentiles are logged as lists, which TensorBoard shows as
    histograms.
    """

    def __init__(self, *, shape: Shape, **kwargs: Any):
        """Keeps the method: it reads the columns, and leaves the arithmetic to `objectives`."""
        super().__init__(**kwargs)
        self.shape = shape

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Shapes, and logs."""
        shaped = self.shape(batch)
        batch.columns[GROUP_ADVANTAGES] = batch.columns[ADVANTAGES]
        batch.columns[ADVANTAGES] = shaped.advantages
        if shaped.weights is not None:
            batch.columns[TOKEN_WEIGHTS] = shaped.weights
        batch.log(shaped.metrics)
        for task_type, metrics in shaped.task_type_metrics.items():
            batch.log(metrics, "task_type", task_type)
        if batch.metrics is not None:
            for name, points in shaped.histograms.items():
                for point in points:
                    key = (DEFAULT_MODULE_ID, f"{name}_histogram")
                    batch.metrics.log_value(key, point, reduce="item_series")


def gap_columns(batch: LearnerBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What every method reads that shapes by the gap: A, Δ, response mask, `is_scored`."""
    advantages_BT, gap_BT, mask_BT, is_scored_BT = (
        batch.columns[name] for name in (ADVANTAGES, LOG_PROB_GAP, RESPONSE_MASK, IS_SCORED)
    )
    return advantages_BT, gap_BT, mask_BT, is_scored_BT
