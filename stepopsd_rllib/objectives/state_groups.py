"""Turns of a task's episodes that were taken in the same state, compared with one another.

Shared by GiGPO, HGPO, GraphGPO and G2PO, which differ in the number they compare and in which turns
count as alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepopsd_rllib.objectives.advantages import EQUAL_RETURNS_SPREAD
from stepopsd_rllib.objectives.steps import sum_by


def centred_in_groups(
    values_S: Tensor, group_S: Tensor, *, scale: bool, eps: float = 1e-6, divisor_less: int = 1
) -> Tensor:
    """Centres a number of each turn on its group, and scales it.

        a = x − mean(x of the group)                    scale=False ("mean_norm")
        a = (x − mean) / (std + ε)                      scale=True  ("mean_std_norm")

    Args:
        values_S: Float [S], any unit.
        group_S: int64 [S], group of each turn.
        scale: Whether to divide by the standard deviation.
        eps: ε, in the unit of the values.
        divisor_less: What the divisor of the variance is less than the group's size: 1 (n − 1), or
            0 (population).

    Returns:
        Float64 [S]. A turn alone in its group has nothing to compare with and gets 0, and so does a
        group whose values are equal within 1e-8: rounding of a mean must not become an advantage.
    """
    exact_S = values_S.double()
    _, index_S, size_K = group_S.unique(return_inverse=True, return_counts=True)
    num_groups = len(size_K)
    centred_S = exact_S - (sum_by(exact_S, index_S, num_groups) / size_K)[index_S]
    spread_K = exact_S.new_zeros(num_groups).scatter_reduce(0, index_S, centred_S.abs(), "amax")
    centred_S = torch.where(spread_K[index_S] < EQUAL_RETURNS_SPREAD, 0.0, centred_S)
    if scale:
        divisor_K = (size_K - divisor_less).clamp(min=1)
        variance_K = sum_by(centred_S.square(), index_S, num_groups) / divisor_K
        centred_S = centred_S / (variance_K.sqrt()[index_S] + eps)
    return centred_S


def anchor_metrics(anchor_S: Tensor) -> dict[str, Tensor]:
    """How many turns have others to be compared with.

    Args:
        anchor_S: int64 [S], state of each turn.

    Returns:
        `anchor_group_size_mean`, turns of a state, and `anchor_shared_turn_share`, the share of the
        turns whose state has another; float64.
    """
    size_K = anchor_S.unique(return_counts=True)[1].double()
    return {
        "anchor_group_size_mean": size_K.mean(),
        "anchor_shared_turn_share": size_K[size_K > 1].sum() / size_K.sum(),
    }


def penalised(values_S: Tensor, is_valid_S: Tensor, *, penalty: float) -> Tensor:
    """Takes the penalty of an invalid action from its own turn's number: x − coef · (1 − v).

    Follows the authors' programs of GiGPO, HGPO, GraphGPO and G2PO: the step signal is computed
    from the environment's rewards, and the penalty is subtracted afterwards, never discounted back
    to earlier turns.

    Args:
        values_S: Float [S].
        is_valid_S: Bool [S], whether the turn's response followed the action format.
        penalty: coef, in the unit of the values.

    Returns:
        Float [S].
    """
    return values_S - penalty * (~is_valid_S.bool()).to(values_S.dtype)
