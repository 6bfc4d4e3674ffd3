"""Where hindsight stands in a token row, and how much of it fits into the model's positions."""

from __future__ import annotations

import numpy as np

from stepopsd_rllib.scoring.scored_sequences import NOT_SCORED, BranchedSequence, ScoredSequence


class TeacherRow:
    """One row of the batch, its scored spans (half-open token ranges), and hindsight put into it.

    The row's own tokens are never cut. Hindsight that would push the last scored token beyond
    `max_positions` is cut from its own end.

    Attributes:
        spans: The scored spans, in order.
        num_cut: Contexts in which hindsight was cut for want of positions.
        num_lost: Contexts among them that had no room for a single token of it.
    """

    def __init__(
        self,
        ids: np.ndarray,
        target: np.ndarray,
        step: np.ndarray,
        hindsight: np.ndarray,
        *,
        max_positions: int | None,
    ):
        """Finds the spans.

        Args:
            ids: Tokens of the row, [T].
            target: int64 [T], where the score of each token goes, -1 where it is not scored.
            step: int64 [T], step of each token, -1 outside all of them.
            hindsight: Token ids, int64 [H].
            max_positions: Positions of the model; None where it has no limit.
        """
        self._ids = ids.astype(np.int64)
        self._target = target
        self._hindsight = hindsight
        self._max_positions = max_positions
        self.num_cut = self.num_lost = 0
        step_T = np.where(target == NOT_SCORED, NOT_SCORED, step)
        edges = np.flatnonzero(np.diff(step_T, prepend=NOT_SCORED, append=NOT_SCORED))
        ranges = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        self.spans = [(start, stop) for start, stop in ranges if step_T[start] != NOT_SCORED]

    @property
    def has_hindsight(self) -> bool:
        """Whether there is any to put in."""
        return len(self._hindsight) > 0

    def after(self) -> ScoredSequence:
        """The whole row, with the hindsight once in front of it."""
        end = self.spans[-1][1]
        hindsight = self._that_fits(end)
        return ScoredSequence(
            ids=np.concatenate((hindsight, self._ids[:end])),
            target=np.concatenate((np.full(len(hindsight), NOT_SCORED), self._target[:end])),
        )

    def around(self) -> ScoredSequence:
        """The only span's causal prefix, the hindsight, the span."""
        start, branch = self._branch(*self.spans[0])
        return ScoredSequence(
            ids=np.concatenate((self._ids[:start], branch.ids)),
            target=np.concatenate((np.full(start, NOT_SCORED), branch.target)),
        )

    def branched(self) -> BranchedSequence:
        """The row as shared history; every span a branch behind the hindsight."""
        return BranchedSequence(
            history=self._ids,
            branches=tuple(self._branch(start, stop) for start, stop in self.spans),
        )

    def _branch(self, start: int, stop: int) -> tuple[int, ScoredSequence]:
        hindsight = self._that_fits(stop)
        context = np.full(len(hindsight), NOT_SCORED)
        return start, ScoredSequence(
            ids=np.concatenate((hindsight, self._ids[start:stop])),
            target=np.concatenate((context, self._target[start:stop])),
        )

    def _that_fits(self, num_own_tokens: int) -> np.ndarray:
        """The hindsight, cut so that it and the row's own tokens fit."""
        if self._max_positions is None:
            return self._hindsight
        room = max(0, self._max_positions - num_own_tokens)
        self.num_cut += len(self._hindsight) > room
        self.num_lost += room == 0 and len(self._hindsight) > 0
        return self._hindsight[:room]
