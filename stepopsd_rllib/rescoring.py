"""Scores sampled tokens again under another context, forwarding shared context once.

A teacher judges a turn after a text that the policy did not see. Scored naively, every turn of
every episode is a forward pass over its whole history. Here the history of an episode is forwarded
once, and the turns hang on it as branches: the inserted text and the turn's own tokens, which
attend to the history up to their turn, at the positions they would have had. A pass over several
branches scores several turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stepopsd_rllib.episodes.packing import micro_batches
from stepopsd_rllib.modules.causal_lm import CausalLMModule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOT_SCORED = -1
# Branches of one pass attend (in vain, masked) to each other: with at most as many tokens as their
# history has, that costs no more than attending to the history. Shorter passes waste their start.
SHORTEST_ROUND_TOKENS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSequence:
    """Tokens in one causal context.

    Attributes:
        ids: int64 [L].
        target: int64 [L], where the log-prob of each token goes, an index into the flattened
            output; -1 for tokens that are context only. The first token cannot be scored.
    """

    ids: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchedSequence:
    """A shared history with branches on it.

    Attributes:
        history: int64 [L].
        branches: (start, branch): the branch continues `history[:start]`. Its first token is never
            scored, and `start` is at least 1.
    """

    history: np.ndarray
    branches: tuple[tuple[int, ScoredSequence], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TopTokens:
    """What the scoring model would rather have sampled; flat outputs, written at the targets.

    Attributes:
        log_probs: float32 [P, K], of the K most likely tokens, under the whole distribution.
        ids: int64 [P, K].
    """

    log_probs: Tensor
    ids: Tensor

    @classmethod
    def empty(cls, num_tokens: int, count: int) -> TopTokens:
        """Outputs of zeros for so many targets, of `count` tokens each."""
        shape = (num_tokens, count)
        return cls(log_probs=torch.zeros(shape), ids=torch.zeros(shape, dtype=torch.int64))


def score_sequences(
    module: CausalLMModule,
    model: PreTrainedModel,
    sequences: Sequence[ScoredSequence],
    log_probs: Tensor,
    *,
    max_tokens: int,
) -> int:
    """Writes the log-probs of the target tokens into `log_probs`.

    Args:
        module: Owner of the model; knows temperature and precision.
        model: The model that scores.
        sequences: What to score.
        log_probs: Flat float32 output, written in place at the targets.
        max_tokens: Padded tokens of one forward pass.

    Returns:
        Number of tokens forwarded, without padding.
    """
    device = next(model.parameters()).device
    lengths = torch.tensor([len(sequence.ids) for sequence in sequences], dtype=torch.int64)
    for part in micro_batches(lengths, max_tokens=max_tokens):
        rows = [sequences[i] for i in part.tolist()]
        ids_BT = _padded([row.ids for row in rows], 0)
        target_BT = _padded([row.target for row in rows], NOT_SCORED)
        target_BT[:, 0] = NOT_SCORED
        mask_BT = target_BT != NOT_SCORED
        with torch.no_grad():
            scores_BT, _ = module.score(model, ids_BT.to(device), mask_BT.to(device))
        log_probs[target_BT[mask_BT]] = scores_BT.cpu()[mask_BT]
    return int(lengths.sum())


def score_branches(
    module: CausalLMModule,
    model: PreTrainedModel,
    sequences: Sequence[BranchedSequence],
    log_probs: Tensor,
    *,
    max_tokens: int,
    top: TopTokens | None = None,
) -> int:
    """Writes the log-probs of the branches' target tokens into `log_probs`; see `score_sequences`.

    Every history is forwarded once, whatever the number of its branches. A batch holds histories of
    at most `max_tokens` padded tokens; its branches follow in rounds of at most as many. The most
    likely tokens go into `top`, where it is given.

    Returns:
        Number of tokens forwarded, without padding.
    """
    num_forwarded = 0
    histories = [s.history[: max(start for start, _ in s.branches)] for s in sequences]
    lengths = torch.tensor([len(history) for history in histories], dtype=torch.int64)
    for part in micro_batches(lengths, max_tokens=max_tokens):
        batch = [sequences[i] for i in part.tolist()]
        cache = _forward_history(module, model, [histories[i] for i in part.tolist()])
        length = int(lengths[part].max())
        num_forwarded += int(lengths[part].sum())
        round_tokens = min(max_tokens // len(batch), max(length, SHORTEST_ROUND_TOKENS))
        for round_ in _rounds([s.branches for s in batch], round_tokens):
            num_forwarded += _score_round(module, model, cache, length, round_, log_probs, top)
    return num_forwarded


def _forward_history(
    module: CausalLMModule, model: PreTrainedModel, histories: list[np.ndarray]
) -> Any:
    """Keys and values of the padded histories."""
    device = next(model.parameters()).device
    base_model: Any = model.base_model
    with torch.no_grad(), module.autocast():
        out = base_model(input_ids=_padded(histories, 0).to(device), use_cache=True)
    return out.past_key_values


Round = list[list[tuple[int, ScoredSequence]]]


def _rounds(
    branches: Sequence[Sequence[tuple[int, ScoredSequence]]], max_tokens: int
) -> Iterator[Round]:
    """Deals each row's branches into rounds of at most `max_tokens` tokens (or one branch)."""
    waiting = [list(row) for row in branches]
    while any(waiting):
        round_: Round = []
        for row in waiting:
            taken, size = [], 0
            while row and (not taken or size + len(row[0][1].ids) <= max_tokens):
                size += len(row[0][1].ids)
                taken.append(row.pop(0))
            round_.append(taken)
        yield round_


