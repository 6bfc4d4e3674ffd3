"""StepOPSD's shaping of the advantages, and what it says about itself."""

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
from stepopsd_rllib.objectives.gap_diagnostics import (
    effect_diagnostics,
    gap_diagnostics,
    gap_outcome_correlation,
)
from stepopsd_rllib.objectives.stepopsd import (
    StepNormalization,
    WeightFunction,
    stepopsd_advantages,
)
from stepopsd_rllib.objectives.steps import StepTokens

HISTOGRAM_POINTS = 101
TASK_TYPE_METRICS = ("gap_mean", "gap_std", "weight_mean", "clipped_share", "effect_size")

Columns = dict[str, Tensor]


class HindsightShaping(ConnectorV2):
    """Replaces `advantages` A by Ã; keeps A as `group_advantages`, and writes w as `token_weights`.

    Requires `log_prob_gap`, `is_scored`, `step_index`. Logs λ, the distribution of Δ and w and the
    size of the effect over all tokens, some of it by task type, and evenly spaced percentiles of Δ
    and w as lists, which TensorBoard shows as histograms.
    """

    def __init__(
        self,
        *,
        alpha_clip: float,
        lambda_at: Callable[[int], float],
        weight_fn: WeightFunction,
        step_normalization: StepNormalization,
        eps: float,
        coefficient_clip: float,
        **kwargs: Any,
    ):
        """Keeps the knobs; see `StepOPSDConfig.training`. `lambda_at` takes the update, from 1."""
        super().__init__(**kwargs)
        self.alpha_clip = alpha_clip
        self.lambda_at = lambda_at
        self.weight_fn: WeightFunction = weight_fn
        self.step_normalization: StepNormalization = step_normalization
        self.eps = eps
        self.coefficient_clip = coefficient_clip

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        batch: dict[str, Any],
        shared_data: Any = None,
        metrics: MetricsLogger | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Shapes, and logs the size of the effect."""
        columns: Columns = batch[DEFAULT_MODULE_ID]
        lambda_mix = self.lambda_at(update_number(columns))
        steps = StepTokens.from_index(columns["step_index"], columns["episode_index"])
        shaped = stepopsd_advantages(
            columns["advantages"],
            columns["log_prob_gap"],
            columns["response_mask"],
            steps,
            alpha_clip=self.alpha_clip,
            lambda_mix=lambda_mix,
            weight_fn=self.weight_fn,
            step_normalization=self.step_normalization,
            eps=self.eps,
            coefficient_clip=self.coefficient_clip,
        )
        columns["group_advantages"] = columns["advantages"]
        columns["advantages"] = shaped.advantages
        columns["token_weights"] = shaped.weights
        if metrics is not None:
            metrics.log_value((DEFAULT_MODULE_ID, "lambda"), lambda_mix, window=1)
            self._log(columns, episodes_of(shared_data), steps, metrics)
        return batch

    def _log(
        self,
        columns: Columns,
        episodes: list[AgentEpisode],
        steps: StepTokens,
        metrics: MetricsLogger,
    ) -> None:
        """Logs over all tokens, then by task type, then the histograms."""
        outcome_B = torch.tensor([float(episode.won) for episode in episodes])[
            columns["episode_index"]
        ]
        correlation = gap_outcome_correlation(
            columns["log_prob_gap"], columns["is_scored"], steps, outcome_B
        )
        values = self._diagnostics(columns) | {"gap_outcome_correlation": correlation}
        for name, value in values.items():
            metrics.log_value((DEFAULT_MODULE_ID, name), float(value), window=1)
        types = [episodes[n].task_type for n in columns["episode_index"].tolist()]
        for task_type in sorted(set(types)):
            rows = torch.tensor([b for b, name in enumerate(types) if name == task_type])
            part = self._diagnostics({name: column[rows] for name, column in columns.items()})
            for name in TASK_TYPE_METRICS:
                if name in part:
                    key = (DEFAULT_MODULE_ID, "task_type", task_type, name)
                    metrics.log_value(key, float(part[name]), window=1)
        for name, column in (("gap", "log_prob_gap"), ("weight", "token_weights")):
            for point in histogram_points(columns[column], columns["is_scored"]):
                key = (DEFAULT_MODULE_ID, f"{name}_histogram")
                metrics.log_value(key, point, reduce="item_series")

    def _diagnostics(self, columns: Columns) -> dict[str, Tensor]:
        gap = gap_diagnostics(columns["log_prob_gap"], columns["is_scored"])
        effect = effect_diagnostics(
            columns["advantages"],
            columns["group_advantages"],
            columns["token_weights"],
            columns["response_mask"],
            columns["is_scored"],
            alpha_clip=self.alpha_clip,
        )
        if gap["num_scored_tokens"] == 0:
            # Nothing has no mean weight; 0 would read as a token that was switched off.
            effect = {"effect_size": effect["effect_size"]}
        return gap | effect


def histogram_points(values_BT: Tensor, is_kept_BT: Tensor) -> list[float]:
    """At most 101 values that are distributed as the kept ones: their evenly spaced ranks."""
    kept_P = values_BT[is_kept_BT].sort().values
    if len(kept_P) > HISTOGRAM_POINTS:
        ranks = torch.linspace(0, len(kept_P) - 1, HISTOGRAM_POINTS, dtype=torch.float64)
        kept_P = kept_P[ranks.round().long()]
    return kept_P.tolist()
