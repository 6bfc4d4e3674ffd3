"""Which token rows begin alike, so that their beginning is forwarded once for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedPrefix:
    """Rows with a common beginning.

    Attributes:
        length: Tokens that they share, at least 1.
        rows: Two rows or more.
    """

    length: int
    rows: tuple[int, ...]


@dataclass(kw_only=True, slots=True)
class _Interval:
    """Neighbours in sorted order that share a prefix, and the best sharing found within them."""

    length: int
    first: int
    saved: int = 0
    parts: list[tuple[int, int, int]] = field(default_factory=list)  # (length, first, end)


def shared_prefixes(
    ids: Sequence[np.ndarray], limits: Sequence[int], *, least_saved: int
) -> list[SharedPrefix]:
    """The disjoint sets of rows whose shared beginnings save most tokens.

    A set of n rows that share P tokens saves (n - 1) P of them, and costs one more pass; sets are
    made where that pays. Sorted rows with a common prefix are neighbours, and the sets of
    neighbours that share ever longer prefixes form a tree; at each of its nodes either the node is
    shared, or the best of its children is.

    Args:
        ids: Token ids of each row, int64.
        limits: The most tokens of each row that may be shared.
        least_saved: Tokens that a set has to save, the price of a pass.

    Returns:
        The sets, in sorted order of their rows. Rows in none share too little.
    """
    heads = [row[:limit] for row, limit in zip(ids, limits, strict=True)]
    # Big-endian bytes sort as the numbers do.
    keys = [head.astype(">i8").tobytes() for head in heads]
    order = sorted(range(len(ids)), key=keys.__getitem__)
    shared = [0]
    for before, row in itertools.pairwise(order):
        shared.append(_common_length(heads[before], heads[row]))
    shared.append(-1)  # closes every interval

    open_: list[_Interval] = []
    for end, length in enumerate(shared[1:], start=1):
        closed = _Interval(length=length, first=end - 1)
        while open_ and open_[-1].length > length:
            closed = _closed(_joined(open_.pop(), closed), end, least_saved)
        if open_ and open_[-1].length == length:
            open_[-1] = _joined(open_[-1], closed)
        else:
            closed.length = length
            open_.append(closed)
    parts = open_[0].parts if open_ else []
    return [SharedPrefix(length=n, rows=tuple(order[first:end])) for n, first, end in parts]


def _joined(interval: _Interval, inner: _Interval) -> _Interval:
    """The interval with what was found in a part of it."""
    interval.saved += inner.saved
    interval.parts += inner.parts
    return interval


def _closed(interval: _Interval, end: int, least_saved: int) -> _Interval:
    """The better of sharing the whole interval and of sharing within it."""
    saved = (end - interval.first - 1) * interval.length - least_saved
    if saved > interval.saved:
        interval.saved, interval.parts = saved, [(interval.length, interval.first, end)]
    return interval


def _common_length(one: np.ndarray, other: np.ndarray) -> int:
    shortest = min(len(one), len(other))
    differs = np.flatnonzero(one[:shortest] != other[:shortest])
    return int(differs[0]) if len(differs) else shortest
