"""Which tasks, groups and seeds are asked for, and what a restored run goes on with."""

import pytest

from stepopsd_rllib.training.episode_requests import EpisodeRequests
from stepopsd_rllib.training.runner_calls import RolloutError

TASKS = [f"t{i}" for i in range(5)]


def requests(seed: int = 0) -> EpisodeRequests:
    return EpisodeRequests(TASKS, seed=seed, group_size=3)


def test_a_group_is_one_task_with_other_seeds():
    groups = requests().for_training(4)
    assert list(groups) == [0, 1, 2, 3]
    assert all(len({e.task_id for e in group}) == 1 for group in groups.values())
    assert len({e.seed for group in groups.values() for e in group}) == 12


def test_evaluation_neither_moves_the_order_of_tasks_nor_repeats_a_seed_of_training():
    ours, other = requests(), requests()
    evaluation = [e for group in ours.for_evaluation(TASKS).values() for e in group]
    assert [e.task_id for e in evaluation] == TASKS
    training = ours.for_training(5)
    assert training == other.for_training(5)
    assert not {e.seed for e in evaluation} & {e.seed for group in training.values() for e in group}


def test_a_task_that_was_given_up_is_never_drawn_again_also_after_a_restore():
    ours = requests()
    ours.give_up(["t3"])
    restored = requests()
    drawn = [group[0].task_id for group in ours.for_training(10).values()]
    restored.set_state(ours.get_state())
    assert "t3" not in drawn and ours.num_skipped >= 2
    assert restored.num_skipped == ours.num_skipped
    assert restored.for_training(10) == ours.for_training(10)


def test_all_tasks_given_up_is_an_error():
    ours = requests()
    ours.give_up(TASKS)
    with pytest.raises(RolloutError, match="All 5 tasks ended their runner twice"):
        ours.for_training(1)
