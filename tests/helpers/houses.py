"""Generated houses with chosen faults: the environment is the seam at which tests may interfere."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
from stepopsd_envs.alfworld.env import ALFWorldEnv

FAULTY_ENV = "tests.helpers.houses:houses/FaultyALFWorld-v0"
BARE = {"size": "tiny", "think": "off", "instructions": False, "show_admissible_commands": False}
SLOW_SECONDS = 0.5


class FaultyHouse(ALFWorldEnv):
    """Misbehaves on the tasks in `faults`: "reset", "step", "tool", "slow", or "exit" once."""

    thread_safe = True  # the fast engine shares nothing but parsed games
    threads: ClassVar[set[str]] = set()

    def __init__(self, *, faults: Mapping[str, str] | None = None, marker: str = "", **kwargs: Any):
        """Keeps the fault of each task; `marker` is the file that "exit" leaves behind."""
        super().__init__(**kwargs)
        self.faults, self.marker = dict(faults or {}), marker

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Raises for a task whose fault is "reset"."""
        self.fault = self.faults.get((options or {}).get("task", ""), "")
        if self.fault == "reset":
            raise OSError("the game file is gone")
        return super().reset(seed=seed, options=options)

    def step(self, action: str):
        """Raises, waits, reports a tool error or ends the process."""
        self.threads.add(threading.current_thread().name)
        observation, reward, terminated, truncated, info = super().step(action)
        if self.fault == "step" and info["turn"] == 2:
            raise RuntimeError("the simulator died")
        if self.fault == "slow":
            time.sleep(SLOW_SECONDS)
        if self.fault == "exit" and not Path(self.marker).exists():
            Path(self.marker).touch()
            os._exit(1)
        if self.fault == "tool":
            return "", 0.0, False, True, info | {"tool_error": "the retriever did not answer"}
        return observation, reward, terminated, truncated, info


class OneThreadHouse(FaultyHouse):
    """The same, for one thread at a time."""

    thread_safe = False


class NoGoldenHouse(ALFWorldEnv):
    """A house whose expert is unknown."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Starts a task without its golden rollout."""
        observation, info = super().reset(seed=seed, options=options)
        info.pop("golden_rollout")
        return observation, info


for _name, _class in (
    ("FaultyALFWorld", FaultyHouse),
    ("OneThreadALFWorld", OneThreadHouse),
    ("NoGoldenALFWorld", NoGoldenHouse),
):
    if f"houses/{_name}-v0" not in gymnasium.registry:
        gymnasium.register(
            f"houses/{_name}-v0", _class, order_enforce=False, disable_env_checker=True
        )
