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

    def __init__(self, kept: list[tuple[Tensor, Tensor]]):
        """Keeps keys and values of each layer, both [histories, heads, L, size]."""
        super().__init__(layers=[])
        self._kept = kept
        self._row_of_B = torch.arange(len(kept[0][0]))

    @classmethod
    def of(cls, forwarded: Cache) -> Self:
        """Takes over what a pass over the histories left."""
        layers: list[Any] = forwarded.layers
        return cls([(layer.keys, layer.values) for layer in layers])

    def continued_by(self, row_of_B: Tensor) -> Self:
        """Directs the next pass: the history that each of its rows continues, int64 [B]."""
        self._row_of_B = row_of_B
        return self

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
        keys, values = (kept[self._row_of_B.to(kept.device)] for kept in self._kept[layer_idx])
        return torch.cat((keys, key_states), dim=-2), torch.cat((values, value_states), dim=-2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the histories, L."""
        return self._kept[layer_idx][0].shape[-2]