def _score_round(
    module: CausalLMModule,
    model: PreTrainedModel,
    cache: Any,
    length: int,
    round_: Round,
    log_probs: Tensor,
    top: TopTokens | None,
) -> int:
    """Forwards one round of branches on the cached histories."""
    device = next(model.parameters()).device
    ids_BQ = _padded([_joined([branch.ids for _, branch in row]) for row in round_], 0)
    target_BQ = _padded(
        [_joined([branch.target for _, branch in row]) for row in round_], NOT_SCORED
    )
    index_BQ = _padded(
        [_joined([np.full(len(b.ids), i) for i, (_, b) in enumerate(row)]) for row in round_], -1
    )
    start_BQ = _padded(
        [_joined([np.full(len(b.ids), start) for start, b in row]) for row in round_], 0
    )
    offset_BQ = _padded([_joined([np.arange(len(b.ids)) for _, b in row]) for row in round_], 0)
    base_model: Any = model.base_model
    with torch.no_grad(), module.autocast():
        hidden_BQH = base_model(
            input_ids=ids_BQ.to(device),
            attention_mask=_attends(start_BQ.to(device), index_BQ.to(device), length),
            position_ids=(start_BQ + offset_BQ).to(device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    # The first token of a branch would be predicted by its history; it is context by contract.
    scored_BQ = (target_BQ != NOT_SCORED) & (offset_BQ > 0)
    hidden_NH = hidden_BQH[:, :-1][scored_BQ[:, 1:].to(device)]
    target_N = target_BQ[scored_BQ]
    scores_N = module.head_scores(model, hidden_NH, ids_BQ[scored_BQ].to(device))
    log_probs[target_N] = scores_N.cpu()
    if top is not None:
        top_log_probs_NK, top_ids_NK = module.head_top_tokens(
            model, hidden_NH, count=top.ids.shape[1]
        )
        top.log_probs[target_N], top.ids[target_N] = top_log_probs_NK.cpu(), top_ids_NK.cpu()
    cache.crop(-ids_BQ.shape[1])
    return int((index_BQ >= 0).sum())


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


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)


def _padded(rows: Sequence[np.ndarray], value: int) -> Tensor:
    """Right-padded int64 [B, T]."""
    out = np.full((len(rows), max((len(row) for row in rows), default=0)), value, dtype=np.int64)
    for b, row in enumerate(rows):
        out[b, : len(row)] = row
    return torch.from_numpy(out)
