"""Which tokens belong to which step of which episode, whatever the row layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepopsd_rllib.objectives.turns import turn_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTokens:
    """Which tokens belong to which step. Steps may share tokens, and may stretch over rows.

    Attributes:
        position_P: int64 [P], index of the token in the flattened [B, T].
        step_P: int64 [P], step of the token, in 0 … S − 1.
        episode_S: int64 [S], number of the episode that the step belongs to, counted from 0.
    """

    position_P: Tensor
    step_P: Tensor
    episode_S: Tensor

    @staticmethod
    def from_spans(
        spans: Sequence[Sequence[tuple[int, int]] | None],
        *,
        num_positions: int,
        episode_B: Tensor | None = None,
    ) -> StepTokens:
        """From lists of spans, one list a row.

        Args:
            spans: Half-open token ranges (start, stop) of each row's steps; empty ranges are
                ignored.
            num_positions: T.
            episode_B: Episode of each row, int64 [B]; every row its own if None.
        """
        if episode_B is None:
            episode_B = torch.arange(len(spans))
        positions: list[Tensor] = [torch.zeros(0, dtype=torch.int64)]
        rows: list[int] = []
        for row, row_spans in enumerate(spans):
            for start, stop in row_spans or ():
                kept = torch.arange(max(start, 0), max(min(stop, num_positions), start, 0))
                positions.append(row * num_positions + kept)
                rows.append(row)
        sizes_S = torch.tensor([len(kept) for kept in positions[1:]], dtype=torch.int64)
        return StepTokens(
            position_P=torch.cat(positions),
            step_P=torch.arange(len(rows)).repeat_interleave(sizes_S),
            episode_S=_counted_from_zero(episode_B[torch.tensor(rows, dtype=torch.int64)]),
        )

    @staticmethod
    def from_index(step_BT: Tensor, episode_B: Tensor) -> StepTokens:
        """From a step number per token; equal numbers in rows of one episode are one step.

        Args:
            step_BT: Step of each token within its episode (its turn, say), int64 [B, T]; negative
                outside all steps.
            episode_B: Episode of each row, int64 [B].
        """
        step_BT, episode_S = turn_ids(step_BT, episode_B)
        position_P = (step_BT.flatten() >= 0).nonzero().flatten()
        return StepTokens(
            position_P=position_P,
            step_P=step_BT.flatten()[position_P],
            episode_S=_counted_from_zero(episode_S),
        )


def sum_by(values_P: Tensor, index_P: Tensor, size: int) -> Tensor:
    """Sums of the values that share an index.

    Args:
        values_P: Float [P].
        index_P: int64 [P], in 0 … size − 1.
        size: Number of sums.

    Returns:
        Float [size], 0 for an index that does not occur.
    """
    return values_P.new_zeros(size).index_add(0, index_P, values_P)


def _counted_from_zero(ids: Tensor) -> Tensor:
    return ids.unique(return_inverse=True)[1]
