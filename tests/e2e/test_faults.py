"""A run survives faults of many kinds: nothing is lost without a word, no weights are wrong."""

from __future__ import annotations

import pytest

from benchmarks.faults import run

pytestmark = pytest.mark.e2e

KINDS = [
    "kill -9 of a runner while sampling",
    "kill -9 of a runner while loading weights",
    "SIGSTOP of a runner, longer than the timeout",
    "engine raises in step",
    "engine hangs in step",
    "NaN loss",
    "game exits",
    "game hangs",
    "game answers 10 mb",
    "reward is nan",
    "retriever breaks",
]


def test_a_run_survives_every_kind_of_fault(local_ray):
    for kind, cost in run(rounds=1, seed=1, kinds=KINDS).items():
        assert cost.survived == cost.injected == 1, kind
        assert cost.lost_unreported == 0, kind
        assert cost.wrong_weights == 0, kind
