"""A batch of token rows of which some are forwarded: the only file that pads columns for a loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from stepopsd_rllib.connectors.columns import INPUT_IDS, PAGE
from stepopsd_rllib.episodes import RowLayout


class RowBatch:
    """The columns of a batch, and where the tokens of its rows stand.

    Attributes:
        columns: By name, on any device.
        layout: Of the rows.
    """

    def __init__(self, columns: dict[str, Tensor]):
        """Finds the layout.

        Raises:
            ValueError: A column that is not on the page has not one entry a row.
        """
        self.columns = columns
        self.layout = RowLayout.of(columns)
        self._ids = columns[INPUT_IDS].cpu().numpy()
        for name, column in columns.items():
            if name not in PAGE and len(column) != self.layout.num_rows:
                raise ValueError(
                    f"Column {name!r} has {len(column)} entries for {self.layout.num_rows} rows, "
                    "and nothing says what they are of. A connector that writes one entry a token "
                    "declares it with stepopsd_rllib.connectors.columns.declare."
                )

    def ids(self, rows: Tensor) -> list[np.ndarray]:
        """Token ids of each of some rows, int32 [length]."""
        return [self._ids[self.layout.tokens_of(row)] for row in rows.tolist()]

    def padded(self, rows: Tensor, device: Any) -> dict[str, Tensor]:
        """A micro-batch: what the columns have of some rows, on a device.

        Args:
            rows: int64 [b].
            device: Where to.

        Returns:
            Columns of rows [b]; columns of tokens [b, T], T the tokens of the longest row,
            `input_ids` int64. Columns of taught tokens are left out.
        """
        micro_batch: dict[str, Tensor] = {}
        for name, column in self.columns.items():
            axes = PAGE[name].axes if name in PAGE else "B"
            if axes == "L":
                part = self.layout.padded_tokens(column, rows)
            elif axes == "R":
                part = self.layout.padded(column, rows, fill=PAGE[name].padding)
            elif axes == "B":
                part = column[rows.to(column.device)]
            else:
                continue
            micro_batch[name] = part.to(device)
        micro_batch[INPUT_IDS] = micro_batch[INPUT_IDS].long()
        return micro_batch
