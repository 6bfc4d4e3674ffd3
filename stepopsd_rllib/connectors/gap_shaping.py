"""Advantages shaped by a teacher's log-prob gap: the plumbing that the shaping methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from torch import Tensor

from stepopsd_rllib.connectors.teacher_gap import update_number
from stepopsd_rllib.connectors.token_batch import episodes_of
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.objectives.gap_diagnostics import gap_diagnostics

Columns = dict[str, Tensor]
ShapeAdvantages = Callable[[Columns, list[AgentEpisode], float], Tensor]
"""From columns, episodes and λ to the shaped advantages, float [B, T]."""


class GapShaping(ConnectorV2):
    """Replaces `advantages` A by what a method makes of it; keeps A as `group_advantages`.

    Requires `log_prob_gap`, `is_scored` and `advantages`. Logs the gap's distribution, λ and the
    mean relative change of an advantage, `effect_size`.
    """

    def __init__(self, *, shape: ShapeAdvantages, weight: Callable[[int], float], **kwargs: Any):
        """Keeps the method's function and its λ by update."""
        super().__init__(**kwargs)
        self.shape = shape
        self.weight = weight

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        batch: dict[str, Any],
        shared_data: Any = None,
        metrics: MetricsLogger | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Shapes where λ is not 0, and logs."""
        columns: Columns = batch[DEFAULT_MODULE_ID]
        weight = self.weight(update_number(columns))
        before_BT = columns["group_advantages"] = columns["advantages"]
        if weight != 0:
            columns["advantages"] = self.shape(columns, episodes_of(shared_data), weight)
        if metrics is not None:
            is_credited_BT = columns["response_mask"] & (before_BT != 0)
            ratio_P = columns["advantages"][is_credited_BT] / before_BT[is_credited_BT]
            values = gap_diagnostics(columns["log_prob_gap"], columns["is_scored"]) | {
                "lambda": torch.tensor(weight),
                "effect_size": (ratio_P - 1).abs().sum() / max(1, len(ratio_P)),
            }
            for name, value in values.items():
                metrics.log_value((DEFAULT_MODULE_ID, name), float(value), window=1)
        return batch
