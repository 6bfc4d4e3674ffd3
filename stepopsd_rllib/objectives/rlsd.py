"""RLSD: token weights from the teacher's log-prob shift on one advantage a row (arXiv:2604.03128).

The schedule of its λ is `schedules.linear_warm_down`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rlsd_advantages(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    response_mask_BT: Tensor,
    *,
    mixing: float,
    clip_range: float,
) -> Tensor:
    """Redistributes the advantage of a row over its tokens.

        a = advantage at the row's first masked-in token
        w = clip(exp(sign(a) · Δ), 1 − ε, 1 + ε)
        Ã = a · ((1 − λ) + λ · w)

    This is StepOPSD with the exponential weight, all tokens as one span and no normalisation.

    Args:
        advantages_BT: Float [B, T], the GRPO advantage; constant over the response tokens of a row.
        gap_BT: Float [B, T], Δ = teacher − student log-prob of the sampled token, nats; detached
            here.
        response_mask_BT: Bool [B, T].
        mixing: λ in [0, 1]; 0 is GRPO (paper: 0.5 decayed to 0 over 50 updates).
        clip_range: ε in [0, 1) (paper: 0.2).

    Returns:
        Float [B, T], zero outside the mask; a row without a masked-in token is all zero.
    """
    mask_BT = response_mask_BT.bool()
    row_advantage_B1 = advantages_BT.gather(1, mask_BT.int().argmax(dim=1, keepdim=True))
    signed_gap_BT = row_advantage_B1.sign() * gap_BT.detach()
    weight_BT = signed_gap_BT.exp().clamp(1 - clip_range, 1 + clip_range)
    shaped_BT = row_advantage_B1 * ((1 - mixing) + mixing * weight_BT)
    return torch.where(mask_BT, shaped_BT, torch.zeros_like(shaped_BT))
