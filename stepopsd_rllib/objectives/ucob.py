"""UCOB: where two branches visit one state, the better one teaches the other (arXiv:2606.29502).

The base is GiGPO. Rollouts with and without retrieved skills are paired at anchor states; the
branch with the higher discounted return is the teacher of that state, in either direction, over the
teacher's most likely tokens:

    ℓ = 0.1 · weight · σ(5·(lp_teacher − lp_student)) · Σ_v p_T(v) · (ln p_T(v) − ln p_S(v))
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_RETURN_GAP = 0.05
"""Return gap below which neither branch teaches; the authors' code."""

RETURN_GAP_SCALE = 0.2
"""Return gap of weight 1; the authors' code."""

LARGEST_WEIGHT = 2.0
"""Cap of the weight; the authors' code."""


def branch_weights(return_gap_B: Tensor) -> Tensor:
    """Weight of each student row from how much better its teacher's branch did.

        weight = min(max(d / 0.2, 0), 2) where d > 0.05, else 0

    Args:
        return_gap_B: Float [B], discounted return of the teacher's branch minus that of the
            student's.

    Returns:
        Float [B] in [0, 2].
    """
    weight_B = (return_gap_B / RETURN_GAP_SCALE).clamp(0.0, LARGEST_WEIGHT)
    return torch.where(return_gap_B > SMALLEST_RETURN_GAP, weight_B, torch.zeros_like(weight_B))


def top_k_log_probs(top_logits_BTK: Tensor, log_sum_exp_BT: Tensor, *, renormalize: bool) -> Tensor:
    """Log-probs of the teacher's K most likely tokens.

    Args:
        top_logits_BTK: Float [B, T, K], logits of those tokens.
        log_sum_exp_BT: Float [B, T], log-partition over the whole vocabulary.
        renormalize: True normalises over the K tokens alone, False over the vocabulary.

    Returns:
        Float [B, T, K], nats.
    """
    return (
        top_logits_BTK.log_softmax(dim=-1)
        if renormalize
        else top_logits_BTK - log_sum_exp_BT[..., None]
    )


def ucob_token_loss(
    student_top_log_probs_BTK: Tensor,
    teacher_top_log_probs_BTK: Tensor,
    weight_B: Tensor,
    gate_BT: Tensor | None,
    response_mask_BT: Tensor,
) -> Tensor:
    """Weighted, gated forward KL over the teacher's top tokens.

    Args:
        student_top_log_probs_BTK: Float [B, T, K]; carries the gradient.
        teacher_top_log_probs_BTK: Float [B, T, K]; detached here.
        weight_B: Float [B], from `branch_weights`.
        gate_BT: Float [B, T], `sdar.gap_gate` on the sampled tokens; None for no gate. Detached
            here.
        response_mask_BT: Bool [B, T].

    Returns:
        Float [B, T], nats; zero in value and gradient outside the mask. The caller aggregates it
        (token-mean, times the coefficient 0.1).
    """
    outside_BT = response_mask_BT == 0
    teacher_BTK = teacher_top_log_probs_BTK.detach().masked_fill(outside_BT[..., None], 0.0)
    student_BTK = student_top_log_probs_BTK.masked_fill(outside_BT[..., None], 0.0)
    divergence_BT = (teacher_BTK.exp() * (teacher_BTK - student_BTK)).sum(dim=-1)
    weight_BT = weight_B[:, None].expand_as(divergence_BT)
    if gate_BT is not None:
        weight_BT = weight_BT * gate_BT.detach()
    return weight_BT.masked_fill(outside_BT, 0.0) * divergence_BT
