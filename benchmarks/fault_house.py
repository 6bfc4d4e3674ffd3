"""A game that misbehaves when it is ordered to: the seam at which faults enter a run."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from stepopsd_envs.alfworld.env import ALFWorldEnv

GAME_FAULTS = (
    "game raises",
    "game exits",
    "game hangs",
    "game answers 10 MB",
    "reward is NaN",
    "retriever breaks",
)
DIE_AT_START, EAT_MEMORY = "dies at start", "eats memory"
CAGE = Path("/sys/fs/cgroup/memory/stepopsd_faults")
"""Control group whose processes the kernel ends when they ask for more than `CAGE_BYTES`."""
CAGE_BYTES = 100 * 2**20
_HUGE = 10 * 2**20  # characters


def give_order(folder: Path, order: str, count: int = 1) -> None:
    """Lets the next game that reads it misbehave, `count` times."""
    for number in range(count):
        (folder / f"{order}.{number}").touch()


def withdraw(folder: Path) -> int:
    """Takes back the orders that no game has read, and says how many there were."""
    left = list(folder.iterdir())
    for file in left:
        file.unlink()
    return len(left)


def make_cage() -> bool:
    """Makes the control group; False where this process may not."""
    try:
        CAGE.mkdir(exist_ok=True)
        (CAGE / "memory.limit_in_bytes").write_text(str(CAGE_BYTES))
    except OSError:
        return False
    return True


class FaultyHouse(ALFWorldEnv):
    """A house that misbehaves once for every order that lies in a folder."""

    thread_safe = True

    def __init__(self, *, orders: str, **kwargs: Any):
        """Keeps the folder; an order to die at the start is obeyed at once."""
        super().__init__(**kwargs)
        self.orders = Path(orders)
        if self._next_order((DIE_AT_START,)):
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self, action: str) -> Any:
        """Plays a turn, or obeys an order."""
        observation, reward, terminated, truncated, info = super().step(action)
        match self._next_order((*GAME_FAULTS, EAT_MEMORY)):
            case "game raises":
                raise RuntimeError("the simulator died")
            case "game exits":
                raise SystemExit(1)
            case "game hangs":
                time.sleep(3600)
            case "game answers 10 MB":
                observation = "x" * _HUGE
            case "reward is NaN":
                reward = math.nan
            case "retriever breaks":
                return "", 0.0, False, True, info | {"tool_error": "refused: no retriever"}
            case "eats memory":
                (CAGE / "cgroup.procs").write_text(str(os.getpid()))
                _ = b"x" * (4 * CAGE_BYTES)
        return observation, reward, terminated, truncated, info

    def _next_order(self, obeyed: tuple[str, ...]) -> str:
        for file in self.orders.iterdir():
            order = file.name.rpartition(".")[0]
            if order in obeyed:
                try:
                    file.unlink()
                except FileNotFoundError:  # another game was faster
                    continue
                return order
        return ""
