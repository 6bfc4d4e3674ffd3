"""What is played next: the training tasks in their order, a group each, every episode seeded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from stepopsd_rllib.training.runner_calls import RolloutError
from stepopsd_rllib.training.task_cursor import TaskCursor

logger = logging.getLogger(__name__)

_EVALUATION_GROUP = 1 << 40  # above the number of every training group


class EpisodeRequests:
    """Draws the tasks of groups; leaves out those that were given up.

    Args:
        tasks: Ids of the training tasks.
        seed: The run's seed: of the order of tasks and of every episode.
        group_size: Episodes of a training group.
    """

    def __init__(self, tasks: Sequence[str], *, seed: int, group_size: int):
        self.tasks = TaskCursor(tasks, seed=seed)
        self.num_groups = 0  # sampled since the run began
        self.num_skipped = 0  # draws of tasks that were given up
        self._given_up: set[str] = set()
        self._seed = seed
        self._group_size = group_size

    def for_training(self, num_groups: int) -> dict[int, list[EpisodeRequest]]:
        """Requests of the next groups, by the group's number in the run.

        Raises:
            RolloutError: Every task was given up.
        """
        requests = {}
        for task in self._next_tasks(num_groups):
            group = self.num_groups
            self.num_groups += 1
            requests[group] = [
                EpisodeRequest(task_id=task, group=group, rollout=i, seed=self._of(group, i))
                for i in range(self._group_size)
            ]
        return requests

    def for_evaluation(self, tasks: Sequence[str]) -> dict[int, list[EpisodeRequest]]:
        """One episode a task; the seeds depend on the run's seed and the task's place alone."""
        requests = {}
        for i, task in enumerate(tasks):
            group, seed = _EVALUATION_GROUP + i, self._of(i, 0, evaluation=True)
            requests[group] = [EpisodeRequest(task_id=task, group=group, rollout=0, seed=seed)]
        return requests

    def give_up(self, tasks: Iterable[str]) -> None:
        """Leaves tasks out from now on."""
        self._given_up |= set(tasks)

    def get_state(self) -> dict[str, Any]:
        """Place in the order of tasks, number of groups, tasks given up, draws of those."""
        return {
            "tasks": self.tasks.get_state(),
            "num_groups_sampled": self.num_groups,
            "given_up": sorted(self._given_up),
            "num_skipped": self.num_skipped,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where a run stopped.

        Raises:
            ValueError: The tasks or the seed are not those of the state.
        """
        self.tasks.set_state(state["tasks"])
        self.num_groups = state["num_groups_sampled"]
        self._given_up = set(state.get("given_up", ()))
        self.num_skipped = state.get("num_skipped", 0)

    def _next_tasks(self, count: int) -> list[str]:
        chosen: list[str] = []
        while len(chosen) < count:
            drawn = self.tasks.next(count - len(chosen))
            skipped = [task for task in drawn if task in self._given_up]
            if skipped:
                self.num_skipped += len(skipped)
                logger.warning("Skipped, since they ended their runner before: %s", skipped)
            if len(self._given_up) >= len(self.tasks):
                raise RolloutError(f"All {len(self.tasks)} tasks ended their runner twice.")
            chosen += [task for task in drawn if task not in self._given_up]
        return chosen

    def _of(self, group: int, rollout: int, *, evaluation: bool = False) -> int:
        """A seed of 32 bits that depends on the run's seed, the group and the rollout alone."""
        entropy = [self._seed, int(evaluation), group, rollout]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def evenly_spaced(tasks: Sequence[str], count: int | None) -> tuple[str, ...]:
    """At most `count` tasks, evenly spaced over a sorted list, so that no task type is left out."""
    if count is None or count >= len(tasks):
        return tuple(tasks)
    return tuple(tasks[i * len(tasks) // count] for i in range(count))
