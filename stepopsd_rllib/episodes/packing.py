"""Turns to token rows, end to end, and the split of rows into passes.

Two layouts, decided by the context policy of the episodes:

- `append`: one row an episode. `delta_0 response_0 delta_1 response_1 ...`, all in one causal
  context.
- `window`: one row a turn. `prompt_k response_k`.

B rows have L tokens, of which R were sampled; nothing is padded (see `row_layout`). What stands
for a token is of the token itself: `log_probs[r]` is the log-probability of the r-th sampled token
given everything before it in its row.
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
    """Rows of a batch of episodes.

    Attributes:
        lengths: int64 [B], number of tokens of each row.
        input_ids: int32 [L], the tokens of the rows, row after row.
        response_mask: bool [L], True where the policy sampled the token.
        behaviour_log_probs: float32 [R].
        turn_index: int64 [R], 0-based turn of each sampled token within its episode.
        episode_index: int64 [B], position of the row's episode in the batch of episodes.
    """

    lengths: Tensor
    input_ids: Tensor
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
    in_order = [(k, turn) for _, turns in rows for k, turn in turns]
    input_ids = np.empty(sum(lengths), dtype=np.int32)
    response_mask = np.zeros(len(input_ids), dtype=bool)
    end = 0
    for _, turn in in_order:
        start = end + len(turn.prompt_ids)
        input_ids[end:start] = turn.prompt_ids
        end = start + len(turn.response_ids)
        input_ids[start:end] = turn.response_ids
        response_mask[start:end] = True
    log_probs = [turn.behaviour_log_probs for _, turn in in_order]
    num_sampled = [len(turn.response_ids) for _, turn in in_order]
    turn_of_each = np.repeat(np.asarray([k for k, _ in in_order], dtype=np.int64), num_sampled)
    return TokenRows(
        lengths=torch.tensor(lengths, dtype=torch.int64),
        input_ids=torch.from_numpy(input_ids),
        response_mask=torch.from_numpy(response_mask),
        behaviour_log_probs=torch.from_numpy(
            np.concatenate([np.empty(0, dtype=np.float32), *log_probs]).astype(np.float32)
        ),
        turn_index=torch.from_numpy(turn_of_each),
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
