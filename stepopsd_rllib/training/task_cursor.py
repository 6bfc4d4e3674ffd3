"""The order of the training tasks: seeded, without repetition inside a pass, resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class TaskCursor:
    """Walks a list of tasks in a new seeded order at every pass.

    Args:
        tasks: Task ids.
        seed: Seeds the order of every pass.
    """

    def __init__(self, tasks: Sequence[str], *, seed: int):
        self._tasks = tuple(tasks)
        self._seed = seed
        self.visited = 0
        self._fingerprint = _fingerprint(self._tasks)
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

    def __len__(self) -> int:
        """Number of tasks of a pass."""
        return len(self._tasks)

    def get_state(self) -> dict[str, Any]:
        """Number of tasks visited so far, and what was walked: which tasks, in which order."""
        return {
            "visited": self.visited,
            "num_tasks": len(self._tasks),
            "fingerprint": self._fingerprint,
            "seed": self._seed,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where a run stopped.

        Raises:
            ValueError: The tasks or the seed are not those of the state: tasks would come twice,
                others never.
        """
        if state["num_tasks"] != len(self._tasks):
            raise ValueError(
                f"The checkpoint was trained on {state['num_tasks']} tasks, the environment now "
                f"lists {len(self._tasks)}. Restore with the environment data and env_config of "
                "the run."
            )
        if state.get("fingerprint", self._fingerprint) != self._fingerprint:
            raise ValueError(
                f"The checkpoint was trained on other tasks than the {len(self._tasks)} that the "
                f"environment now lists (from {self._tasks[0]!r} to {self._tasks[-1]!r}). Restore "
                "with the environment data and env_config of the run."
            )
        if state.get("seed", self._seed) != self._seed:
            raise ValueError(
                f"config.seed={self._seed}: the checkpoint was trained with seed {state['seed']}, "
                "and its pass over the tasks would go on in another order. Restore with "
                f"config.debugging(seed={state['seed']})."
            )
        self.visited = state["visited"]


def _fingerprint(tasks: Sequence[str]) -> str:
    """A hash of task ids and their order; the same in every process."""
    digest = hashlib.sha256()
    for task in tasks:
        name = task.encode("utf-8", "surrogatepass")
        digest.update(len(name).to_bytes(8, "big") + name)
    return digest.hexdigest()
