"""Rewards on last tokens and entropies from logits, as programs with dense batches keep them."""

from __future__ import annotations

import torch
from torch import Tensor

from stepopsd_rllib.objectives.reduction import same_shape


def add_at_last_token(rewards_BT: Tensor, response_mask_BT: Tensor, amounts_B: Tensor) -> Tensor:
    """Adds an amount to the last token of the response mask of each row.

    Args:
        rewards_BT: Token rewards, float [B, T].
        response_mask_BT: 0/1 of any dtype, [B, T].
        amounts_B: Float [B]. A row without response tokens takes nothing.

    Returns:
        Float [B, T], a new tensor.
    """
    same_shape(rewards_BT=rewards_BT, response_mask_BT=response_mask_BT)
    is_response_BT = response_mask_BT != 0
    num_later_BT = is_response_BT.flip(1).cumsum(1).flip(1)
    is_last_BT = is_response_BT & (num_later_BT == 1)
    return torch.where(is_last_BT, rewards_BT + amounts_B[:, None].to(rewards_BT.dtype), rewards_BT)


def token_entropy(logits_NV: Tensor) -> Tensor:
    """Exact entropy of the next-token distribution, H = log Σ exp(z) − Σ p·z.

    Args:
        logits_NV: Float [N, V], any number of leading axes.

    Returns:
        Float [N] in nats.
    """
    log_probs_NV = logits_NV.log_softmax(-1)
    # A logit of −inf has probability 0 and adds nothing, but 0 · −inf is NaN.
    return -(log_probs_NV.exp() * log_probs_NV.masked_fill(log_probs_NV.isinf(), 0.0)).sum(-1)
