"""How many groups an update needs, and how many it may take."""

from types import SimpleNamespace
from typing import Any

import pytest

from stepopsd_rllib.training.runner_calls import RolloutError
from stepopsd_rllib.training.usable_groups import enough_groups


def config(**keys: Any) -> Any:
    return SimpleNamespace(num_learners=0, groups_per_step=8, min_groups_fraction=0.5, **keys)


@pytest.mark.parametrize(("learners", "kept"), [(0, 7), (1, 7), (2, 6), (3, 6), (7, 7)])
def test_every_learner_gets_as_many_whole_groups(learners: int, kept: int):
    groups: Any = {number: [number] for number in range(7)}
    ours = config()
    ours.num_learners = learners
    assert list(enough_groups(groups, [], counts={}, config=ours)) == list(range(kept))


@pytest.mark.parametrize(("learners", "left"), [(0, 3), (5, 4)])
def test_too_few_groups_are_an_error_that_says_why(learners: int, left: int):
    ours = config()
    ours.num_learners = learners
    groups: Any = {number: [number] for number in range(left)}
    episode: Any = SimpleNamespace(status="environment_error", error="KeyError: lost")
    with pytest.raises(RolloutError, match=rf"{left} of 8 .*'groups_lost': 2.*KeyError: lost"):
        enough_groups(groups, [episode], counts={"groups_lost": 2}, config=ours)
