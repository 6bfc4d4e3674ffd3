"""Random batches of token rows for property tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows with all that an objective may ask for; `_BT` are float32 [B, T], the mask is 0/1."""

    policy_BT: Tensor
    old_BT: Tensor
    reference_BT: Tensor
    gap_BT: Tensor
    advantages_BT: Tensor
    mask_BT: Tensor
    group_B: Tensor
    returns_B: Tensor

    def rows(self, index: Tensor) -> Batch:
        """The rows of an index, in its order."""
        return Batch(**{name: value[index] for name, value in vars(self).items()})


@st.composite
def batches(draw: st.DrawFn, *, holes: bool = True) -> Batch:
    """1 to 6 rows of 1 to 8 positions, rows without tokens and equal returns included."""
    num_rows, num_positions = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (num_rows, num_positions)

    def normal(scale: float) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    if holes:
        mask_BT = (torch.rand(shape, generator=generator) < 0.7).float()
    else:
        lengths_B = torch.randint(1, num_positions + 1, (num_rows,), generator=generator)
        mask_BT = (torch.arange(num_positions) < lengths_B[:, None]).float()
    advantage_B = torch.randn(num_rows, generator=generator).round(decimals=1)
    return Batch(
        policy_BT=-normal(1.0).abs(),
        old_BT=-normal(1.0).abs(),
        reference_BT=-normal(1.0).abs(),
        gap_BT=normal(draw(st.sampled_from([0.0, 0.05, 1.0, 10.0]))),
        advantages_BT=advantage_B[:, None].expand(shape).clone(),
        mask_BT=mask_BT,
        group_B=torch.randint(0, 3, (num_rows,), generator=generator),
        returns_B=torch.randint(0, 2, (num_rows,), generator=generator) * 10.0,
    )
