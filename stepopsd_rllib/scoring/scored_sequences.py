"""What is to be scored again, and what scoring it gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NOT_SCORED = -1
"""Target of a token that is context only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSequence:
    """Tokens in one causal context.

    Attributes:
        ids: int64 [L].
        target: int64 [L], where the log-prob of each token goes, an index into the flat result; -1
            for tokens that are context only. The first token of a context cannot be scored.
    """

    ids: np.ndarray
    target: np.ndarray

    @property
    def num_shareable(self) -> int:
        """Tokens that others may have in common with it, and that are forwarded once for all.

        Not the token right before the first scored one: it starts the branch (see
        `BranchedSequence`).
        """
        scored = np.flatnonzero(self.target[1:] != NOT_SCORED)
        return int(scored[0]) if len(scored) else max(0, len(self.ids) - 1)

    def targets(self) -> tuple[np.ndarray, ...]:
        """The targets of the sequence, which has one part."""
        return (self.target,)


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchedSequence:
    """A shared history with branches on it.

    A token is predicted by the one before it, and a branch has only its own hidden states. So the
    first token of a branch is context; that rule is kept here and nowhere else. A branch whose
    first token is to be scored gets the last token of its history in front, as context, and starts
    one token earlier.

    Attributes:
        history: int64 [L].
        branches: (start, branch): the branch continues `history[:start]`; `start` is at least 1.
        target: int64 [L], where the log-probs of the history's own tokens go, as that of a
            `ScoredSequence`; without it the history is context only.
    """

    history: np.ndarray
    branches: tuple[tuple[int, ScoredSequence], ...]
    target: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Makes the first token of every branch context.

        Raises:
            ValueError: A branch continues nothing, or more than the history has.
        """
        for start, _ in self.branches:
            if not 0 < start <= len(self.history):
                raise ValueError(
                    f"A branch starts at token {start} of a history of {len(self.history)} tokens."
                )
        branches = tuple(self._with_context(start, branch) for start, branch in self.branches)
        object.__setattr__(self, "branches", branches)

    def _with_context(self, start: int, branch: ScoredSequence) -> tuple[int, ScoredSequence]:
        if len(branch.target) == 0 or branch.target[0] == NOT_SCORED:
            return start, branch
        before = slice(start - 1, start)
        return start - 1, ScoredSequence(
            ids=np.concatenate((self.history[before], branch.ids)),
            target=np.concatenate(([NOT_SCORED], branch.target)),
        )

    def targets(self) -> tuple[np.ndarray, ...]:
        """The targets of every branch, then those of the history if it has some."""
        own = () if self.target is None else (self.target,)
        return (*(branch.target for _, branch in self.branches), *own)

    def forwarded(self) -> ScoredSequence:
        """The part of the history that somebody needs."""
        if self.target is not None:
            return ScoredSequence(ids=self.history, target=self.target)
        ids = self.history[: max(start for start, _ in self.branches)]
        return ScoredSequence(ids=ids, target=np.full(len(ids), NOT_SCORED))


@dataclass(frozen=True, kw_only=True, slots=True)
class TopTokens:
    """What the scoring model would rather have sampled.

    Attributes:
        log_probs: float32 [P, K], of the K most likely tokens, under the whole distribution, nats.
        ids: int64 [P, K], most likely first.
    """

    log_probs: Tensor
    ids: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a model says of the target tokens; 0 where no target pointed.

    Attributes:
        log_probs: float32 [P], nats.
        top: The most likely tokens instead; None where nobody asked.
        num_forwarded: Tokens that were forwarded for it, without padding.
    """

    log_probs: Tensor
    top: TopTokens | None
    num_forwarded: int

    @classmethod
    def zeros(cls, num_tokens: int, *, top: int | None) -> Scores:
        """The scores of a number of tokens before anything was scored: all 0."""
        shape = (num_tokens, top or 0)
        ids = torch.zeros(shape, dtype=torch.int64)
        return cls(
            log_probs=torch.zeros(num_tokens),
            top=None if top is None else TopTokens(log_probs=torch.zeros(shape), ids=ids),
            num_forwarded=0,
        )
