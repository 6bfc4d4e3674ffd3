"""UCOB: where two branches visit one state, the better one teaches the other (arXiv:2606.29502).

The base is GiGPO. Rollouts with retrieved skills (the informed branch) and without (the plain one)
meet in anchor states; the branch with the higher discounted return is the teacher of that state, in
either direction, over the teacher's most likely tokens:

    ℓ = 0.1 · weight · σ(5·(lp_teacher − lp_student)) · Σ_v p_T(v) · (ln p_T(v) − ln p_S(v))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepopsd_rllib.objectives.divergence import exact_kl
from stepopsd_rllib.objectives.steps import sum_by

SMALLEST_RETURN_GAP = 0.05
"""Return gap below which neither branch teaches; the authors' code."""

RETURN_GAP_SCALE = 0.2
"""Return gap of weight 1; the authors' code."""

LARGEST_WEIGHT = 2.0
"""Cap of the weight; the authors' code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchTeachers:
    """Who teaches each turn of a batch.

    Attributes:
        is_paired_S: bool [S], whether both branches visited the turn's state.
        teacher_S: int64 [S], the turn whose context the teacher reads; -1 where nobody teaches.
        gap_S: Float64 [S], how much better the teacher's branch did, in the unit of the return; 0
            where nobody teaches.
    """

    is_paired_S: Tensor
    teacher_S: Tensor
    gap_S: Tensor


def branch_teachers(returns_S: Tensor, anchor_S: Tensor, is_informed_S: Tensor) -> BranchTeachers:
    """Finds who teaches each turn: where two branches meet, the one that fared better.

    In a state that both branches visited, with Ḡ the mean return over the visits of a branch,

        d = |Ḡ_informed − Ḡ_plain|

    Every visit of the lower branch is a student, and its teacher is the best visit of the higher
    one (the highest return; the earliest of equals): one context has to stand for the branch.

    Args:
        returns_S: Float [S], discounted return of each turn.
        anchor_S: int64 [S], anchor group of each turn.
        is_informed_S: bool [S], whether the turn's episode had skills in its prompts.
    """
    exact_S = returns_S.double()
    states, index_S = anchor_S.unique(return_inverse=True)
    num_branches = 2 * len(states)
    own_S = 2 * index_S + is_informed_S.long()
    other_S = own_S + 1 - 2 * is_informed_S.long()
    counts_M = sum_by(torch.ones_like(exact_S), own_S, num_branches)
    means_M = sum_by(exact_S, own_S, num_branches) / counts_M.clamp(min=1)
    is_paired_S = counts_M[other_S] > 0
    gap_S = (means_M[other_S] - means_M[own_S]).clamp(min=0.0).masked_fill(~is_paired_S, 0.0)
    best_M = torch.full_like(counts_M, -torch.inf).scatter_reduce(0, own_S, exact_S, "amax")
    turn_S = torch.arange(len(exact_S), device=exact_S.device)
    turn_S = torch.where(exact_S == best_M[own_S], turn_S, len(exact_S))
    first_M = own_S.new_full((num_branches,), len(exact_S)).scatter_reduce(0, own_S, turn_S, "amin")
    teacher_S = torch.where(gap_S > 0, first_M[other_S], -1)
    return BranchTeachers(is_paired_S=is_paired_S, teacher_S=teacher_S, gap_S=gap_S)


def branch_weights(
    return_gap_B: Tensor,
    *,
    smallest_gap: float = SMALLEST_RETURN_GAP,
    scale: float = RETURN_GAP_SCALE,
    largest: float = LARGEST_WEIGHT,
) -> Tensor:
    """Weight of each student row from how much better its teacher's branch did.

        weight = min(max(d / scale, 0), largest) where d > smallest gap, else 0

    Args:
        return_gap_B: Float [B], discounted return of the teacher's branch minus that of the
            student's.
        smallest_gap: Gap up to which nobody teaches, in the unit of the return.
        scale: Gap of weight 1, in the unit of the return.
        largest: Cap of the weight.

    Returns:
        Float [B] in [0, largest].
    """
    weight_B = (return_gap_B / scale).clamp(0.0, largest)
    return torch.where(return_gap_B > smallest_gap, weight_B, torch.zeros_like(weight_B))


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
    divergence_BT = exact_kl(teacher_BTK, student_BTK)
    weight_BT = weight_B[:, None].expand_as(divergence_BT)
    if gate_BT is not None:
        weight_BT = weight_BT * gate_BT.detach()
    return weight_BT.masked_fill(outside_BT, 0.0) * divergence_BT
