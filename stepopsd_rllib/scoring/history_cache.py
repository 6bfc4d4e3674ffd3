"""Keys and values of forwarded histories, for passes over whatever continues them."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from transformers import Cache


class HistoryCache(Cache):
    """A cache that passes read and none grows: what a pass adds is seen by that pass alone.

    Every row of a pass continues one of the histories, several rows the same one if they like. Keys
    and values are copied a layer at a time, so that memory does not grow with the number of layers.
    """

    def __init__(self, kept: list[tuple[Tensor, Tensor]], history_of_B: Tensor):
        """Keeps what a pass reads.

        Args:
            kept: Keys and values of each layer, both [histories, heads, L, size].
            history_of_B: The history that each row of the pass continues, int64 [B].
        """
        super().__init__(layers=[])
        self._kept = kept
        self._history_of_B = history_of_B.to(kept[0][0].device)

    @classmethod
    def of(cls, forwarded: Cache) -> Self:
        """Takes over what a pass over the histories left, a row each."""
        layers: list[Any] = forwarded.layers
        kept = [(layer.keys, layer.values) for layer in layers]
        return cls(kept, torch.arange(len(kept[0][0])))

    def continued_by(self, history_of_B: Tensor) -> Self:
        """The same histories for a pass with other rows."""
        return type(self)(self._kept, history_of_B)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values [B, heads, L + Q, size] of the histories and of the pass's own tokens."""
        del args, kwargs
        keys, values = (kept[self._history_of_B] for kept in self._kept[layer_idx])
        return torch.cat((keys, key_states), dim=-2), torch.cat((values, value_states), dim=-2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the histories, L."""
        return self._kept[layer_idx][0].shape[-2]
