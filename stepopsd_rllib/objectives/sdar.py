"""SDAR: a gated self-distillation loss beside an untouched GRPO.

    δ = lp_T − sg(lp)            gap of the skill-informed teacher on the sampled token, nats
    g = σ(β·δ)                   gate, detached: it has no parameters and is not learnt
    ℓ = g · (lp_T − lp)          loss of one token;  L = L_GRPO + c · aggregate(ℓ)

Three per-token losses stand behind the gate, because the paper compares three divergences. All are
estimated from the one token that the policy sampled, so the names say what each converges to:

- `reverse_kl_loss`: the published form. Its value is minus the single-sample estimate of
  KL(policy‖teacher); its gradient is gated likelihood ascent on the sampled token, −g per unit of
  log-prob. It is *not* the gradient of that KL: under a constant gate its on-policy expectation is
  zero, and all signal is the covariance of the gate with the score.
- `jensen_shannon_loss`, `forward_kl_loss`: single-sample importance-weighted estimates whose value
  and gradient are both unbiased on-policy (up to the clamp of the log-ratio). The authors' own
  sampled forms of these two are not published; these are derived here.

The published comparison ran GRPO+OPSD and OPSD as settings of this loss:
`reference/sdar_settings.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from stepopsd_rllib.objectives.reduction import same_shape

GateName = Literal["gap", "entropy", "soft_or", "none"]
Divergence = Literal["reverse_kl", "jensen_shannon", "forward_kl"]

MAX_LOG_RATIO = 10.0
"""Largest log(teacher / policy), nats, that the importance-weighted estimates let through; bounds
their variance."""


def gap_gate(policy_log_probs_BT: Tensor, teacher_log_probs_BT: Tensor, *, beta: float) -> Tensor:
    """The gate of SDAR: open where the teacher likes the sampled token better.

        g = σ(β · (lp_T − lp))

    Args:
        policy_log_probs_BT: Float [B, T], log-probs of the sampled tokens under the current policy.
        teacher_log_probs_BT: Float [B, T], the same tokens under the skill-informed context.
        beta: Sharpness, per nat (paper: 5). 0 gives 1/2 everywhere.

    Returns:
        Float [B, T] in (0, 1), detached.
    """
    return torch.sigmoid(beta * (teacher_log_probs_BT - policy_log_probs_BT).detach())


def entropy_gate(normalized_entropy_BT: Tensor, *, beta: float) -> Tensor:
    """The compared gate that opens where the policy is unsure: g = σ(β·h).

    Args:
        normalized_entropy_BT: Float [B, T] in [0, 1], see `normalized_entropy`.
        beta: Sharpness.

    Returns:
        Float [B, T] in [1/2, 1) for β ≥ 0, detached.
    """
    return torch.sigmoid(beta * normalized_entropy_BT.detach())


def soft_or_gate(
    policy_log_probs_BT: Tensor,
    teacher_log_probs_BT: Tensor,
    normalized_entropy_BT: Tensor,
    *,
    beta: float,
) -> Tensor:
    """The compared gate: open where the policy is unsure *or* the teacher likes the token.

        g = σ(β · [1 − (1 − h)(1 − δ)])

    Args:
        policy_log_probs_BT: Float [B, T].
        teacher_log_probs_BT: Float [B, T].
        normalized_entropy_BT: Float [B, T] in [0, 1].
        beta: Sharpness.

    Returns:
        Float [B, T] in (0, 1), detached.
    """
    gap_BT = (teacher_log_probs_BT - policy_log_probs_BT).detach()
    either_BT = 1 - (1 - normalized_entropy_BT.detach()) * (1 - gap_BT)
    return torch.sigmoid(beta * either_BT)


def normalized_entropy(entropy_BT: Tensor, *, vocabulary_size: int) -> Tensor:
    """Token entropy as a share of the largest possible one: h = H / ln V, in [0, 1].

    Args:
        entropy_BT: Float [B, T], entropy of the policy's distribution, nats.
        vocabulary_size: V, the number of tokens the distribution ranges over.

    Returns:
        Float [B, T].
    """
    return (entropy_BT / math.log(vocabulary_size)).clamp(0.0, 1.0)


def reverse_kl_loss(policy_log_probs_BT: Tensor, teacher_log_probs_BT: Tensor) -> Tensor:
    """The published token loss: ℓ = lp_T − lp.

    Follows the authors' code. The value is minus the single-sample estimate of KL(policy‖teacher);
    the gradient −1 per unit of `policy_log_probs_BT` is that of maximum likelihood on the sampled
    token.

    Args:
        policy_log_probs_BT: Float [B, T]; carries the gradient.
        teacher_log_probs_BT: Float [B, T]; detached here.

    Returns:
        Float [B, T], nats.
    """
    return teacher_log_probs_BT.detach() - policy_log_probs_BT


def forward_kl_loss(policy_log_probs_BT: Tensor, teacher_log_probs_BT: Tensor) -> Tensor:
    """Single-sample importance-weighted estimate of KL(teacher‖policy).

        ℓ = u·(lp_T − lp),  u = sg(π_T / π)

    Unbiased in value and gradient (−u per unit of log-prob) for tokens drawn from the current
    policy, as long as log u stays below `MAX_LOG_RATIO`. Derived here; see the module docstring.

    Args:
        policy_log_probs_BT: Float [B, T]; carries the gradient.
        teacher_log_probs_BT: Float [B, T]; detached here.

    Returns:
        Float [B, T], nats.
    """
    gap_BT = teacher_log_probs_BT.detach() - policy_log_probs_BT
    return gap_BT.detach().clamp(max=MAX_LOG_RATIO).exp() * gap_BT


def jensen_shannon_loss(policy_log_probs_BT: Tensor, teacher_log_probs_BT: Tensor) -> Tensor:
    """Single-sample estimate of the Jensen-Shannon divergence between policy and teacher.

    With u = π_T / π on the sampled token and M the equal mixture,

        value     ½ [u ln u − (1 + u) ln((1 + u) / 2)]      its mean over y ~ π is
                                                            ½KL(π_T‖M) + ½KL(π‖M)
        gradient  ½ ln(2 / (1 + u)) per unit of log-prob    the score-function gradient of that mean

    Both are unbiased for tokens drawn from the current policy, up to the clamp of ln u at
    `MAX_LOG_RATIO`. Derived here; see the module docstring.

    Args:
        policy_log_probs_BT: Float [B, T]; carries the gradient.
        teacher_log_probs_BT: Float [B, T]; detached here.

    Returns:
        Float [B, T], nats.
    """
    log_ratio_BT = (teacher_log_probs_BT - policy_log_probs_BT).detach().clamp(max=MAX_LOG_RATIO)
    ratio_BT = log_ratio_BT.exp()
    log_mixture_BT = torch.log1p(ratio_BT) - math.log(2.0)  # ln((1 + u) / 2)
    value_BT = 0.5 * (ratio_BT * log_ratio_BT - (1 + ratio_BT) * log_mixture_BT)
    return value_BT - 0.5 * log_mixture_BT * (policy_log_probs_BT - policy_log_probs_BT.detach())


TOKEN_LOSSES: dict[Divergence, Callable[[Tensor, Tensor], Tensor]] = {
    "reverse_kl": reverse_kl_loss,
    "jensen_shannon": jensen_shannon_loss,
    "forward_kl": forward_kl_loss,
}


def gated_token_loss(
    policy_log_probs_BT: Tensor,
    teacher_log_probs_BT: Tensor,
    gate_BT: Tensor,
    response_mask_BT: Tensor,
    *,
    divergence: Divergence = "reverse_kl",
) -> Tensor:
    """The gated distillation loss of every token.

    The caller aggregates it with the weights of the policy loss (`reduction.token_weights`), so
    that normalisation is exact over a minibatch.

    Args:
        policy_log_probs_BT: Float [B, T], current policy; carries the gradient.
        teacher_log_probs_BT: Float [B, T], the same tokens under the skill-informed context;
            detached.
        gate_BT: Float [B, T], from one of the gates; ones for none. Detached here.
        response_mask_BT: 0/1 of any dtype, [B, T], 1 on tokens that the policy sampled.
        divergence: Which of the three token losses.

    Returns:
        Float [B, T], nats; 0 without gradient outside the mask, whatever stands there.

    Raises:
        ValueError: An unknown divergence, or tensors of different shapes.
    """
    same_shape(
        policy=policy_log_probs_BT,
        teacher=teacher_log_probs_BT,
        gate=gate_BT,
        mask=response_mask_BT,
    )
    if divergence not in TOKEN_LOSSES:
        raise ValueError(
            f"divergence={divergence!r} is not known. Use one of {', '.join(TOKEN_LOSSES)}."
        )
    outside_BT = response_mask_BT == 0
    token_loss_BT = TOKEN_LOSSES[divergence](
        policy_log_probs_BT.masked_fill(outside_BT, 0.0),
        teacher_log_probs_BT.masked_fill(outside_BT, 0.0),
    )
    return gate_BT.detach().masked_fill(outside_BT, 0.0) * token_loss_BT
