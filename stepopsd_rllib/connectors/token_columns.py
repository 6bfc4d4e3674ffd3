"""The sampled tokens of a batch as rows: what functions of `objectives` are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from stepopsd_rllib.connectors.columns import PAGE, RESPONSE_MASK, TURN_INDEX
from stepopsd_rllib.episodes import RowLayout


class TokenColumns(Mapping[str, Tensor]):
    """Columns with the sampled tokens of a batch alone, laid out as one row a token or one a turn.

    To most functions of `objectives` the layout of the rows is the same, as long as they know the
    episode of each. One token a row needs no padding: a column of sampled tokens is [R, 1], the
    response mask is all true, and a column of the batch's rows is [R], what stands for the row of
    each token. One turn a row, for functions that walk along a turn, is [S, K], padded to the
    longest of the S responses, and [S].

    Attributes:
        batch_row: int64, the batch's row that each row belongs to.
    """

    def __init__(self, columns: Mapping[str, Tensor], *, by_turn: bool = False):
        """Lays the tokens out.

        Args:
            columns: Columns of a batch.
            by_turn: One turn a row; else one token.
        """
        self._columns = columns
        row_R = RowLayout.of(columns).row_R
        if by_turn:
            turns_2R = torch.stack((row_R, columns[TURN_INDEX]))
            rows_2S, self._row_R, count_S = turns_2R.unique_consecutive(
                dim=1, return_inverse=True, return_counts=True
            )
            first_S = count_S.cumsum(0) - count_S
            self._place_R = torch.arange(len(row_R)) - first_S[self._row_R]
            self._shape = (len(count_S), int(count_S.max()) if len(count_S) else 0)
            self.batch_row = rows_2S[0]
        else:
            self._row_R = torch.arange(len(row_R))
            self._place_R = torch.zeros_like(row_R)
            self._shape = (len(row_R), 1)
            self.batch_row = row_R

    def __getitem__(self, name: str) -> Tensor:
        """The column of a name, in rows."""
        if name == RESPONSE_MASK:
            return self._padded(torch.ones(len(self._row_R), dtype=torch.bool), 0)
        column = self._columns[name]
        axes = PAGE[name].axes if name in PAGE else "B"
        if axes == "B":
            return column[self.batch_row]
        if axes != "R":
            raise KeyError(f"{name} has no entry a sampled token: its axes are {axes}.")
        return self._padded(column, PAGE[name].padding)

    def __iter__(self) -> Iterator[str]:
        """The names of all columns."""
        return iter(self._columns)

    def __len__(self) -> int:
        """Number of columns."""
        return len(self._columns)

    def flat(self, values: Tensor) -> Tensor:
        """Back from rows: [R], in the order of the batch."""
        return values[self._row_R, self._place_R]

    def _padded(self, values_R: Tensor, fill: int) -> Tensor:
        out = values_R.new_full(self._shape, fill)
        out[self._row_R, self._place_R] = values_R
        return out
