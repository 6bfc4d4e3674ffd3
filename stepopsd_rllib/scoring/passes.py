"""Which tokens are forwarded together: sequences as padded rows, branches on shared histories.

Nothing here runs a model without a gradient, or with one: that is the caller's choice. A history is
forwarded once, and what continues it hangs on it as branches, which attend to the history up to
where they start, at the positions they would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stepopsd_rllib.episodes.packing import PASS_TOKENS, micro_batches
from stepopsd_rllib.scoring.scored_sequences import NOT_SCORED, BranchedSequence, ScoredSequence
from stepopsd_rllib.scoring.shared_prefixes import shared_prefixes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stepopsd_rllib.scoring.history_cache import HistoryCache

# Branches of one row attend (in vain, masked) to each other: with at most as many tokens as their
# history has, that costs no more than attending to the history. Shorter rows waste their start.
SHORTEST_ROW_TOKENS = 512
# A key that is only attended to takes a fraction of the memory that a forwarded token takes.
KEYS_PER_TOKEN = 4


def with_shared_beginnings(
    sequences: Sequence[ScoredSequence],
) -> tuple[list[ScoredSequence], list[BranchedSequence]]:
    """The sequences that share nothing, and the others as branches of what they begin with.

    Sharing is chosen so that it saves most tokens; see `shared_prefixes`.
    """
    ids = [sequence.ids for sequence in sequences]
    limits = [sequence.num_shareable for sequence in sequences]
    branched, is_alone = [], [True] * len(sequences)
    for prefix in shared_prefixes(ids, limits, least_saved=PASS_TOKENS):
        members = [sequences[i] for i in prefix.rows]
        length = prefix.length
        branches = tuple(
            (length, ScoredSequence(ids=m.ids[length:], target=m.target[length:])) for m in members
        )
        branched.append(BranchedSequence(history=members[0].ids[:length], branches=branches))
        for i in prefix.rows:
            is_alone[i] = False
    return [sequences[i] for i, alone in enumerate(is_alone) if alone], branched


@dataclass(frozen=True, kw_only=True, slots=True)
class PaddedRows:
    """Sequences as the right-padded rows of one pass.

    Attributes:
        ids_BT: int64 [B, T].
        target_BT: int64 [B, T], as in `ScoredSequence`; -1 where padded.
        num_tokens: Tokens of all rows, without padding.
    """

    ids_BT: Tensor
    target_BT: Tensor
    num_tokens: int

    @classmethod
    def of(cls, rows: Sequence[ScoredSequence]) -> PaddedRows:
        """Pads the sequences to the longest of them."""
        return cls(
            num_tokens=sum(len(row.ids) for row in rows),
            ids_BT=padded([row.ids for row in rows], 0),
            target_BT=padded([row.target for row in rows], NOT_SCORED),
        )

    def forward(self, model: PreTrainedModel, *, keep: bool) -> tuple[Tensor, Any]:
        """Hidden states [B, T, H], and the keys and values of all layers if they are kept."""
        base_model: Any = model.base_model
        device = next(model.parameters()).device
        out = base_model(input_ids=self.ids_BT.to(device), use_cache=keep)
        return out.last_hidden_state, out.past_key_values


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchRow:
    """Branches of one history that stand in one row of a pass, one behind the other."""

    history: int
    branches: list[tuple[int, ScoredSequence]]

    @property
    def num_tokens(self) -> int:
        """Tokens of all the branches."""
        return sum(len(branch.ids) for _, branch in self.branches)


@dataclass(frozen=True, kw_only=True, slots=True)
class PaddedBranches:
    """Rows of branches as one pass.

    Attributes:
        ids_BT: int64 [B, T].
        target_BT: int64 [B, T], as in `ScoredSequence`; -1 where padded.
        index_BT: int64 [B, T], which branch of its row each token belongs to; -1 where padded.
        start_BT: int64 [B, T], length of the history that each token continues; 0 where padded.
        position_BT: int64 [B, T], place of each token behind its history and the branch so far.
        history_B: int64 [B], the history that each row continues.
        num_tokens: Tokens of all branches, without padding.
    """

    ids_BT: Tensor
    target_BT: Tensor
    num_tokens: int
    index_BT: Tensor
    start_BT: Tensor
    position_BT: Tensor
    history_B: Tensor

    @classmethod
    def of(cls, rows: Sequence[BranchRow]) -> PaddedBranches:
        """Lines the branches of every row up, and pads the rows to the longest of them."""

        def column(of: Callable[[int, int, ScoredSequence], np.ndarray], padding: int) -> Tensor:
            """A value of each token, of its branch's number in the row, start and tokens."""
            return padded(
                [
                    np.concatenate([of(i, start, b) for i, (start, b) in enumerate(row.branches)])
                    for row in rows
                ],
                padding,
            )

        return cls(
            num_tokens=sum(row.num_tokens for row in rows),
            ids_BT=column(lambda i, start, branch: branch.ids, 0),
            target_BT=column(lambda i, start, branch: branch.target, NOT_SCORED),
            index_BT=column(lambda i, start, branch: np.full(len(branch.ids), i), -1),
            start_BT=column(lambda i, start, branch: np.full(len(branch.ids), start), 0),
            position_BT=column(lambda i, start, branch: start + np.arange(len(branch.ids)), 0),
            history_B=torch.tensor([row.history for row in rows]),
        )

    def forward(self, model: PreTrainedModel, cache: HistoryCache) -> Tensor:
        """Hidden states [B, T, H] behind the cached histories."""
        base_model: Any = model.base_model
        device = next(model.parameters()).device
        attends_B1TK = attended(
            self.start_BT.to(device), self.index_BT.to(device), cache.get_seq_length()
        )
        return base_model(
            input_ids=self.ids_BT.to(device),
            attention_mask=attends_B1TK,
            position_ids=self.position_BT.to(device),
            past_key_values=cache.continued_by(self.history_B),
            use_cache=True,
        ).last_hidden_state


