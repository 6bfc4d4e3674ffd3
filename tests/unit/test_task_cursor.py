"""The order of training tasks."""

from __future__ import annotations

import pytest

from stepopsd_rllib.training.task_cursor import TaskCursor

TASKS = tuple(f"task {i}" for i in range(7))


def test_a_pass_visits_every_task_once_and_the_next_one_in_another_order():
    cursor = TaskCursor(TASKS, seed=0)
    visited = cursor.next(5) + cursor.next(5) + cursor.next(4)
    assert sorted(visited[:7]) == sorted(visited[7:]) == list(TASKS)
    assert visited[:7] != visited[7:]
    assert TaskCursor(TASKS, seed=0).next(14) == visited
    assert TaskCursor(TASKS, seed=1).next(14) != visited


@pytest.mark.parametrize("before", [0, 3, 7, 9])
def test_a_restored_cursor_goes_on_where_it_stopped(before):
    cursor, restored = TaskCursor(TASKS, seed=2), TaskCursor(TASKS, seed=2)
    cursor.next(before)
    restored.set_state(cursor.get_state())
    assert restored.next(10) == cursor.next(10)


def test_a_state_of_another_task_list_is_refused():
    state = TaskCursor(TASKS, seed=0).get_state()
    with pytest.raises(ValueError, match="trained on 7 tasks, the environment now lists 6"):
        TaskCursor(TASKS[:-1], seed=0).set_state(state)


@pytest.mark.parametrize(
    ("tasks", "seed", "message"),
    [
        (tuple(f"other {i}" for i in range(7)), 0, "on other tasks than the 7"),
        (TASKS[::-1], 0, "on other tasks than the 7"),
        (TASKS, 5, "config.seed=5: the checkpoint was trained with seed 0"),
    ],
)
def test_a_state_of_other_tasks_or_another_seed_is_refused_in_one_line(tasks, seed, message):
    cursor = TaskCursor(TASKS, seed=0)
    cursor.next(4)
    with pytest.raises(ValueError, match=message) as raised:
        TaskCursor(tasks, seed=seed).set_state(cursor.get_state())
    assert "\n" not in str(raised.value)
