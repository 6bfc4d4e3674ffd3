"""Whole-trajectory rows in the form of Search-R1: one right-padded row of actions and observations.

For comparison with that family and for its logs; this package's own rows are made in `packing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TokenIds = Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectoryRows:
    """Rows of equal length, as nested lists [B][T].

    Attributes:
        token_ids: `action_1 observation_1 action_2 …`, padded on the right.
        attention_mask: 1 on every real token.
        loss_mask: 1 on the tokens of actions: what the policy sampled.
    """

    token_ids: list[list[int]]
    attention_mask: list[list[int]]
    loss_mask: list[list[int]]


def search_trajectory_rows(
    turns: Sequence[tuple[Sequence[TokenIds], Sequence[TokenIds]]], *, max_tokens: int, pad_id: int
) -> TrajectoryRows:
    """Packs the turns of a batch of episodes, without padding between turns.

        turns      [[1 2] [3]] [[8 8] []]      [[4] [5 6]] [[] []]
        token_ids  1 2 8 8 4        3 5 6 0 0
        loss_mask  1 1 0 0 1        1 1 1 0 0

    Args:
        turns: Per turn, the action tokens and the observation tokens of each of the B episodes;
            both empty for an episode that has ended.
        max_tokens: Rows are cut to this many tokens; their beginning is kept.
        pad_id: Token id of the padding.

    Returns:
        Rows as long as the longest episode, at most `max_tokens`.
    """
    num_rows = len(turns[0][0]) if turns else 0
    tokens: list[list[int]] = [[] for _ in range(num_rows)]
    is_action: list[list[int]] = [[] for _ in range(num_rows)]
    for actions, observations in turns:
        for b, (action, observation) in enumerate(zip(actions, observations, strict=True)):
            tokens[b] += [*action, *observation]
            is_action[b] += [1] * len(action) + [0] * len(observation)
    length = min(max_tokens, max(map(len, tokens), default=0))
    kept = [row[:length] for row in tokens]
    return TrajectoryRows(
        token_ids=[row + [pad_id] * (length - len(row)) for row in kept],
        attention_mask=[[1] * len(row) + [0] * (length - len(row)) for row in kept],
        loss_mask=[(row + [0] * length)[:length] for row in is_action],
    )
