"""Skill-SD: an importance-weighted k3 self-distillation loss (arXiv:2604.10674)."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_NEGATIVE_LOG_RATIO = 20.0
"""Clamp, nats, of lp_T − lp inside the exponential of k3; the authors' code."""

MAX_LOG_IMPORTANCE = 10.0
"""Clamp, nats, of the log importance ratio lp − lp_old; the authors' code."""


def skill_sd_token_loss(
    policy_log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    teacher_log_probs_BT: Tensor,
    response_mask_BT: Tensor,
) -> Tensor:
    """The Skill-SD loss of every token.

        d  = lp − lp_T
        k3 = exp(min(−d, 20)) − 1 + d              ≥ 0, single-sample estimate of KL(policy‖teacher)
        ρ  = exp(min(lp − lp_old, 10))
        ℓ  = ρ · k3                                 L = L_GRPO + 0.001 · aggregate(ℓ)

    The gradient flows through both ρ and k3, as in the authors' code. Their schedule for the
    coefficient is logged but never applied, so there is none here.

    Args:
        policy_log_probs_BT: Float [B, T], current policy; carries the gradient.
        old_log_probs_BT: Float [B, T], the policy before the update (lp_old); detached here.
        teacher_log_probs_BT: Float [B, T], the same tokens under the skill-informed context;
            detached here.
        response_mask_BT: Bool [B, T].

    Returns:
        Float [B, T], nats; zero in value and gradient outside the mask.
    """
    mask_BT = response_mask_BT.bool()
    # Masked inputs are replaced before the exponentials: an infinity times zero would be a NaN
    # gradient.
    zeros_BT = torch.zeros_like(policy_log_probs_BT)
    difference_BT = torch.where(
        mask_BT, policy_log_probs_BT - teacher_log_probs_BT.detach(), zeros_BT
    )
    log_importance_BT = torch.where(
        mask_BT, policy_log_probs_BT - old_log_probs_BT.detach(), zeros_BT
    )
    k3_BT = (-difference_BT).clamp(max=MAX_NEGATIVE_LOG_RATIO).exp() - 1 + difference_BT
    return log_importance_BT.clamp(max=MAX_LOG_IMPORTANCE).exp() * k3_BT
