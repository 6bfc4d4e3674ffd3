"""The order of the training tasks: seeded, without repetition inside a pass, resumable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class TaskCursor:
    """Walks a list of tasks in a new seeded order at every pass.

    Args:
        tasks: Task ids.
        seed: Seeds the order of every pass.
    """

    def __init__(self, tasks: Sequence[str], *, seed: int):
        """Starts at the first task of the first pass."""
        self._tasks = tuple(tasks)
        self._seed = seed
        self.visited = 0
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def next(self, count: int) -> list[str]:
        """The next `count` tasks; a new pass begins where one ends."""
        chosen = []
        for _ in range(count):
            epoch, position = divmod(self.visited, len(self._tasks))
            if self._order[0] != epoch:
                self._order = (
                    epoch,
                    np.random.default_rng([self._seed, epoch]).permutation(len(self._tasks)),
                )
            chosen.append(self._tasks[self._order[1][position]])
            self.visited += 1
        return chosen

    def get_state(self) -> dict[str, int]:
        """Number of tasks visited so far, and of how many."""
        return {"visited": self.visited, "num_tasks": len(self._tasks)}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues where a run stopped.

        Raises:
            ValueError: The task list has another length than when the state was saved.
        """
        if state["num_tasks"] != len(self._tasks):
            raise ValueError(
                f"The checkpoint was trained on {state['num_tasks']} tasks, the environment now "
                f"lists {len(self._tasks)}. Restore with the environment data and env_config of "
                "the run."
            )
        self.visited = state["visited"]