def attended(start_BT: Tensor, index_BT: Tensor, length: int) -> Tensor:
    """Which keys each branch token sees: its history up to its start, and its own branch so far.

    Args:
        start_BT: Length of the history that each token continues, int64 [B, T]; 0 where padded.
        index_BT: Branch of each token, int64 [B, T]; -1 where padded.
        length: Keys of the padded histories, L.

    Returns:
        Bool [B, 1, T, L + T]. A padded token sees padded ones, so that no row is without a key.
    """
    num_queries = start_BT.shape[1]
    position_L = torch.arange(length, device=start_BT.device)
    sees_history_BTL = position_L[None, None] < start_BT[:, :, None]
    is_earlier_TT = start_BT.new_ones(num_queries, num_queries, dtype=torch.bool).tril()
    sees_branch_BTT = (index_BT[:, :, None] == index_BT[:, None, :]) & is_earlier_TT
    return torch.cat((sees_history_BTL, sees_branch_BTT), dim=2)[:, None]


def row_passes(sequences: Sequence[ScoredSequence], *, max_tokens: int) -> Iterator[PaddedRows]:
    """The passes over sequences by themselves, each of at most `max_tokens` padded tokens."""
    lengths = torch.tensor([len(sequence.ids) for sequence in sequences], dtype=torch.int64)
    for part in micro_batches(lengths, max_tokens=max_tokens):
        yield PaddedRows.of([sequences[i] for i in part.tolist()])


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchedPasses:
    """One pass over histories, and those over the rows of branches that continue them.

    Attributes:
        histories: Rows of the first pass; its keys and values are kept.
        rounds: The other passes; `history_B` counts the rows of `histories`.
    """

    histories: PaddedRows
    rounds: list[PaddedBranches]


def branched_passes(
    sequences: Sequence[BranchedSequence], *, max_tokens: int
) -> Iterator[BranchedPasses]:
    """The passes over branched sequences.

    Every history is forwarded once, whatever the number of its branches, at most `max_tokens`
    padded tokens at a time; rows of branches of like length follow, as many.
    """
    histories = [sequence.forwarded() for sequence in sequences]
    lengths = torch.tensor([len(history.ids) for history in histories], dtype=torch.int64)
    for part in micro_batches(lengths, max_tokens=max_tokens):
        length = int(lengths[part].max())
        row_tokens = min(max_tokens, max(length, SHORTEST_ROW_TOKENS))
        rows = [
            BranchRow(history=n, branches=branches)
            for n, i in enumerate(part.tolist())
            for branches in _dealt(sequences[i].branches, row_tokens)
        ]
        sizes = torch.tensor([row.num_tokens for row in rows])
        costs = torch.maximum(sizes, (sizes + length) // KEYS_PER_TOKEN)
        yield BranchedPasses(
            histories=PaddedRows.of([histories[i] for i in part.tolist()]),
            rounds=[
                PaddedBranches.of([rows[i] for i in round_.tolist()])
                for round_ in micro_batches(costs, max_tokens=max_tokens)
            ],
        )


def _dealt(
    branches: Sequence[tuple[int, ScoredSequence]], max_tokens: int
) -> Iterator[list[tuple[int, ScoredSequence]]]:
    """Deals branches into rows of at most `max_tokens` tokens (or one branch)."""
    row: list[tuple[int, ScoredSequence]] = []
    size = 0
    for start, branch in branches:
        if row and size + len(branch.ids) > max_tokens:
            yield row
            row, size = [], 0
        row.append((start, branch))
        size += len(branch.ids)
    yield row


def padded(rows: Sequence[np.ndarray], value: int = 0) -> Tensor:
    """Right-padded int64 [B, T]."""
    out = np.full((len(rows), max((len(row) for row in rows), default=0)), value, dtype=np.int64)
    for b, row in enumerate(rows):
        out[b, : len(row)] = row
    return torch.from_numpy(out)
