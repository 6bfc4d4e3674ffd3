"""A three-turn environment with a chosen fault on one task: whatever people's environments do."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from stepopsd_envs.text_env import HistoryTurn, TextEnv

ODD_ENV = "tests.helpers.odd_env:odd/Odd-v0"
BAD = "zbad"
HALF_A_PAIR = "half a pair: \ud83d"


class OddEnv(TextEnv):
    """Seven sound tasks and `zbad`, which has the fault of the constructor.

    A fault is a place and a deed, such as "step:raise" or "first_message:hang".
    """

    thread_safe = True

    def __init__(self, *, fault: str = "", marker: str = ""):
        """Keeps the fault; "die" happens once where `marker` names a file, else always."""
        super().__init__()
        self.place, _, self.deed = fault.partition(":")
        self.marker = marker
        self.task, self.turn = "", 0

    def tasks(self, split: str) -> tuple[str, ...]:
        """Eight training tasks, one of any other split."""
        sound = tuple(f"good{i}" for i in range(7))
        return (*sound, BAD) if split == "train" else (f"{split}0",)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Starts a task."""
        super().reset(seed=seed)
        self.task, self.turn = self.task_for_reset(options), 0
        observation = self._odd("reset", "You see a desk 1.")
        return observation, self._info("")

    def step(self, action: str):
        """Plays a turn; the third wins."""
        self.turn += 1
        is_last = self.turn == 3
        observation = self._odd("step", "Nothing happens.")
        reward: Any = self._odd("reward", float(is_last))
        return observation, reward, is_last, False, self._info(action, is_last)

    def first_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """The observation."""
        return self._odd("first_message", observation)

    def append_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """The observation."""
        return self._odd("append_message", observation)

    def window_message(
        self, history: Sequence[HistoryTurn], observation: str, info: Mapping[str, Any]
    ) -> str:
        """The observation."""
        return self._odd("window_message", observation)

    def _info(self, action: str, won: bool = False) -> Any:
        info = {"task_id": self.task, "task_type": "t", "won": won, "is_action_valid": True}
        info |= {"action": action, "anchor": "desk"}
        if self._is_odd("info") and self.turn:
            if self.deed.startswith("without_"):
                del info[self.deed.removeprefix("without_")]
            else:
                info["action"] = self._odd("info", "")
        return info

    def _is_odd(self, place: str) -> bool:
        return self.task == BAD and self.place == place and self.turn < 2

    def _odd(self, place: str, sound: Any) -> Any:
        if not self._is_odd(place):
            return sound
        match self.deed:
            case "raise":
                raise KeyError("lost")
            case "raise_half_a_pair":
                raise OSError(HALF_A_PAIR)
            case "exit":
                raise SystemExit(1)
            case "interrupt":
                raise KeyboardInterrupt
            case "hang":
                time.sleep(10**6)
            case "die" if not self.marker or not os.path.exists(self.marker):
                if self.marker:
                    open(self.marker, "w").close()
                os._exit(1)
            case "half_a_pair":
                return HALF_A_PAIR
            case "none":
                return None
            case "huge":
                return "x" * 10 * 2**20
            case "nan" | "inf" | "1e300":
                return float(self.deed)
        return sound


if "odd/Odd-v0" not in gymnasium.registry:
    gymnasium.register("odd/Odd-v0", OddEnv, order_enforce=False, disable_env_checker=True)
