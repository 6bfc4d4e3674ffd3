"""Scores sampled tokens again under another context, forwarding shared context once.

A teacher judges a turn after a text that the policy did not see. Scored naively, every turn of
every episode is a forward pass over its whole history. Here a history is forwarded once, and what
continues it hangs on it as branches, which attend to the history up to where they start, at the
positions they would have had. The turns of an episode are branches behind an inserted text; the
episodes of a batch are branches of the text that they all begin with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stepopsd_rllib.episodes.packing import PASS_TOKENS, micro_batches
from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.scoring.scored_sequences import (
    NOT_SCORED,
    BranchedSequence,
    ScoredSequence,
    TopTokens,
)
from stepopsd_rllib.scoring.shared_prefixes import shared_prefixes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stepopsd_rllib.scoring.history_cache import HistoryCache

# Branches of one row attend (in vain, masked) to each other: with at most as many tokens as their
# history has, that costs no more than attending to the history. Shorter rows waste their start.
SHORTEST_ROW_TOKENS = 512
# A key that is only attended to takes a fraction of the memory that a forwarded token takes.
KEYS_PER_TOKEN = 4


def score_sequences(
    module: CausalLMModule,
    model: PreTrainedModel,
    sequences: Sequence[ScoredSequence],
    log_probs: Tensor,
    *,
    max_tokens: int,
    top: TopTokens | None = None,
) -> int:
    """Writes the log-probs of the target tokens into `log_probs`.

    What several sequences begin with, such as the same skills in front of every episode, is
    forwarded once for all of them.

    Args:
        module: Owner of the model; knows temperature and precision.
        model: The model that scores.
        sequences: What to score.
        log_probs: Flat float32 output, written in place at the targets.
        max_tokens: Padded tokens of one forward pass.
        top: Where the most likely tokens go, too.

    Returns:
        Number of tokens forwarded, without padding.
    """
    alone, branched = _shared(sequences) if keeps_all_keys(model) else (list(sequences), [])
    lengths = torch.tensor([len(sequence.ids) for sequence in alone], dtype=torch.int64)
    for part in micro_batches(lengths, max_tokens=max_tokens):
        rows = [alone[i] for i in part.tolist()]
        _forward(module, model, rows, log_probs, top, keep=False)
    num_shared = score_branches(module, model, branched, log_probs, max_tokens=max_tokens, top=top)
    return int(lengths.sum()) + num_shared


def _shared(
    sequences: Sequence[ScoredSequence],
) -> tuple[list[ScoredSequence], list[BranchedSequence]]:
    """Sequences that begin like others as branches of their common beginning, and the rest."""
    ids = [sequence.ids for sequence in sequences]
    # The token before the first scored one predicts it: it belongs to the branch.
    limits = [max(0, _first_scored(sequence) - 1) for sequence in sequences]
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


def _first_scored(sequence: ScoredSequence) -> int:
    scored = np.flatnonzero(sequence.target[1:] != NOT_SCORED)
    return 1 + int(scored[0]) if len(scored) else len(sequence.ids)


def keeps_all_keys(model: PreTrainedModel) -> bool:
    """Whether a branch can be attached to a history: not where layers forget what lies behind."""
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"]
    return all(kind == "full_attention" for kind in kinds)


def score_branches(
    module: CausalLMModule,
    model: PreTrainedModel,
    sequences: Sequence[BranchedSequence],
    log_probs: Tensor,
    *,
    max_tokens: int,
    top: TopTokens | None = None,
    history_log_probs: Tensor | None = None,
) -> int:
    """Writes the log-probs of the branches' target tokens into `log_probs`; see `score_sequences`.

    Every history is forwarded once, whatever the number of its branches, at most `max_tokens`
    padded tokens at a time; rows of branches of like length follow, as many. The most likely tokens
    go into `top`, and the log-probs of the histories' own targets, which the same pass gives, into
    `history_log_probs`, where these are given.

    Returns:
        Number of tokens forwarded, without padding.

    Raises:
        ValueError: The model has layers that forget, such as sliding windows.
    """
    if sequences and not keeps_all_keys(model):
        raise ValueError(
            f"{type(model).__name__} has layers of {sorted(set(model.config.layer_types))}: the "
            "turns of an episode cannot be scored on one shared history. Use hindsight_position="
            "'prefix', or a model whose layers all have full attention."
        )
    from stepopsd_rllib.scoring.history_cache import HistoryCache

    num_forwarded = 0
    histories = [sequence.forwarded() for sequence in sequences]
    lengths = torch.tensor([len(history.ids) for history in histories], dtype=torch.int64)
    for part in micro_batches(lengths, max_tokens=max_tokens):
        batch = [histories[i] for i in part.tolist()]
        cache = HistoryCache.of(_forward(module, model, batch, history_log_probs, None, keep=True))
        length = int(lengths[part].max())
        row_tokens = min(max_tokens, max(length, SHORTEST_ROW_TOKENS))
        rows = [
            _BranchRow(history=n, branches=branches)
            for n, i in enumerate(part.tolist())
            for branches in _dealt(sequences[i].branches, row_tokens)
        ]
        sizes = torch.tensor([row.num_tokens for row in rows])
        costs = torch.maximum(sizes, (sizes + length) // KEYS_PER_TOKEN)
        for round_ in micro_batches(costs, max_tokens=max_tokens):
            _score_rows(module, model, cache, [rows[i] for i in round_.tolist()], log_probs, top)
        num_forwarded += int(lengths[part].sum()) + int(sizes.sum())
    return num_forwarded


def _forward(
    module: CausalLMModule,
    model: PreTrainedModel,
    rows: list[ScoredSequence],
    log_probs: Tensor | None,
    top: TopTokens | None,
    *,
    keep: bool,
) -> Any:
    """Forwards padded rows, scores their targets, and returns keys and values if they are kept."""
    device = next(model.parameters()).device
    base_model: Any = model.base_model
    ids_BT = _padded([row.ids for row in rows], 0)
    with torch.no_grad(), module.autocast():
        out = base_model(input_ids=ids_BT.to(device), use_cache=keep)
    if log_probs is not None:
        target_BT = _padded([row.target for row in rows], NOT_SCORED)
        _score(module, model, out.last_hidden_state, ids_BT, target_BT, log_probs, top)
    return out.past_key_values


def _score(
    module: CausalLMModule,
    model: PreTrainedModel,
    hidden_BTH: Tensor,
    ids_BT: Tensor,
    target_BT: Tensor,
    log_probs: Tensor,
    top: TopTokens | None,
) -> None:
    """Writes what the hidden states say of the target tokens, each at the token before it."""
    is_scored_BT = target_BT[:, 1:] != NOT_SCORED
    target_N = target_BT[:, 1:][is_scored_BT]
    hidden_NH = hidden_BTH[:, :-1][is_scored_BT.to(hidden_BTH.device)]
    ids_N = ids_BT[:, 1:][is_scored_BT].to(hidden_BTH.device)
    log_probs[target_N] = module.head_scores(model, hidden_NH, ids_N).cpu()
    if top is not None:
        top_NK = module.head_top_tokens(model, hidden_NH, count=top.ids.shape[1])
        top.log_probs[target_N], top.ids[target_N] = (values.cpu() for values in top_NK)


@dataclass(frozen=True, kw_only=True, slots=True)
class _BranchRow:
    """Branches of one history that stand in one row of a pass, one behind the other."""

    history: int
    branches: list[tuple[int, ScoredSequence]]

    @property
    def num_tokens(self) -> int:
        return sum(len(branch.ids) for _, branch in self.branches)


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


def _score_rows(
    module: CausalLMModule,
    model: PreTrainedModel,
    cache: HistoryCache,
    rows: list[_BranchRow],
    log_probs: Tensor,
    top: TopTokens | None,
) -> None:
    """Forwards rows of branches on the cached histories."""
    device = next(model.parameters()).device

    def column(of: Callable[[int, int, ScoredSequence], np.ndarray], padding: int) -> Tensor:
        """A value of each token, of its branch's number in the row, start and tokens."""
        return _padded(
            [
                np.concatenate([of(i, start, b) for i, (start, b) in enumerate(row.branches)])
                for row in rows
            ],
            padding,
        )

    ids_BQ = column(lambda i, start, branch: branch.ids, 0)
    target_BQ = column(lambda i, start, branch: branch.target, NOT_SCORED)
    index_BQ = column(lambda i, start, branch: np.full(len(branch.ids), i), -1)
    start_BQ = column(lambda i, start, branch: np.full(len(branch.ids), start), 0)
    offset_BQ = column(lambda i, start, branch: np.arange(len(branch.ids)), 0)
    base_model: Any = model.base_model
    length = cache.get_seq_length()
    with torch.no_grad(), module.autocast():
        hidden_BQH = base_model(
            input_ids=ids_BQ.to(device),
            attention_mask=_attends(start_BQ.to(device), index_BQ.to(device), length),
            position_ids=(start_BQ + offset_BQ).to(device),
            past_key_values=cache.continued_by(torch.tensor([row.history for row in rows])),
            use_cache=True,
        ).last_hidden_state
    # The first token of a branch would be predicted by its history; it is context by contract.
    target_BQ = target_BQ.masked_fill(offset_BQ == 0, NOT_SCORED)
    _score(module, model, hidden_BQH, ids_BQ, target_BQ, log_probs, top)


