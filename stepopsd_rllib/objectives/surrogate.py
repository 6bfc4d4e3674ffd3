"""Importance ratios and the clipped surrogate.

PPO (arXiv:1707.06347 Eq. 7), dual clip (arXiv:1912.09729 Eq. 5), clip-higher (DAPO,
arXiv:2503.14476 Eq. 10), sequence ratios (GSPO, arXiv:2507.18071 §4.3), truncated importance
weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepopsd_rllib.objectives.reduction import same_shape

# Beyond this the ratio is far outside any clip range, and exp would overflow float32 into NaN
# gradients.
MAX_LOG_RATIO = 20.0
# The GSPO authors' bound on the log of the sequence ratio.
MAX_SEQUENCE_LOG_RATIO = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ClippedSurrogate:
    """The token losses and what happened to them. All [B, T]; the diagnostics are detached.

    Attributes:
        loss: Token losses, float; 0 outside the mask.
        ratio: Importance ratio `r`, float; 1 outside the mask.
        is_clipped: True where the clipped term is the larger one, so the gradient is cut.
        is_dual_clipped: True where the dual clip bounds the loss of a negative advantage.
    """

    loss: Tensor
    ratio: Tensor
    is_clipped: Tensor
    is_dual_clipped: Tensor


def token_log_ratio(
    policy_log_probs_BT: Tensor, old_log_probs_BT: Tensor, mask_BT: Tensor
) -> Tensor:
    """Log r = policy − old per token (PPO, GRPO).

    Args:
        policy_log_probs_BT: Log-probs now, float [B, T]; carries the gradient.
        old_log_probs_BT: Log-probs before the update, float [B, T].
        mask_BT: 0/1 of any dtype, [B, T].

    Returns:
        Float [B, T] in nats, within ±20; exactly 0, without gradient, outside the mask.
    """
    same_shape(policy=policy_log_probs_BT, old=old_log_probs_BT, mask=mask_BT)
    log_ratio_BT = (policy_log_probs_BT - old_log_probs_BT.detach()).clamp(
        -MAX_LOG_RATIO, MAX_LOG_RATIO
    )
    return torch.where(mask_BT != 0, log_ratio_BT, 0.0)


def sequence_log_ratio(
    policy_log_probs_BT: Tensor, old_log_probs_BT: Tensor, mask_BT: Tensor
) -> Tensor:
    """Log of the length-normalised sequence ratio in token form (arXiv:2507.18071 Eq. 14).

        sₜ = sg(exp(mean over tokens of (policy − old))) · policyₜ / sg(policyₜ)

    Its value is the same on every token of the row; its gradient is that of the token's own
    log-prob.

    Args:
        policy_log_probs_BT: Log-probs now, float [B, T]; carries the gradient.
        old_log_probs_BT: Log-probs before the update, float [B, T].
        mask_BT: 0/1 of any dtype, [B, T].

    Returns:
        Float [B, T] in nats, at most 10; exactly 0, without gradient, outside the mask.
    """
    log_ratio_BT = token_log_ratio(policy_log_probs_BT, old_log_probs_BT, mask_BT).detach()
    length_B1 = (mask_BT != 0).sum(1, keepdim=True).clamp(min=1)
    mean_B1 = log_ratio_BT.sum(1, keepdim=True) / length_B1
    log_ratio_BT = mean_B1 + policy_log_probs_BT - policy_log_probs_BT.detach()
    return torch.where(mask_BT != 0, log_ratio_BT.clamp(max=MAX_SEQUENCE_LOG_RATIO), 0.0)


def clipped_surrogate(
    log_ratio_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> ClippedSurrogate:
    """The token losses of PPO with separate clip bounds, and with the dual clip.

        ℓ = max(−A·r, −A·clip(r, 1 − clip_low, 1 + clip_high))
        ℓ = min(ℓ, −A·dual_clip)    where A < 0

    Args:
        log_ratio_BT: Log-ratio from `token_log_ratio` or `sequence_log_ratio`, float [B, T].
        advantages_BT: Float [B, T]; detached here.
        mask_BT: 0/1 of any dtype, [B, T].
        clip_low: ε_lo, in [0, 1).
        clip_high: ε_hi, at least 0; above `clip_low` it is DAPO's clip-higher.
        dual_clip: c > 1, the largest ratio that counts for a negative advantage; None for no bound.

    Returns:
        Token losses and diagnostics. Multiply the losses with `token_weights` and sum.
    """
    same_shape(log_ratio_BT=log_ratio_BT, advantages_BT=advantages_BT, mask_BT=mask_BT)
    is_token_BT = mask_BT != 0
    advantages_BT = advantages_BT.detach().masked_fill(~is_token_BT, 0.0)
    ratio_BT = log_ratio_BT.exp()
    unclipped_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss_BT = torch.maximum(unclipped_BT, clipped_BT)
    is_dual_clipped_BT = torch.zeros_like(is_token_BT)
    if dual_clip is not None:
        bound_BT = -advantages_BT * dual_clip
        is_dual_clipped_BT = (advantages_BT < 0) & (loss_BT > bound_BT)
        loss_BT = torch.where(is_dual_clipped_BT, bound_BT, loss_BT)
    return ClippedSurrogate(
        loss=loss_BT,
        ratio=ratio_BT.detach(),
        is_clipped=(clipped_BT > unclipped_BT).detach(),
        is_dual_clipped=is_dual_clipped_BT,
    )


def truncated_importance_weights(
    old_log_probs_BT: Tensor, behaviour_log_probs_BT: Tensor, mask_BT: Tensor, *, maximum: float
) -> Tensor:
    """min(exp(old − behaviour), maximum), a factor of the token losses.

    Sampler and learner compute the same policy in different arithmetic; the weight corrects for the
    difference, and the cap bounds its variance (truncated importance sampling).

    Args:
        old_log_probs_BT: The learner's log-probs before the update, float [B, T].
        behaviour_log_probs_BT: The sampler's own log-probs of the same tokens, float [B, T].
        mask_BT: 0/1 of any dtype, [B, T].
        maximum: Largest weight; `math.inf` for the plain ratio.

    Returns:
        Float [B, T], detached; 1 outside the mask.
    """
    return (
        token_log_ratio(old_log_probs_BT, behaviour_log_probs_BT, mask_BT)
        .detach()
        .exp()
        .clamp(max=maximum)
    )
