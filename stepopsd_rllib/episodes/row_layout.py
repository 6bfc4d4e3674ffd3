"""Token rows end to end: where their tokens stand, and how a few rows become padded ones.

A batch of rows is never padded as a whole. B rows have L tokens, of which R were sampled; what
stands for every token is [L], row after row, what stands for the sampled ones alone is [R]. Rows
are padded when they are forwarded, those of one pass at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class RowLayout:
    """Where the tokens of rows stand. Its own tensors are on the CPU.

    Attributes:
        lengths_B: int64 [B], tokens of each row.
        num_sampled_B: int64 [B], sampled tokens of each row.
        row_R: int64 [R], row of each sampled token.
        position_R: int64 [R], its place in the row.
    """

    def __init__(self, lengths_B: Tensor, response_mask_L: Tensor):
        """Finds the sampled tokens.

        Args:
            lengths_B: int64 [B].
            response_mask_L: bool [L], True where the policy sampled the token.
        """
        self.lengths_B = lengths_B.cpu()
        end_B = self.lengths_B.cumsum(0)
        self._first_B = end_B - self.lengths_B
        place_R = response_mask_L.cpu().nonzero()[:, 0]
        self.row_R = torch.searchsorted(end_B, place_R, right=True)
        self.position_R = place_R - self._first_B[self.row_R]
        self.num_sampled_B = self.row_R.bincount(minlength=len(self.lengths_B))
        self._first_sampled_B = self.num_sampled_B.cumsum(0) - self.num_sampled_B

    @classmethod
    def of(cls, columns: Mapping[str, Tensor]) -> RowLayout:
        """The layout of a batch with the columns `lengths` and `response_mask`."""
        return cls(columns["lengths"], columns["response_mask"])

    @property
    def num_rows(self) -> int:
        """Number of rows, B."""
        return len(self.lengths_B)

    def tokens_of(self, row: int) -> slice:
        """The tokens of a row among the L."""
        first = int(self._first_B[row])
        return slice(first, first + int(self.lengths_B[row]))

    def sampled_of(self, row: int) -> slice:
        """The sampled tokens of a row among the R."""
        first = int(self._first_sampled_B[row])
        return slice(first, first + int(self.num_sampled_B[row]))

    def row(self, values_R: Tensor, row: int, *, fill: float) -> Tensor:
        """What stands for the sampled tokens of one row, in its place, [T]; `fill` elsewhere."""
        own = self.sampled_of(row)
        out_T = values_R.new_full((int(self.lengths_B[row]),), fill)
        out_T[self.position_R[own]] = values_R[own]
        return out_T

    def sampled(self, rows: Tensor) -> Tensor:
        """The sampled tokens of rows among the R, int64, row after row."""
        return _runs(self._first_sampled_B[rows], self.num_sampled_B[rows])

    def any(self, is_marked_R: Tensor) -> Tensor:
        """Bool [B], rows of which a sampled token is marked."""
        is_marked_B = torch.zeros(self.num_rows, dtype=torch.bool)
        is_marked_B[self.row_R[is_marked_R.cpu()]] = True
        return is_marked_B

    def padded_tokens(self, values_L: Tensor, rows: Tensor, *, fill: float = 0) -> Tensor:
        """What stands for the tokens of some rows, padded to the longest of them.

        Args:
            values_L: [L], on any device.
            rows: int64 [b].
            fill: What stands where a row has ended.

        Returns:
            [b, T], T the tokens of the longest row, where the values are.
        """
        lengths_b = self.lengths_B[rows]
        source = _runs(self._first_B[rows], lengths_b)
        place = _runs(torch.zeros_like(lengths_b), lengths_b)
        return self._put(values_L, rows, source, lengths_b, place, fill)

    def padded(self, values_R: Tensor, rows: Tensor, *, fill: float = 0) -> Tensor:
        """What stands for the sampled tokens of some rows, each in its place of the padded row.

        Args:
            values_R: [R], on any device.
            rows: int64 [b].
            fill: What stands for tokens that were not sampled, and where a row has ended.

        Returns:
            [b, T], as `padded_tokens`.
        """
        source = self.sampled(rows)
        return self._put(
            values_R, rows, source, self.num_sampled_B[rows], self.position_R[source], fill
        )

    def _put(
        self,
        values: Tensor,
        rows: Tensor,
        source: Tensor,
        counts_b: Tensor,
        place: Tensor,
        fill: float,
    ) -> Tensor:
        width = int(self.lengths_B[rows].max()) if len(rows) else 0
        row = torch.arange(len(rows)).repeat_interleave(counts_b)
        out_bT = values.new_full((len(rows), width), fill)
        device = values.device
        out_bT[row.to(device), place.to(device)] = values[source.to(device)]
        return out_bT


def _runs(first: Tensor, counts: Tensor) -> Tensor:
    """first₀, first₀ + 1, … (counts₀ of them), first₁, …: int64."""
    before = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum())) + (first - before).repeat_interleave(counts)
