"""Which rows are forwarded together, and which of them share their beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepopsd_rllib.episodes.packing import PASS_TOKENS, micro_batches
from stepopsd_rllib.models.shared_attention import QUERIES_AT_ONCE, SharedRows
from stepopsd_rllib.scoring.shared_prefixes import shared_prefixes

# Pairs of query and key that cost as much as the matrices of one token. The embedded model's, the
# smallest there is; a model of a billion parameters has some 15,000.
PAIRS_PER_TOKEN = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPass:
    """Rows that are forwarded together.

    Attributes:
        rows: Row indices, int64 [b].
        sets: (tokens shared, rows of the pass) of the sets that share their beginnings; empty where
            none does.
    """

    rows: Tensor
    sets: tuple[tuple[int, Sequence[int]], ...] = ()

    def shared(self, ids_bT: Tensor, lengths_b: Tensor) -> SharedRows | None:
        """How the padded rows of the pass share their beginnings; None where they do not."""
        return SharedRows.of(ids_bT, lengths_b, self.sets) if self.sets else None


def row_micro_batches(rows: Sequence[np.ndarray], *, max_tokens: int, share: bool) -> list[RowPass]:
    """The forward passes over token rows, within a budget; nothing is padded yet.

    Args:
        rows: Ids of each row, whole numbers [length].
        max_tokens: Most tokens of a pass: padded ones of rows by themselves, forwarded ones of rows
            that share their beginnings. A row that is longer has a pass of its own.
        share: Whether beginnings are shared where that pays.

    Returns:
        The passes; every row appears once. Without `share` none shares anything.
    """
    lengths_B = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    packed = _packed(_paying_sets(rows) if share else [], lengths_B, max_tokens)
    is_alone_B = torch.ones(len(lengths_B), dtype=torch.bool)
    passes = []
    for sets in packed:
        chosen = torch.tensor([row for _, members in sets for row in members])
        is_alone_B[chosen] = False
        place = {row: i for i, row in enumerate(chosen.tolist())}
        within = tuple((length, [place[row] for row in members]) for length, members in sets)
        passes.append(RowPass(rows=chosen, sets=within))
    alone = is_alone_B.nonzero()[:, 0]
    parts = micro_batches(lengths_B[alone], max_tokens=max_tokens)
    return passes + [RowPass(rows=alone[part]) for part in parts]


def _paying_sets(rows: Sequence[np.ndarray]) -> list[tuple[int, tuple[int, ...]]]:
    """(tokens shared, rows) of the sets that save more than attention over a mask costs."""
    lengths = [len(row) for row in rows]
    found = shared_prefixes(rows, [n - 1 for n in lengths], least_saved=PASS_TOKENS)
    return [(s.length, s.rows) for s in found if _saved(s.length, s.rows, lengths) > 0]


def _saved(shared: int, rows: Sequence[int], lengths: Sequence[int]) -> float:
    """Tokens that sharing saves, less what it costs.

    A row of P + Q tokens by itself looks at (P + Q)²/2 pairs; as a tail of Q queries at PQ + Q²/2,
    and in vain at half of the keys of each part of its queries: that is (Q min(Q, part) - P²)/2
    pairs more.
    """
    tails = [lengths[row] - shared for row in rows]
    pairs = sum((q * min(q, QUERIES_AT_ONCE) - shared**2) / 2 for q in tails) + shared**2 / 2
    return (len(rows) - 1) * shared - PASS_TOKENS - pairs / PAIRS_PER_TOKEN


def _packed(
    sets: Sequence[tuple[int, Sequence[int]]], lengths_B: Tensor, max_tokens: int
) -> list[list[tuple[int, list[int]]]]:
    """Sets, and parts of those that are too large, by passes; those of like length together."""
    lengths = lengths_B.tolist()
    parts: list[tuple[int, list[int]]] = []
    for shared, members in sets:
        rows = sorted(members, key=lambda row: -lengths[row])
        part, size = [], shared
        for row in rows:
            own = lengths[row] - shared
            if part and size + own > max_tokens:
                parts.append((shared, part))
                part, size = [], shared
            part.append(row)
            size += own
        parts.append((shared, part))
    passes: list[list[tuple[int, list[int]]]] = []
    filled = max_tokens
    # One row has nobody to share with.
    for shared, rows in sorted(
        (p for p in parts if len(p[1]) > 1), key=lambda p: -lengths[p[1][0]]
    ):
        size = shared + sum(lengths[row] - shared for row in rows)
        if filled + size > max_tokens:
            passes.append([])
            filled = 0
        passes[-1].append((shared, rows))
        filled += size
    return passes
