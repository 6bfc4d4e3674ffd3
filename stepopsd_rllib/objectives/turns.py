"""Numbers of a turn and numbers of its tokens: sums over turns, and back.

Turn-level methods work on vectors over the `S` turns of a batch, sorted by episode and then by
time, whichever the layout of the token rows is: one row a turn or one row an episode.
"""

from __future__ import annotations

import torch
from torch import Tensor


def turn_ids(turn_index_BT: Tensor, episode_B: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers the turns of a batch by episode and time.

    Args:
        turn_index_BT: int64 [B, T], 0-based turn of each sampled token within its episode; -1
            elsewhere.
        episode_B: int64 [B], episode of each row.

    Returns:
        `turn_BT`, int64 [B, T], turn of each token in 0 … S − 1, -1 elsewhere; and `episode_S`,
        int64 [S].
    """
    sampled_BT = turn_index_BT >= 0
    stride = int(turn_index_BT.max()) + 1 if bool(sampled_BT.any()) else 1
    key_BT = episode_B[:, None] * stride + turn_index_BT
    keys_S, turns = key_BT[sampled_BT].unique(return_inverse=True)
    turn_BT = torch.full_like(turn_index_BT, -1)
    turn_BT[sampled_BT] = turns
    return turn_BT, keys_S.div(stride, rounding_mode="floor")


def turn_spans(turn_BT: Tensor, num_turns: int) -> tuple[Tensor, Tensor]:
    """Where the tokens of each turn stand.

    Args:
        turn_BT: int64 [B, T], turn of each token, -1 elsewhere; the tokens of a turn are neighbours
            in one row.
        num_turns: S, all of which have tokens.

    Returns:
        Position of each turn's first token in the flattened [B, T], int64 [S], and its number of
        tokens, int64 [S].
    """
    position_P = (turn_BT.flatten() >= 0).nonzero()[:, 0]
    turn_P = turn_BT.flatten()[position_P]
    first_S = turn_P.new_full((num_turns,), turn_BT.numel()).scatter_reduce(
        0, turn_P, position_P, "amin"
    )
    return first_S, turn_P.bincount(minlength=num_turns)


def turn_sums(values_BT: Tensor, turn_BT: Tensor, num_turns: int) -> Tensor:
    """Sum of a token quantity over each turn.

    Args:
        values_BT: Float [B, T].
        turn_BT: int64 [B, T], turn of each token, -1 for tokens that count nowhere.
        num_turns: S.

    Returns:
        Float64 [S]: evidence sums of a few hundred tokens are compared with one another, so they
        keep their digits.
    """
    counted_BT = turn_BT >= 0
    sums_S = torch.zeros(num_turns, dtype=torch.float64, device=values_BT.device)
    return sums_S.index_add(0, turn_BT[counted_BT], values_BT[counted_BT].double())


def turn_means(values_BT: Tensor, turn_BT: Tensor, num_turns: int) -> Tensor:
    """Mean of a token quantity over each turn, float64 [S]; 0 for a turn without tokens."""
    counts_S = turn_sums(torch.ones_like(values_BT), turn_BT, num_turns)
    return turn_sums(values_BT, turn_BT, num_turns) / counts_S.clamp(min=1)


def spread_turns(values_S: Tensor, turn_BT: Tensor) -> Tensor:
    """Writes the number of each turn on all its tokens.

    Args:
        values_S: [S].
        turn_BT: int64 [B, T], -1 outside every turn.

    Returns:
        [B, T] of the dtype of `values_S`; 0 outside every turn.
    """
    if values_S.numel() == 0:
        return torch.zeros(turn_BT.shape, dtype=values_S.dtype, device=turn_BT.device)
    spread_BT = values_S[turn_BT.clamp(min=0)]
    return torch.where(turn_BT >= 0, spread_BT, torch.zeros_like(spread_BT))


def episode_table(values_S: Tensor, episode_S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lays the turns of each episode out as a row, padded with zeros on the right.

    Args:
        values_S: Float [S].
        episode_S: int64 [S], sorted: the turns of an episode are neighbours, in time order.

    Returns:
        The table, float [N, K]; the row of each turn in it, int64 [S]; and its column, int64 [S].
    """
    _, row_S, count_N = episode_S.unique_consecutive(return_inverse=True, return_counts=True)
    first_N = count_N.cumsum(0) - count_N
    column_S = torch.arange(len(episode_S), device=episode_S.device) - first_N[row_S]
    width = int(count_N.max()) if len(count_N) else 0
    table_NK = values_S.new_zeros(len(count_N), width)
    table_NK[row_S, column_S] = values_S
    return table_NK, row_S, column_S
