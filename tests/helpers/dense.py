"""Columns of a whole batch as padded rows: what tests read, and the package never holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stepopsd_rllib.connectors.columns import TAUGHT_COLUMNS
from stepopsd_rllib.connectors.row_batch import RowBatch
from stepopsd_rllib.episodes import RowLayout


def dense(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every column of tokens as [B, T]; those of taught tokens as they are."""
    batch = RowBatch(dict(columns))
    padded = batch.padded(torch.arange(batch.layout.num_rows), "cpu")
    return padded | {name: columns[name] for name in TAUGHT_COLUMNS if name in columns}


def at_sampled(columns: Mapping[str, Tensor], values_BT: Tensor) -> Tensor:
    """[R]: what padded rows have at the sampled tokens."""
    layout = RowLayout.of(columns)
    return values_BT[layout.row_R, layout.position_R]


def sampled_rows(columns: Mapping[str, Tensor]) -> Tensor:
    """Row of each sampled token, int64 [R]."""
    return RowLayout.of(columns).row_R
