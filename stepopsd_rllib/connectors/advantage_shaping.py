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
"""A method: from the batch, whose `advantages` are A, to Ã and what there is to say of it.

It reads `batch.tokens`, and gives Ã back in their order.
"""


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
        group_R = batch.columns[GROUP_ADVANTAGES] = batch.columns[ADVANTAGES]
        batch.columns[ADVANTAGES] = _a_token_each(shaped.advantages, group_R)
        if shaped.weights is not None:
            batch.columns[TOKEN_WEIGHTS] = _a_token_each(shaped.weights, group_R)
        batch.log(shaped.metrics)
        for task_type, metrics in shaped.task_type_metrics.items():
            batch.log(metrics, "task_type", task_type)
        if batch.metrics is not None:
            for name, points in shaped.histograms.items():
                for point in points:
                    key = (DEFAULT_MODULE_ID, f"{name}_histogram")
                    batch.metrics.log_value(key, point, reduce="item_series")


def gap_columns(batch: LearnerBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What every method reads that shapes by the gap: A, Δ, response mask, `is_scored`, [R, 1]."""
    tokens = batch.tokens
    return tokens[ADVANTAGES], tokens[LOG_PROB_GAP], tokens[RESPONSE_MASK], tokens[IS_SCORED]


def _a_token_each(values: Tensor, advantages_R: Tensor) -> Tensor:
    """What a method returned, [R]; refuses what is not of the sampled tokens."""
    if values.numel() != len(advantages_R):
        raise ValueError(
            f"A shaping gave {list(values.shape)} for {len(advantages_R)} sampled tokens. It reads "
            "`batch.tokens`, where every sampled token is a row, and returns as many."
        )
    return values.reshape(-1)
