"""OPID's auxiliary token losses, off in all of the authors' scripts (arXiv:2606.26790)."""

from __future__ import annotations

import torch
from torch import Tensor

from stepopsd_rllib.objectives.opid import skill_shift


def delta_token_loss(
    policy_log_probs_BT: Tensor,
    skill_log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    scored_BT: Tensor,
) -> Tensor:
    """The auxiliary loss "delta" (off by default): ℓ = −sg(lp_X − lp_old) · lp.

    Args:
        policy_log_probs_BT: Float [B, T]; carries the gradient.
        skill_log_probs_BT: Float [B, T].
        old_log_probs_BT: Float [B, T].
        scored_BT: Bool [B, T].

    Returns:
        Float [B, T].
    """
    shift_BT = skill_shift(skill_log_probs_BT, old_log_probs_BT, scored_BT)
    return torch.where(
        scored_BT.bool(), -shift_BT * policy_log_probs_BT, torch.zeros_like(shift_BT)
    )


def importance_token_loss(
    policy_log_probs_BT: Tensor,
    skill_log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    scored_BT: Tensor,
) -> Tensor:
    """The auxiliary loss "importance" (off by default): ℓ = −(lp_X − lp_old) · exp(lp − lp_old).

    Args:
        policy_log_probs_BT: Float [B, T]; carries the gradient.
        skill_log_probs_BT: Float [B, T].
        old_log_probs_BT: Float [B, T].
        scored_BT: Bool [B, T].

    Returns:
        Float [B, T], 0 outside `scored_BT`.
    """
    shift_BT = skill_shift(skill_log_probs_BT, old_log_probs_BT, scored_BT)
    log_ratio_BT = policy_log_probs_BT - old_log_probs_BT.detach()
    log_ratio_BT = torch.where(scored_BT.bool(), log_ratio_BT, torch.zeros_like(shift_BT))
    return -shift_BT * log_ratio_BT.exp()
