"""A key-value cache with one row a request, each as long as its own tokens.

Requests of different lengths decode in one batch, and a row outlives its request, so that the next
prompt of the same chat, or one that begins alike, computes only what is new.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache


class SlotCache(Cache):
    """Keys and values in rows ("slots"), written at any column.

    Lifecycle: `aim` before each forward pass says which slots and columns the pass writes, then the
    model calls `update` once a layer. Memory is taken at the first pass:
    slots x (max_context_tokens + 1) x the model's numbers a token.

    Args:
        slots: rows.
        max_context_tokens: columns that hold tokens; one more takes what padding writes.
    """

    def __init__(self, *, slots: int, max_context_tokens: int) -> None:
        super().__init__(layers=[])
        self.slots = slots
        self.padding_column = max_context_tokens
        self.tokens: list[list[int]] = [[] for _ in range(slots)]
        self._stored: list[tuple[torch.Tensor, torch.Tensor]] = []

    def aim(self, slots: list[int], columns_BT: torch.Tensor, visible: int) -> None:
        """Directs the next forward pass.

        Args:
            slots: slot of each row of the batch, [B].
            columns_BT: column that each token is written to, int64 [B, T].
            visible: leading columns that attention sees.
        """
        rows = torch.tensor(slots, device=columns_BT.device)
        self._rows, self._columns, self._visible = rows[:, None], columns_BT, visible
        # A slice is a view; any other choice of rows copies all their keys and values.
        self._selected = slice(len(slots)) if slots == list(range(len(slots))) else rows

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores [B, heads, T, size] and returns what attention sees, [B, heads, visible, size]."""
        if layer_idx == len(self._stored):
            self._stored.append((self._rows_like(key_states), self._rows_like(value_states)))
        keys, values = self._stored[layer_idx]
        keys[self._rows, :, self._columns] = key_states.transpose(1, 2)
        values[self._rows, :, self._columns] = value_states.transpose(1, 2)
        return keys[self._selected, :, : self._visible], values[self._selected, :, : self._visible]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Makes the first `length` tokens of one slot the content of another."""
        if source != target:
            for stored in self._stored:
                for tensor in stored:
                    tensor[target, :, :length] = tensor[source, :, :length]
        self.tokens[target] = self.tokens[source][:length]

    def forget(self) -> None:
        """Empties every slot: what was computed with other weights must never be read."""
        self.tokens = [[] for _ in range(self.slots)]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that attention sees; the rows' own lengths differ."""
        return self._visible

    def _rows_like(self, states: torch.Tensor) -> torch.Tensor:
        _, heads, _, size = states.shape
        # Zeros: attention gives masked columns weight 0, and 0 times stray memory may be nan.
        return states.new_zeros(self.slots, heads, self.padding_column + 1, size)


def shared_prefix(first: list[int], second: list[int]) -> int:
    """Number of leading tokens that two sequences have in common."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # bisection, since comparing slices runs in C
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
