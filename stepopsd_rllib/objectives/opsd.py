"""OPSD: divergence of the policy from a teacher that knows more (arXiv:2601.18734).

On every position of a response that the policy sampled, over the tokens v of the vocabulary,

    forward_kl      KL(p_T ‖ p_S) = Σ p_T (ln p_T − ln p_S)
    reverse_kl      KL(p_S ‖ p_T) = Σ p_S (ln p_S − ln p_T)
    jensen_shannon  ½ KL(p_T ‖ m) + ½ KL(p_S ‖ m),   m = (p_T + p_S) / 2

with a gradient through p_S at fixed positions. Unlike an estimate from the sampled token alone,
whose ungated gradient holds nothing of the teacher (`objectives.sdar`), it says at every position
which token the teacher would have written.

Distributions are given on K tokens and stand for the rest with one more: merging tokens can only
shrink these divergences, and with K the vocabulary they are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from stepopsd_rllib.objectives.divergence import exact_kl

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon"]


def with_rest(log_probs_NK: Tensor) -> Tensor:
    """Adds the log-probability of all other tokens together.

        ln p_rest = ln(1 − Σ p_v)

    Args:
        log_probs_NK: Float [N, K], log-probs of different tokens under the whole distribution.

    Returns:
        Float [N, K + 1], nats. The rest is at least the machine epsilon: less cannot be told from
        rounding, and would weigh as much as its logarithm in a reverse KL.
    """
    rest_N = 1.0 - log_probs_NK.exp().sum(dim=-1)
    smallest = torch.finfo(log_probs_NK.dtype).eps
    return torch.cat((log_probs_NK, rest_N.clamp(min=smallest).log()[:, None]), dim=-1)


def forward_kl(policy_NK: Tensor, teacher_NK: Tensor) -> Tensor:
    """KL(teacher ‖ policy) of log-probs [N, K] over all of their tokens; float [N], nats."""
    return exact_kl(teacher_NK, policy_NK)


def reverse_kl(policy_NK: Tensor, teacher_NK: Tensor) -> Tensor:
    """KL(policy ‖ teacher); float [N], nats."""
    return exact_kl(policy_NK, teacher_NK)


def jensen_shannon(policy_NK: Tensor, teacher_NK: Tensor) -> Tensor:
    """Mean divergence of both from their equal mixture; float [N], nats, at most ln 2."""
    mixture_NK = torch.logaddexp(policy_NK, teacher_NK) - math.log(2.0)
    return 0.5 * (exact_kl(teacher_NK, mixture_NK) + exact_kl(policy_NK, mixture_NK))


DIVERGENCES: dict[Divergence, Callable[[Tensor, Tensor], Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
}


def opsd_token_loss(
    policy_log_probs_NK: Tensor, teacher_log_probs_NK: Tensor, *, divergence: Divergence
) -> Tensor:
    """The divergence at every position.

    Args:
        policy_log_probs_NK: Float [N, K], the policy's log-probs of K tokens at N positions, under
            its whole distribution; carries the gradient.
        teacher_log_probs_NK: Float [N, K], the teacher's; detached here.
        divergence: Which of the three.

    Returns:
        Float [N], nats, not negative up to rounding.
    """
    return DIVERGENCES[divergence](
        with_rest(policy_log_probs_NK), with_rest(teacher_log_probs_NK.detach())
    )
