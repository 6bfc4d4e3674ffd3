"""Turns to padded token rows: the only file that pads, and that shifts by one token.

Two layouts, decided by the context policy of the episodes:

- `append`: one row an episode. `delta_0 response_0 delta_1 response_1 ...`, all in one causal
  context.
- `window`: one row a turn. `prompt_k response_k`.

Every `[B, T]` column is aligned to token positions: `log_probs[b, t]` is the log-probability of
`input_ids[b, t]` given everything before it in the row. Padding stands on the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from stepopsd_rllib.episodes.agent_episode import AgentEpisode
from stepopsd_rllib.episodes.turn import Turn

# What a forward pass costs beside its tokens, in tokens. The embedded model's, with its backward
# pass, cost 65 on a CPU; starting the kernels of a large model on a GPU is taken to cost more.
PASS_TOKENS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRows:
    """Padded rows of a batch of episodes.

    Attributes:
        input_ids: int64 [B, T], 0 where padded.
        lengths: int64 [B], number of real tokens of each row.
        response_mask: bool [B, T], True where the policy sampled the token.
        behaviour_log_probs: float32 [B, T], 0 outside the response mask.
        turn_index: int64 [B, T], 0-based turn of each sampled token within its episode; -1
            elsewhere.
        episode_index: int64 [B], position of the row's episode in the batch of episodes.
    """

    input_ids: Tensor
    lengths: Tensor
    response_mask: Tensor
    behaviour_log_probs: Tensor
    turn_index: Tensor
    episode_index: Tensor

    def columns(self) -> dict[str, Tensor]:
        """The columns by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def pack_episodes(episodes: Sequence[AgentEpisode]) -> TokenRows:
    """Packs episodes into rows, in order: episode by episode and, with `window`, turn by turn."""
    rows: list[tuple[int, list[tuple[int, Turn]]]] = []
    for index, episode in enumerate(episodes):
        turns = list(enumerate(episode.turns))
        rows.extend(
            [(index, turns)] if episode.context == "append" else [(index, [turn]) for turn in turns]
        )
    lengths = [
        sum(len(turn.prompt_ids) + len(turn.response_ids) for _, turn in turns) for _, turns in rows
    ]
    shape = (len(rows), max(lengths, default=0))
    input_ids = np.zeros(shape, dtype=np.int64)
    response_mask = np.zeros(shape, dtype=bool)
    behaviour_log_probs = np.zeros(shape, dtype=np.float32)
    turn_index = np.full(shape, -1, dtype=np.int64)
    for b, (_, turns) in enumerate(rows):
        end = 0
        for k, turn in turns:
            start = end + len(turn.prompt_ids)
            input_ids[b, end:start] = turn.prompt_ids
            end = start + len(turn.response_ids)
            input_ids[b, start:end] = turn.response_ids
            response_mask[b, start:end] = True
            behaviour_log_probs[b, start:end] = turn.behaviour_log_probs
            turn_index[b, start:end] = k
    return TokenRows(
        input_ids=torch.from_numpy(input_ids),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        response_mask=torch.from_numpy(response_mask),
        behaviour_log_probs=torch.from_numpy(behaviour_log_probs),
        turn_index=torch.from_numpy(turn_index),
        episode_index=torch.tensor([index for index, _ in rows], dtype=torch.int64),
    )


def micro_batches(lengths_B: Tensor, *, max_tokens: int) -> list[Tensor]:
    """Splits rows into micro-batches under a budget of padded tokens, so that they cost least.

    A micro-batch costs its padded tokens, rows times the longest row, and `PASS_TOKENS`. With rows
    sorted by falling length, l₁ ≥ l₂ ≥ …, the cheapest split of the first j of them is
    Cⱼ = minᵢ Cᵢ + (j - i) lᵢ₊₁ + PASS_TOKENS over the i < j that the budget allows.

    Args:
        lengths_B: int64 [B], real tokens of each row.
        max_tokens: Largest number of padded tokens of a micro-batch. A row that is longer than the
            budget forms a micro-batch of its own.

    Returns:
        Row indices, int64, one tensor a micro-batch; every row appears once, long rows first. The
        split is deterministic.
    """
    lengths_B = lengths_B.cpu()  # a learner's rows may be on its device; the split is not
    order_B = torch.argsort(lengths_B, descending=True, stable=True)
    length_B = lengths_B[order_B].numpy()
    cost = np.zeros(len(length_B) + 1, dtype=np.int64)
    first = np.zeros(len(length_B) + 1, dtype=np.int64)
    for end in range(1, len(length_B) + 1):
        most = max(1, max_tokens // max(1, int(length_B[end - 1])))
        begin = np.arange(max(0, end - most), end)
        padded = length_B[begin] * (end - begin)
        total = cost[begin] + padded + PASS_TOKENS
        allowed = np.flatnonzero((padded <= max_tokens) | (begin == end - 1))
        best = allowed[total[allowed].argmin()]
        cost[end], first[end] = total[best], begin[best]
    parts, end = [], len(length_B)
    while end:
        parts.append(order_B[first[end] : end])
        end = int(first[end])
    return parts[::-1]
