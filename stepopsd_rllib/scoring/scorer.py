"""Log-probs of given tokens under one of a module's models, without gradient.

A teacher judges a turn after a text that the policy did not see. Scored naively, every turn of
every episode is a forward pass over its whole history. Here a history is forwarded once, and what
continues it hangs on it as branches: the turns of an episode behind an inserted text, the episodes
of a batch behind the text that they all begin with. `passes` lays them out.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stepopsd_rllib.episodes import RowLayout
from stepopsd_rllib.models.causal_lm import CausalLMModule, View
from stepopsd_rllib.models.sharding import one_pass
from stepopsd_rllib.models.shared_attention import keeps_all_keys
from stepopsd_rllib.scoring.passes import (
    PaddedBranches,
    PaddedRows,
    branched_passes,
    padded,
    row_passes,
    with_shared_beginnings,
)
from stepopsd_rllib.scoring.scored_sequences import (
    NOT_SCORED,
    BranchedSequence,
    ScoredSequence,
    Scores,
)
from stepopsd_rllib.scoring.shared_rows import row_micro_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stepopsd_rllib.scoring.history_cache import HistoryCache

Pass = Callable[[], int]
"""Forwards some tokens and puts down their scores; the number of tokens."""


class Scorer:
    """One view of a module (its policy, reference or teacher) as the judge of tokens.

    Of a sharded module every call is an exchange: all learners must make it, one with nothing to
    score as well. How many passes it takes each of them does not matter.

    The view is resolved for each call, and scores in evaluation mode: with gradient checkpointing a
    model in training mode keeps no keys and values, which branches are attached to.
    """

    def __init__(self, module: CausalLMModule, view: View, *, max_tokens: int):
        """Keeps what judges, and the budget.

        Args:
            module: Owner of the model; knows temperature and precision.
            view: Which of its weights judge.
            max_tokens: Padded tokens of one forward pass.
        """
        self.module = module
        self.view: View = view
        self.max_tokens = max_tokens

    def score(
        self,
        sequences: Sequence[ScoredSequence | BranchedSequence],
        *,
        num_tokens: int,
        top: int | None = None,
    ) -> Scores:
        """Scores the target tokens.

        What several sequences begin with, such as the same skills in front of every episode, is
        forwarded once for all of them.

        Args:
            sequences: Sequences by themselves, and branched ones.
            num_tokens: P, length of the flat result, which the targets point into.
            top: K, most likely tokens of the model to give back, too; None for none.

        Returns:
            Log-probs float32 [P], on the CPU, and the top tokens [P, K].

        Raises:
            ValueError: The module has no such view, or its model has layers that forget, such as
                sliding windows, and a sequence is branched.
        """
        scores = Scores.zeros(num_tokens, top=top)
        plain = [s for s in sequences if isinstance(s, ScoredSequence)]
        branched = [s for s in sequences if isinstance(s, BranchedSequence)]
        with self.module.view(self.view) as model, torch.no_grad():
            shared: list[BranchedSequence] = []
            if keeps_all_keys(model):
                plain, shared = with_shared_beginnings(plain)
            elif branched:
                raise ValueError(
                    f"{type(model).__name__} has layers of {sorted(set(model.config.layer_types))}:"
                    " the turns of an episode cannot be scored on one shared history. Use "
                    "hindsight_position='prefix', or a model whose layers all have full attention."
                )
            passes = itertools.chain(
                self._plain_passes(model, plain, scores),
                self._branched_passes(model, shared, scores),
                self._branched_passes(model, branched, scores),
            )
            num_forwarded = 0
            for make in self.module.in_step(passes):
                if make is None:
                    self.module.idle_pass(model)
                else:
                    num_forwarded += one_pass(model, make)
        return replace(scores, num_forwarded=num_forwarded)

    def score_rows(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Log-probs of all sampled tokens of token rows.

        Args:
            columns: `input_ids` int32 and `response_mask` bool [L], and `lengths` int64 [B].

        Returns:
            Float32 [R] on the CPU, nats. The first token of a row cannot be scored: 0.

        Raises:
            ValueError: The module has no such view.
        """
        layout = RowLayout.of(columns)
        every_R = torch.ones(len(layout.row_R), dtype=torch.bool)
        return self._score_rows(columns, layout, every_R, torch.arange(layout.num_rows), None)

    def score_some(self, columns: Mapping[str, Tensor], is_wanted_R: Tensor) -> tuple[Tensor, int]:
        """Log-probs of some of the sampled tokens; a row is forwarded up to the last of them.

        Args:
            columns: As in `score_rows`.
            is_wanted_R: Bool [R].

        Returns:
            Float32 [R], 0 where not wanted, and the number of tokens that were forwarded.

        Raises:
            ValueError: The module has no such view.
        """
        layout = RowLayout.of(columns)
        end_B = torch.zeros(layout.num_rows, dtype=torch.int64).scatter_reduce(
            0, layout.row_R[is_wanted_R], layout.position_R[is_wanted_R] + 1, "amax"
        )
        rows = end_B.nonzero()[:, 0]
        return self._score_rows(columns, layout, is_wanted_R, rows, end_B), int(end_B.sum())

    def _score_rows(
        self,
        columns: Mapping[str, Tensor],
        layout: RowLayout,
        is_wanted_R: Tensor,
        rows: Tensor,
        end_B: Tensor | None,
    ) -> Tensor:
        """Scores the wanted tokens of rows, each forwarded up to its end."""
        log_probs_R = torch.zeros(len(is_wanted_R))
        ids = [columns["input_ids"][layout.tokens_of(b)].cpu().numpy() for b in rows.tolist()]
        if end_B is not None:
            ids = [row[:end] for row, end in zip(ids, end_B[rows].tolist(), strict=True)]
        with self.module.view(self.view) as model, torch.no_grad():
            device = next(model.parameters()).device
            passes = row_micro_batches(
                ids, max_tokens=self.max_tokens, share=self.module.shares_prefixes
            )
            for pass_ in self.module.in_step(passes):
                if pass_ is None:
                    self.module.idle_pass(model)
                    continue
                chosen = [ids[i] for i in pass_.rows.tolist()]
                ids_BT, of_batch = padded(chosen), rows[pass_.rows]
                shared = pass_.shared(ids_BT, torch.tensor([len(row) for row in chosen]))
                mask_BT = layout.padded(is_wanted_R, of_batch)[:, : ids_BT.shape[1]].to(device)
                part_BT, _ = self.module.score(model, ids_BT.to(device), mask_BT, shared=shared)
                place = layout.sampled(of_batch)
                log_probs_R[place[is_wanted_R[place]]] = part_BT[mask_BT].cpu()
        return log_probs_R

    def _plain_passes(
        self, model: PreTrainedModel, sequences: list[ScoredSequence], scores: Scores
    ) -> Iterator[Pass]:
        """Passes that fill in what the sequences point to."""
        for rows in row_passes(sequences, max_tokens=self.max_tokens):
            yield functools.partial(self._rows_pass, model, rows, scores)

    def _rows_pass(self, model: PreTrainedModel, rows: PaddedRows, scores: Scores) -> int:
        with self.module.autocast():
            hidden_BTH, _ = rows.forward(model, keep=False)
        self._fill(model, hidden_BTH, rows.ids_BT, rows.target_BT, scores)
        return rows.num_tokens

    def _branched_passes(
        self, model: PreTrainedModel, sequences: list[BranchedSequence], scores: Scores
    ) -> Iterator[Pass]:
        """Passes that fill in what histories point to, then branches, which need their keys."""
        for passes in branched_passes(sequences, max_tokens=self.max_tokens):
            caches: list[HistoryCache] = []
            yield functools.partial(self._histories_pass, model, passes.histories, scores, caches)
            for branches in passes.rounds:
                yield functools.partial(self._branches_pass, model, branches, scores, caches)

    def _histories_pass(
        self,
        model: PreTrainedModel,
        rows: PaddedRows,
        scores: Scores,
        caches: list[HistoryCache],
    ) -> int:
        from stepopsd_rllib.scoring.history_cache import HistoryCache

        with self.module.autocast():
            hidden_BTH, kept = rows.forward(model, keep=True)
        self._fill(model, hidden_BTH, rows.ids_BT, rows.target_BT, scores)
        caches.append(HistoryCache.of(kept))
        return rows.num_tokens

    def _branches_pass(
        self,
        model: PreTrainedModel,
        rows: PaddedBranches,
        scores: Scores,
        caches: list[HistoryCache],
    ) -> int:
        with self.module.autocast():
            hidden_BTH = rows.forward(model, caches[0])
        self._fill(model, hidden_BTH, rows.ids_BT, rows.target_BT, scores)
        return rows.num_tokens

    def _fill(
        self,
        model: PreTrainedModel,
        hidden_BTH: Tensor,
        ids_BT: Tensor,
        target_BT: Tensor,
        scores: Scores,
    ) -> None:
        """Puts down what the hidden states say of the target tokens, each at the one before it."""
        is_scored_BT = target_BT[:, 1:] != NOT_SCORED
        if not is_scored_BT.any():
            return
        target_N = target_BT[:, 1:][is_scored_BT]
        hidden_NH = hidden_BTH[:, :-1][is_scored_BT.to(hidden_BTH.device)]
        ids_N = ids_BT[:, 1:][is_scored_BT].to(hidden_BTH.device)
        scores.log_probs[target_N] = self.module.head_scores(model, hidden_NH, ids_N).cpu()
        if scores.top is not None:
            count = scores.top.ids.shape[1]
            log_probs_NK, ids_NK = self.module.head_top_tokens(model, hidden_NH, count=count)
            scores.top.log_probs[target_N] = log_probs_NK.cpu()
            scores.top.ids[target_N] = ids_NK.cpu()
