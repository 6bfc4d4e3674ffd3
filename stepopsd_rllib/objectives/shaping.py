"""What a method makes of the advantages, and what there is to say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stepopsd_rllib.objectives.gap_diagnostics import (
    effect_diagnostics,
    gap_diagnostics,
    gap_outcome_correlation,
)
from stepopsd_rllib.objectives.stepopsd import ShapedAdvantages
from stepopsd_rllib.objectives.steps import StepTokens

HISTOGRAM_POINTS = 101
TASK_TYPE_METRICS = ("gap_mean", "gap_std", "weight_mean", "clipped_share", "effect_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shaping:
    """Shaped advantages.

    Attributes:
        advantages: Ã, float [B, T], 0 outside the response mask.
        weights: w, float [B, T], for methods that multiply A by a weight; None for the others.
        metrics: Scalars by name.
        task_type_metrics: Scalars by task type and name.
        histograms: Values that are distributed as a quantity, by its name.
    """

    advantages: Tensor
    weights: Tensor | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    task_type_metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    histograms: Mapping[str, list[float]] = field(default_factory=dict)


def gap_shaping(
    shaped_BT: Tensor,
    advantages_BT: Tensor,
    gap_BT: Tensor,
    mask_BT: Tensor,
    is_scored_BT: Tensor,
    *,
    mixing: float,
) -> Shaping:
    """What a teacher's gap made of the advantages, and how much that is.

    Args:
        shaped_BT: Ã, float [B, T].
        advantages_BT: A, float [B, T].
        gap_BT: Δ, float [B, T], nats.
        mask_BT: Response mask, bool [B, T].
        is_scored_BT: True on the tokens that the teacher scored, bool [B, T].
        mixing: λ.

    Returns:
        Ã with the distribution of Δ, λ as `lambda`, and `effect_size`, the mean of |Ã/A − 1| over
        the tokens of the mask with A ≠ 0; 0 where there are none.
    """
    is_credited_BT = mask_BT & (advantages_BT != 0)
    ratio_P = shaped_BT[is_credited_BT] / advantages_BT[is_credited_BT]
    metrics = gap_diagnostics(gap_BT, is_scored_BT) | {
        "lambda": torch.tensor(mixing),
        "effect_size": (ratio_P - 1).abs().sum() / max(1, len(ratio_P)),
    }
    return Shaping(advantages=shaped_BT, metrics=metrics)


def stepopsd_shaping(
    shaped: ShapedAdvantages,
    advantages_BT: Tensor,
    gap_BT: Tensor,
    mask_BT: Tensor,
    is_scored_BT: Tensor,
    *,
    steps: StepTokens,
    won_B: Tensor,
    task_types: Sequence[str],
    lambda_mix: float,
    alpha_clip: float,
) -> Shaping:
    """What StepOPSD's shaping says of itself: over all tokens, and some of it by task type.

    Args:
        shaped: What `stepopsd_advantages` returned.
        advantages_BT: A, float [B, T].
        gap_BT: Δ, float [B, T], nats.
        mask_BT: Response mask, bool [B, T].
        is_scored_BT: True on the tokens that the teacher scored, bool [B, T].
        steps: The steps.
        won_B: 1 where the row's episode succeeded, float [B].
        task_types: Task type of every row.
        lambda_mix: λ.
        alpha_clip: α.

    Returns:
        Ã and w with λ, the diagnostics of Δ and of the effect, and histograms of Δ and w.
    """

    def diagnostics(rows: Tensor | slice) -> dict[str, Tensor]:
        gap = gap_diagnostics(gap_BT[rows], is_scored_BT[rows])
        effect = effect_diagnostics(
            shaped.advantages[rows],
            advantages_BT[rows],
            shaped.weights[rows],
            mask_BT[rows],
            is_scored_BT[rows],
            alpha_clip=alpha_clip,
        )
        if gap["num_scored_tokens"] == 0:
            # Nothing has no mean weight; 0 would read as a token that was switched off.
            effect = {"effect_size": effect["effect_size"]}
        return gap | effect

    correlation = gap_outcome_correlation(gap_BT, is_scored_BT, steps, won_B)
    by_task_type = {}
    rows_by_type: dict[str, list[int]] = {}
    for b, task_type in enumerate(task_types):
        rows_by_type.setdefault(task_type, []).append(b)
    for task_type in sorted(rows_by_type):
        part = diagnostics(torch.tensor(rows_by_type[task_type]))
        by_task_type[task_type] = {name: part[name] for name in TASK_TYPE_METRICS if name in part}
    return Shaping(
        advantages=shaped.advantages,
        weights=shaped.weights,
        metrics={
            "lambda": lambda_mix,
            **diagnostics(slice(None)),
            "gap_outcome_correlation": correlation,
        },
        task_type_metrics=by_task_type,
        histograms={
            "gap": histogram_points(gap_BT, is_scored_BT),
            "weight": histogram_points(shaped.weights, is_scored_BT),
        },
    )


def histogram_points(values_BT: Tensor, is_kept_BT: Tensor) -> list[float]:
    """At most 101 values that are distributed as the kept ones: their evenly spaced ranks.

    Args:
        values_BT: Float [B, T].
        is_kept_BT: Bool [B, T].
    """
    kept_P = values_BT[is_kept_BT].sort().values
    if len(kept_P) > HISTOGRAM_POINTS:
        ranks = torch.linspace(0, len(kept_P) - 1, HISTOGRAM_POINTS, dtype=torch.float64)
        kept_P = kept_P[ranks.round().long()]
    return kept_P.tolist()