def _attends(start_BQ: Tensor, index_BQ: Tensor, length: int) -> Tensor:
    """Which keys each branch token sees: its history up to its start, and its own branch so far.

    Args:
        start_BQ: Length of the history that each token continues, int64 [B, Q]; 0 where padded.
        index_BQ: Branch of each token, int64 [B, Q]; -1 where padded.
        length: Keys of the padded histories, L.

    Returns:
        Bool [B, 1, Q, L + Q]. A padded token sees padded ones, so that no row is without a key.
    """
    num_queries = start_BQ.shape[1]
    position_L = torch.arange(length, device=start_BQ.device)
    sees_history_BQL = position_L[None, None] < start_BQ[:, :, None]
    is_earlier_QQ = start_BQ.new_ones(num_queries, num_queries, dtype=torch.bool).tril()
    sees_branch_BQQ = (index_BQ[:, :, None] == index_BQ[:, None, :]) & is_earlier_QQ
    return torch.cat((sees_history_BQL, sees_branch_BQQ), dim=2)[:, None]


def _padded(rows: Sequence[np.ndarray], value: int) -> Tensor:
    """Right-padded int64 [B, T]."""
    out = np.full((len(rows), max((len(row) for row in rows), default=0)), value, dtype=np.int64)
    for b, row in enumerate(rows):
        out[b, : len(row)] = row
    return torch.from_numpy(out)
