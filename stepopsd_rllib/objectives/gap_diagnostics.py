"""What a teacher's log-prob gap Δ looks like, and how much came of it."""

from __future__ import annotations

import torch
from torch import Tensor

from stepopsd_rllib.objectives.reduction import same_shape
from stepopsd_rllib.objectives.steps import StepTokens, sum_by

# A token counts as changed if its log-prob moved by more than this, in nats (StepOPSD authors'
# code).
UNCHANGED_GAP = 1e-4
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def gap_diagnostics(gap_BT: Tensor, is_scored_BT: Tensor) -> dict[str, Tensor]:
    """How Δ is distributed over the scored tokens; `gap_std` is the paper's gauge of drift.

    Args:
        gap_BT: Δ in nats, float [B, T].
        is_scored_BT: True on the tokens that the teacher scored, [B, T].

    Returns:
        Scalars: `num_scored_tokens`; in nats `gap_mean`, `gap_std` (divisor n), `gap_min`,
        `gap_max`, `gap_abs_mean`, `gap_abs_median`, `gap_p<q>`; `num_positive`, `num_negative` and
        `num_unchanged` tokens and `changed_share`, for a change of more than 1e-4. The count alone
        if nothing was scored.
    """
    same_shape(gap_BT=gap_BT, is_scored_BT=is_scored_BT)
    gap_P = gap_BT.detach()[is_scored_BT != 0].double().sort().values
    size = len(gap_P)
    counts = {"num_scored_tokens": gap_P.new_tensor(size)}
    if size == 0:
        return counts
    num_positive, num_negative = (gap_P > UNCHANGED_GAP).sum(), (gap_P < -UNCHANGED_GAP).sum()
    # By rank instead of torch.quantile, which refuses more than 16 million values.
    percentiles = {f"gap_p{q}": gap_P[round(q / 100 * (size - 1))] for q in PERCENTILES}
    return counts | {
        "gap_mean": gap_P.mean(),
        "gap_std": gap_P.std(correction=0),
        "gap_min": gap_P[0],
        "gap_max": gap_P[-1],
        "gap_abs_mean": gap_P.abs().mean(),
        "gap_abs_median": gap_P.abs().median(),
        **percentiles,
        "num_positive": num_positive,
        "num_negative": num_negative,
        "num_unchanged": size - num_positive - num_negative,
        "changed_share": (num_positive + num_negative) / size,
    }


def effect_diagnostics(
    shaped_BT: Tensor,
    advantages_BT: Tensor,
    weights_BT: Tensor,
    mask_BT: Tensor,
    is_scored_BT: Tensor,
    *,
    alpha_clip: float,
) -> dict[str, Tensor]:
    """How much the shaping changed, so that nobody mistakes a change of 1 % for more.

    Args:
        shaped_BT: Ã, float [B, T].
        advantages_BT: A, float [B, T].
        weights_BT: w, float [B, T].
        mask_BT: Response mask, 0/1 of any dtype, [B, T].
        is_scored_BT: True on the tokens that the teacher scored, [B, T].
        alpha_clip: α.

    Returns:
        Scalars: `weight_mean` and `clipped_share` over the scored tokens of the mask,
        `effect_size`, the mean of |Ã/A − 1| over the tokens of the mask with A ≠ 0. 0 where there
        are no such tokens.
    """
    same_shape(
        shaped_BT=shaped_BT,
        advantages_BT=advantages_BT,
        weights_BT=weights_BT,
        mask_BT=mask_BT,
        is_scored_BT=is_scored_BT,
    )
    weights_P = weights_BT[(is_scored_BT != 0) & (mask_BT != 0)].double()
    is_clipped_P = (weights_P - 1.0).abs() >= alpha_clip * (1.0 - UNCHANGED_GAP)
    is_credited_BT = (mask_BT != 0) & (advantages_BT != 0)
    ratio_P = (shaped_BT[is_credited_BT] / advantages_BT[is_credited_BT]).double()
    return {
        "weight_mean": weights_P.sum() / max(len(weights_P), 1),
        "clipped_share": is_clipped_P.sum() / max(len(weights_P), 1),
        "effect_size": (ratio_P - 1.0).abs().sum() / max(len(ratio_P), 1),
    }


def gap_outcome_correlation(
    gap_BT: Tensor, is_scored_BT: Tensor, steps: StepTokens, outcome_B: Tensor
) -> Tensor:
    """Pearson correlation of the mean Δ of each step with the outcome of its episode.

    Args:
        gap_BT: Δ in nats, float [B, T].
        is_scored_BT: True on the tokens that the teacher scored, [B, T].
        steps: The steps.
        outcome_B: Return (or success) of each row's episode, float [B].

    Returns:
        Float64 scalar; 0 where one of the two does not vary.
    """
    same_shape(gap_BT=gap_BT, is_scored_BT=is_scored_BT)
    num_steps = len(steps.episode_S)
    is_scored_P = (is_scored_BT != 0).flatten()[steps.position_P].double()
    size_S = sum_by(is_scored_P, steps.step_P, num_steps)
    total_S = sum_by(
        gap_BT.flatten()[steps.position_P].double() * is_scored_P, steps.step_P, num_steps
    )
    outcome_P = outcome_B.double()[steps.position_P // gap_BT.shape[1]]
    outcome_S = sum_by(outcome_P * is_scored_P, steps.step_P, num_steps)
    is_kept_S = size_S > 0
    mean_S, outcome_S = (total_S[is_kept_S], outcome_S[is_kept_S])
    pairs_2S = torch.stack((mean_S, outcome_S)) / size_S[is_kept_S]
    if pairs_2S.shape[1] < 2 or (pairs_2S.amax(1) == pairs_2S.amin(1)).any():
        return gap_BT.new_zeros((), dtype=torch.float64)
    return torch.corrcoef(pairs_2S)[0, 1]
