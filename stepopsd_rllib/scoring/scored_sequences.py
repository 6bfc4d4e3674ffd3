"""What is to be scored again: tokens in a context, alone or as branches of a shared history."""

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
        target: int64 [L], where the log-probs of the history's own tokens go, as that of a
            `ScoredSequence`; without it the history is context only.
    """

    history: np.ndarray
    branches: tuple[tuple[int, ScoredSequence], ...]
    target: np.ndarray | None = None

    def forwarded(self) -> ScoredSequence:
        """The part of the history that somebody needs."""
        if self.target is not None:
            return ScoredSequence(ids=self.history, target=self.target)
        ids = self.history[: max(start for start, _ in self.branches)]
        return ScoredSequence(ids=ids, target=np.full(len(ids), NOT_SCORED))


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
