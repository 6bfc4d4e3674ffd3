"""Which rows are forwarded together, and which of them share their beginning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from stepopsd_rllib.episodes.packing import PASS_TOKENS, micro_batches
from stepopsd_rllib.models.shared_attention import QUERIES_AT_ONCE, SharedRows
from stepopsd_rllib.scoring.shared_prefixes import shared_prefixes

# Pairs of query and key that cost as much as the matrices of one token. The embedded model's, the
# smallest there is; a model of a billion parameters has some 15,000.
PAIRS_PER_TOKEN = 1024


def row_micro_batches(
    ids_BT: Tensor, lengths_B: Tensor, *, max_tokens: int, share: bool
) -> Iterator[tuple[Tensor, SharedRows | None]]:
    """The forward passes over token rows, within a budget.

    Args:
        ids_BT: int64 [B, T], right-padded.
        lengths_B: int64 [B].
        max_tokens: Most tokens of a pass: padded ones of rows by themselves, forwarded ones of rows
            that share their beginnings. A row that is longer has a pass of its own.
        share: Whether beginnings are shared where that pays.

    Yields:
        Row indices, int64, and how these rows share their beginnings; None where they do not, which
        is every pass without `share`. Every row appears once.
    """
    lengths_B = lengths_B.cpu()
    packed = _packed(_paying_sets(ids_BT, lengths_B) if share else [], lengths_B, max_tokens)
    is_alone_B = torch.ones(len(lengths_B), dtype=torch.bool)
    for sets in packed:
        rows = torch.tensor([row for _, members in sets for row in members])
        is_alone_B[rows] = False
        place = {row: i for i, row in enumerate(rows.tolist())}
        within = [(length, [place[row] for row in members]) for length, members in sets]
        longest = int(lengths_B[rows].max())
        yield rows, SharedRows.of(ids_BT[rows, :longest], lengths_B[rows], within)
    alone = is_alone_B.nonzero()[:, 0]
    for part in micro_batches(lengths_B[alone], max_tokens=max_tokens):
        yield alone[part], None


def _paying_sets(ids_BT: Tensor, lengths_B: Tensor) -> list[tuple[int, tuple[int, ...]]]:
    """(tokens shared, rows) of the sets that save more than attention over a mask costs."""
    lengths = lengths_B.tolist()
    rows = [row[:n] for row, n in zip(ids_BT.cpu().numpy(), lengths, strict=True)]
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
