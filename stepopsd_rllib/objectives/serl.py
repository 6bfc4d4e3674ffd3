"""SERL: RLSD's bounded weights on the tokens of the action alone (arXiv:2605.19447).

The teacher is told what the environment answered to the very action that it judges. The schedule of
λ is `schedules.linear_decay` with the number of updates done, from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepopsd_rllib.objectives.gap_diagnostics import gap_diagnostics
from stepopsd_rllib.objectives.reduction import same_shape
from stepopsd_rllib.objectives.shaping import Shaping

LARGEST_GAP = 20.0
"""Bound of sign(A)·Δ before the exponential, nats (authors' code)."""
AT_BOUND = 1e-6
"""A weight this close to a bound counts as clipped (authors' code)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SERLAdvantages:
    """Shaped advantages, and what says how much was shaped.

    Attributes:
        advantages_BT: Float [B, T].
        weights_BT: Float [B, T], w; 1 on tokens that were not chosen.
        chosen_BT: Bool [B, T], tokens that were weighted.
    """

    advantages_BT: Tensor
    weights_BT: Tensor
    chosen_BT: Tensor


def serl_advantages(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    response_mask_BT: Tensor,
    action_mask_BT: Tensor,
    has_context_B: Tensor,
    *,
    mixing: float,
    clip_range: float,
) -> SERLAdvantages:
    """Weights the advantage on action tokens by the teacher's gap.

        w = clip(exp(clip(sign(A)·Δ, −20, 20)), 1 − ε, 1 + ε)
        Ã = A·((1 − λ) + λ·w)         on action tokens of rows with a teacher context
        Ã = A                         on the other response tokens

    Args:
        advantages_BT: Float [B, T], the GRPO advantage; its sign is read at every token.
        gap_BT: Float [B, T], Δ = teacher − policy log-prob, nats; detached here.
        response_mask_BT: 0/1 of any dtype, [B, T].
        action_mask_BT: 0/1 of any dtype, [B, T], tokens of the action.
        has_context_B: 0/1 of any dtype, [B], whether the teacher had anything to read.
        mixing: λ in [0, 1]; 0 is GRPO.
        clip_range: ε (authors: 0.2); 0 is GRPO.

    Returns:
        Advantages, zero outside the response mask, with weights and chosen tokens.
    """
    same_shape(advantages=advantages_BT, gap=gap_BT, mask=response_mask_BT, action=action_mask_BT)
    mask_BT = response_mask_BT != 0
    chosen_BT = mask_BT & (action_mask_BT != 0) & (has_context_B != 0)[:, None]
    signed_BT = (advantages_BT.sign() * gap_BT.detach()).clamp(-LARGEST_GAP, LARGEST_GAP)
    weights_BT = signed_BT.exp().clamp(1 - clip_range, 1 + clip_range)
    weights_BT = torch.where(chosen_BT, weights_BT, torch.ones_like(weights_BT))
    mixed_BT = advantages_BT * ((1 - mixing) + mixing * weights_BT)
    shaped_BT = torch.where(chosen_BT, mixed_BT, advantages_BT)
    return SERLAdvantages(
        advantages_BT=torch.where(mask_BT, shaped_BT, torch.zeros_like(shaped_BT)),
        weights_BT=weights_BT,
        chosen_BT=chosen_BT,
    )


def serl_diagnostics(
    shaped: SERLAdvantages,
    gap_BT: Tensor,
    response_mask_BT: Tensor,
    has_context_B: Tensor,
    *,
    clip_range: float,
) -> dict[str, float]:
    """What the weights are on the chosen tokens.

    Args:
        shaped: What `serl_advantages` returned.
        gap_BT: Gap that was given to it.
        response_mask_BT: Mask that was given to it.
        has_context_B: Rows with a context, as given to it.
        clip_range: Clip range that was given to it.

    Returns:
        `weight_mean`, `weight_max`, `weight_min`, `gap_abs_mean` (nats), `selected_fraction`
        (chosen of the response tokens of rows with context), `clipped_fraction`; 1, 1, 1, 0, 0, 0
        where none was chosen.
    """
    chosen_BT = shaped.chosen_BT
    count = int(chosen_BT.sum())
    if count == 0:
        return {
            "weight_mean": 1.0,
            "weight_max": 1.0,
            "weight_min": 1.0,
            "gap_abs_mean": 0.0,
            "selected_fraction": 0.0,
            "clipped_fraction": 0.0,
        }
    weights_P = shaped.weights_BT[chosen_BT].double()
    eligible_BT = (response_mask_BT != 0) & (has_context_B != 0)[:, None]
    at_bound_P = ((weights_P - (1 - clip_range)).abs() <= AT_BOUND) | (
        (weights_P - (1 + clip_range)).abs() <= AT_BOUND
    )
    return {
        "weight_mean": float(weights_P.mean()),
        "weight_max": float(weights_P.max()),
        "weight_min": float(weights_P.min()),
        "gap_abs_mean": float(gap_BT[chosen_BT].double().abs().mean()),
        "selected_fraction": count / int(eligible_BT.sum()),
        "clipped_fraction": float(at_bound_P.double().mean()),
    }


def serl_shaping(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    response_mask_BT: Tensor,
    action_mask_BT: Tensor,
    is_scored_BT: Tensor,
    told_B: Tensor,
    *,
    mixing: float,
    clip_range: float,
) -> Shaping:
    """SERL's advantages with their weights, and how much was weighted.

    Args:
        advantages_BT: Advantages as in `serl_advantages`, and so are the next two.
        gap_BT: Δ.
        response_mask_BT: Response tokens.
        action_mask_BT: Bool [B, T], tokens of the action.
        is_scored_BT: Bool [B, T], response tokens of the turns that were told something; a row may
            hold several turns, of which some were not.
        told_B: Bool [B], whether a turn of the row was told something.
        mixing: λ.
        clip_range: ε.
    """
    chosen_BT = action_mask_BT & is_scored_BT
    shaped = serl_advantages(
        advantages_BT,
        gap_BT,
        response_mask_BT,
        chosen_BT,
        told_B,
        mixing=mixing,
        clip_range=clip_range,
    )
    found = serl_diagnostics(shaped, gap_BT, response_mask_BT, told_B, clip_range=clip_range)
    return Shaping(
        advantages=shaped.advantages_BT,
        weights=torch.where(chosen_BT, shaped.weights_BT, 0.0),
        metrics=gap_diagnostics(gap_BT, chosen_BT) | found | {"lambda": mixing},
    )
