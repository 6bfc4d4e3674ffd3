"""Token metrics over micro-batches and learners: a mean is a mean over all tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class MetricSums:
    """Collects detached numerators and denominators; no host synchronisation before `reduce`."""

    def __init__(self) -> None:
        # (numerator, denominator) in float64, on the device of what was added.
        self._sums: dict[str, Tensor] = {}
        self._maxima: dict[str, Tensor] = {}
        self._losses: dict[str, Tensor] = {}
        self._num_steps = 0

    def add_loss(self, name: str, share: Tensor) -> None:
        """Adds a micro-batch's share of the minibatch loss called `name`; scalar."""
        self._losses[name] = (
            self._losses.get(name, torch.zeros((), device=share.device)) + share.detach()
        )

    def count_step(self) -> None:
        """Counts an optimizer step; losses are means over steps."""
        self._num_steps += 1

    def add_mean(self, name: str, values_BT: Tensor, mask_BT: Tensor) -> None:
        """Adds the masked values [B, T] to the mean called `name`."""
        kept_BT = values_BT.detach().float().masked_fill(~mask_BT, 0.0)
        self.add(name, kept_BT.sum(), mask_BT.sum())

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Adds a sum and the count it is divided by; scalars, all metrics on one device."""
        added_2 = torch.stack((total.detach().double(), count.to(total.device).double()))
        self._sums[name] = self._sums[name] + added_2 if name in self._sums else added_2

    def add_max(self, name: str, values_BT: Tensor, mask_BT: Tensor) -> None:
        """Keeps the largest masked value; an empty mask counts as 0."""
        largest = values_BT.detach().float().masked_fill(~mask_BT, 0.0).max()
        self._maxima[name] = torch.maximum(self._maxima.get(name, largest), largest)

    def reduce(self, all_reduce: Callable[[Tensor, str], Tensor] | None = None) -> dict[str, float]:
        """The metrics by name.

        Args:
            all_reduce: Combines a tensor over learners, by "sum" or "max"; every learner must have
                added the same names.

        Returns:
            Means (NaN for a count of 0) and maxima.
        """
        names, maxima = sorted(self._sums), sorted(self._maxima)
        result: dict[str, float] = {}
        if names:
            sums_M2 = torch.stack([self._sums[name] for name in names])
            sums_M2 = all_reduce(sums_M2, "sum") if all_reduce else sums_M2
            result |= dict(zip(names, (sums_M2[:, 0] / sums_M2[:, 1]).tolist(), strict=True))
        if self._losses:
            losses_L = torch.stack([self._losses[name] for name in sorted(self._losses)])
            losses_L = all_reduce(losses_L, "sum") if all_reduce else losses_L
            result |= dict(
                zip(
                    sorted(self._losses), (losses_L / max(1, self._num_steps)).tolist(), strict=True
                )
            )
        if maxima:
            largest_M = torch.stack([self._maxima[name] for name in maxima])
            largest_M = all_reduce(largest_M, "max") if all_reduce else largest_M
            result |= dict(zip(maxima, largest_M.tolist(), strict=True))
        return result
