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
