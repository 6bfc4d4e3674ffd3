"""The work of `toy_work.py` as a text environment of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepopsd_envs import HistoryTurn, TextEnv

from benchmarks.toy_work import ToyTask, system_prompt

SPLITS = {"train": 4096, "valid_seen": 8, "valid_unseen": 8}


class ToyEnv(TextEnv):
    """Five turns of made-up sentences; every action is valid."""

    thread_safe = True

    def __init__(self, *, skill_words: int = 0) -> None:
        """Sets the words of skills in the system's message."""
        super().__init__()
        self.system_prompt = system_prompt(skill_words)

    def tasks(self, split: str) -> tuple[str, ...]:
        """Tasks by number."""
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: no such split.")
        return tuple(f"{split}/{i:05d}" for i in range(SPLITS[split]))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Starts the task."""
        super().reset(seed=seed)
        self.task = self.task_for_reset(options)
        self.toy = ToyTask(int(self.task.partition("/")[2]))
        return self.toy.observe(), self._info("")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The next sentence, and the hash of the action."""
        text, reward, is_over = self.toy.step(action)
        return text, reward, is_over, False, self._info(action)

    def first_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """The observation."""
        return observation

    def append_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """The observation."""
        return observation

    def window_message(
        self, history: Sequence[HistoryTurn], observation: str, info: Mapping[str, Any]
    ) -> str:
        """The observation."""
        return observation

    def _info(self, action: str) -> dict[str, Any]:
        return {
            "task_id": self.task,
            "task_type": "toy",
            "won": False,
            "is_action_valid": True,
            "action": action,
        }
