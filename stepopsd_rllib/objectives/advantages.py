"""Group-relative advantages (GRPO, arXiv:2402.03300) and what is done to returns before them."""

from __future__ import annotations

import torch
from torch import Tensor

from stepopsd_rllib.objectives.reduction import same_shape

# Returns of a group closer than this are equal: rounding of a mean must not become an advantage.
EQUAL_RETURNS_SPREAD = 1e-8


def group_advantages(
    returns_B: Tensor,
    group_B: Tensor,
    *,
    episode_B: Tensor | None = None,
    normalize: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """Centres each return on its group, and scales it (GRPO, arXiv:2402.03300 §4.1.2).

        Âᵦ = (Rᵦ − μ_g) / (σ_g + eps)          g = group of row b; σ with divisor n − 1
        Âᵦ = Rᵦ − μ_g                          without normalisation (Dr.GRPO, arXiv:2503.20783)

    A group of one has μ = 0 and σ = 1, so that its raw return survives (as the reference programs
    do).

    Args:
        returns_B: Return of the episode of each row, penalties included, float [B].
        group_B: Group of each row, int64 [B].
        episode_B: Episode of each row, int64 [B]. Given, the first row of each episode alone enters
            the statistics; otherwise every row does, and an episode of many rows counts many times.
            Rows of one episode should then share their return: in a group whose first rows are all
            equal, the scale is 1/eps, so a later row that differs by 0.1 gets an advantage of 10⁵.
        normalize: Divide by the standard deviation.
        eps: Added to the standard deviation; unit of the return.

    Returns:
        Float [B], dtype of the returns. Equal returns give 0: a group that all failed or all
        succeeded carries no signal.
    """
    group = _GroupStatistics(returns_B, group_B, episode_B)
    centred_B = group.exact_B - group.mean_B
    if normalize:
        centred_B = centred_B / (group.deviation_B + eps)
    return centred_B.masked_fill(group.is_flat_B, 0.0).to(returns_B.dtype)


def group_scales(
    returns_B: Tensor,
    group_B: Tensor,
    *,
    episode_B: Tensor | None = None,
    normalize: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """What `group_advantages` divides by, for rewards that join the returns without a group mean.

    Args:
        returns_B: Returns as in `group_advantages`, and so are the others.
        group_B: Group of each row.
        episode_B: Episode of each row, or none.
        normalize: Whether there is a division at all.
        eps: Added to the standard deviation.

    Returns:
        Float64 [B]: σ_g + eps; 1 without normalisation, and where the returns of a group are all
        equal, as nothing there says how large a difference is.
    """
    group = _GroupStatistics(returns_B, group_B, episode_B)
    if not normalize:
        return torch.ones_like(group.exact_B)
    return torch.where(group.is_flat_B, 1.0, group.deviation_B + eps)


class _GroupStatistics:
    """Mean and deviation of each row's group, float64 [B], and whether it is all equal."""

    def __init__(self, returns_B: Tensor, group_B: Tensor, episode_B: Tensor | None):
        same_shape(returns_B=returns_B, group_B=group_B)
        # In float32 the mean of eight returns of 0.7 is off by 6e-8, which eps turns into an
        # advantage of 0.056.
        self.exact_B = exact_B = returns_B.double()
        groups_K, index_B = group_B.unique(return_inverse=True)
        num_groups = len(groups_K)
        counts_B = torch.ones_like(exact_B) if episode_B is None else _is_first(group_B, episode_B)
        size_K = _group_sum(counts_B, index_B, num_groups)
        mean_K = _group_sum(exact_B * counts_B, index_B, num_groups) / size_K
        mean_K = torch.where(size_K > 1, mean_K, 0.0)
        self.mean_B = mean_K[index_B]
        squares_B = (exact_B - self.mean_B).square() * counts_B
        squares_K = _group_sum(squares_B, index_B, num_groups)
        deviation_K = torch.where(size_K > 1, (squares_K / (size_K - 1).clamp(min=1)).sqrt(), 1.0)
        self.deviation_B = deviation_K[index_B]
        is_flat_K = (_spread(exact_B, index_B, num_groups) < EQUAL_RETURNS_SPREAD) & (size_K > 1)
        self.is_flat_B = is_flat_K[index_B]


def is_informative(returns_N: Tensor, group_N: Tensor) -> Tensor:
    """Whether the episode's group has unequal returns (DAPO, arXiv:2503.14476 §3.2).

    Args:
        returns_N: Episode returns before penalties, float [N].
        group_N: Group of each episode, int64 [N].

    Returns:
        Bool [N]. False for groups that all failed, all succeeded, or have one member: their
        advantages are zero or not relative to anything.
    """
    same_shape(returns_N=returns_N, group_N=group_N)
    groups_K, index_N = group_N.unique(return_inverse=True)
    return (_spread(returns_N.double(), index_N, len(groups_K)) >= EQUAL_RETURNS_SPREAD)[index_N]


def invalid_action_penalties(is_action_valid_B: Tensor, *, coefficient: float) -> Tensor:
    """What to add to the return of each row for its invalid action: −coefficient · (1 − v).

    Args:
        is_action_valid_B: Whether the row's response followed the action format, 0/1 of any dtype,
            [B].
        coefficient: Size of the penalty, unit of the reward.

    Returns:
        Float32 [B], 0 or −coefficient.
    """
    return (is_action_valid_B == 0).float() * -coefficient


def turn_index(episode_B: Tensor) -> Tensor:
    """0-based turn of each row inside its episode, for rows of one turn in row order.

    Args:
        episode_B: Episode of each row, int64 [B].

    Returns:
        Int64 [B]: the number of earlier rows of the same episode.
    """
    order_B = torch.argsort(episode_B, stable=True)
    _, size_N = torch.unique_consecutive(episode_B[order_B], return_counts=True)
    start_N = size_N.cumsum(0) - size_N
    rank_B = torch.arange(len(episode_B), device=episode_B.device) - start_N.repeat_interleave(
        size_N
    )
    return torch.empty_like(rank_B).scatter(0, order_B, rank_B)


def _group_sum(values_B: Tensor, index_B: Tensor, num_groups: int) -> Tensor:
    return values_B.new_zeros(num_groups).index_add(0, index_B, values_B)


def _spread(values_B: Tensor, index_B: Tensor, num_groups: int) -> Tensor:
    empty_K = values_B.new_zeros(num_groups)
    highest_K = empty_K.scatter_reduce(0, index_B, values_B, "amax", include_self=False)
    return highest_K - empty_K.scatter_reduce(0, index_B, values_B, "amin", include_self=False)


def _is_first(group_B: Tensor, episode_B: Tensor) -> Tensor:
    """1.0 on the first row of each (group, episode) pair, float64 [B]."""
    same_shape(group_B=group_B, episode_B=episode_B)
    group_index_B = group_B.unique(return_inverse=True)[1]
    episodes_N, episode_index_B = episode_B.unique(return_inverse=True)
    return (turn_index(group_index_B * len(episodes_N) + episode_index_B) == 0).double()
