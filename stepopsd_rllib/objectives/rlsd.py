"""RLSD: token weights from the teacher's log-prob shift on one advantage a row (arXiv:2604.03128).

The schedule of its λ is `schedules.linear_warm_down`.
"""

from __future__ import annotations

from torch import Tensor

from stepopsd_rllib.objectives.stepopsd import hindsight_weights, mix_advantages


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
    first_B1 = (response_mask_BT != 0).int().argmax(dim=1, keepdim=True)
    row_advantages_BT = advantages_BT.gather(1, first_B1).expand_as(advantages_BT)
    weights_BT = hindsight_weights(
        row_advantages_BT,
        gap_BT.detach(),
        response_mask_BT,
        alpha_clip=clip_range,
        weight_fn="exp",
    )
    return mix_advantages(row_advantages_BT, weights_BT, response_mask_BT, lambda_mix=mixing)
