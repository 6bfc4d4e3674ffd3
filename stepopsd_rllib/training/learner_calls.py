"""Calls to learners whose answers are all needed: a learner that is gone is an error, named so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class LearnerLost(RuntimeError):
    """A learner died. Its weights and optimizer are gone: the trial needs its checkpoint."""


def ask_learners(
    learner_group: Any, call: Callable[[Any], Any], only: Sequence[int] | None = None
) -> list[Any]:
    """What every learner answers.

    RLlib leaves out a learner that it knows to be dead, and hands over the exception of one that
    dies now in the place of its answer.

    Args:
        learner_group: RLlib's `LearnerGroup`, local or remote.
        call: Takes a learner.
        only: Numbers of the remote learners that are asked; all by default.

    Raises:
        LearnerLost: One of them did not answer.
    """
    where = {} if only is None or learner_group.is_local else {"remote_actor_ids": list(only)}
    results = list(learner_group.foreach_learner(call, **where))
    for result in results:
        if not result.ok:
            raise LearnerLost(f"A learner is gone: {result.get()}") from result.get()
    expected = 1 if learner_group.is_local else len(learner_group) if only is None else len(only)
    if len(results) != expected:
        raise LearnerLost(f"{expected - len(results)} of {expected} learners are gone.")
    return [result.get() for result in results]
