"""KL estimators from the log-probs of sampled tokens; exact KL and entropy of distributions.

The estimators are those of J. Schulman, joschu.net/blog/kl-approx.html. With `d = policy −
reference`, under tokens sampled from the policy: k1 is unbiased, k2 and k3 are non-negative with
less variance, and k3 is unbiased too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from stepopsd_rllib.objectives.reduction import same_shape

KLEstimator = Literal["k1", "abs", "k2", "k3"]

# The reference programs bound k3 to ±10, and the log ratio inside it so that exp cannot overflow.
MAX_K3 = 10.0
MAX_K3_LOG_RATIO = 20.0


def k1(policy_log_probs_BT: Tensor, reference_log_probs_BT: Tensor) -> Tensor:
    """d, per token; float [B, T] in nats."""
    return policy_log_probs_BT - reference_log_probs_BT


def k_abs(policy_log_probs_BT: Tensor, reference_log_probs_BT: Tensor) -> Tensor:
    """|d|, per token; float [B, T] in nats."""
    return k1(policy_log_probs_BT, reference_log_probs_BT).abs()


def k2(policy_log_probs_BT: Tensor, reference_log_probs_BT: Tensor) -> Tensor:
    """d² / 2, per token; float [B, T]."""
    return k1(policy_log_probs_BT, reference_log_probs_BT).square() / 2


def k3(policy_log_probs_BT: Tensor, reference_log_probs_BT: Tensor) -> Tensor:
    """exp(−d) + d − 1, per token, clamped to ±10 (`low_var_kl` in verl); float [B, T]."""
    d_BT = k1(policy_log_probs_BT, reference_log_probs_BT).clamp(
        -MAX_K3_LOG_RATIO, MAX_K3_LOG_RATIO
    )
    return ((-d_BT).exp() + d_BT - 1.0).clamp(-MAX_K3, MAX_K3)


KL_ESTIMATORS: dict[KLEstimator, Callable[[Tensor, Tensor], Tensor]] = {
    "k1": k1,
    "abs": k_abs,
    "k2": k2,
    "k3": k3,
}


def kl_divergence(
    policy_log_probs_BT: Tensor,
    reference_log_probs_BT: Tensor,
    mask_BT: Tensor,
    *,
    estimator: KLEstimator = "k3",
) -> Tensor:
    """Estimate of KL(policy ‖ reference) per token. The reference is detached here.

    Args:
        policy_log_probs_BT: Log-probs of the sampled tokens now, float [B, T]; carries the
            gradient.
        reference_log_probs_BT: The same under the KL reference, float [B, T].
        mask_BT: 0/1 of any dtype, [B, T].
        estimator: Which of the four.

    Returns:
        Float [B, T] in nats, 0 without gradient outside the mask.

    Raises:
        ValueError: An unknown estimator.
    """
    same_shape(policy=policy_log_probs_BT, reference=reference_log_probs_BT, mask=mask_BT)
    if estimator not in KL_ESTIMATORS:
        raise ValueError(
            f"estimator={estimator!r} is not known. Use one of {', '.join(KL_ESTIMATORS)}."
        )
    outside_BT = mask_BT == 0
    return KL_ESTIMATORS[estimator](
        policy_log_probs_BT.masked_fill(outside_BT, 0.0),
        reference_log_probs_BT.detach().masked_fill(outside_BT, 0.0),
    )


def exact_kl(log_p_NK: Tensor, log_q_NK: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p (ln p − ln q) of distributions, or of parts of them, over K tokens.

    Args:
        log_p_NK: Float [N, K], any number of leading axes; finite.
        log_q_NK: The same under q.

    Returns:
        Float [N] in nats.
    """
    return (log_p_NK.exp() * (log_p_NK - log_q_NK)).sum(dim=-1)
