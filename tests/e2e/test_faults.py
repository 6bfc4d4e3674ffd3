"""A run survives faults of every kind: nothing is lost without a word, no weights are wrong."""

from __future__ import annotations

import pytest
import ray

from benchmarks.faults import Cost, run, start_ray

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def small_store():
    """A Ray whose object store a fault can fill."""
    start_ray()
    yield
    ray.shutdown()


def test_a_run_survives_fifty_faults_of_every_kind(small_store):
    costs: dict[str, Cost] = run(seed=1)
    assert sum(cost.injected for cost in costs.values()) >= 49, costs  # 50 with a control group
    for kind, cost in costs.items():
        assert cost.survived == cost.injected > 0, (kind, cost)
        assert cost.lost_unreported == cost.wrong_weights == cost.hangs == 0, (kind, cost)
        without_effect = kind.startswith(("clock", "object store"))
        assert cost.told == cost.injected or without_effect, (kind, cost)
