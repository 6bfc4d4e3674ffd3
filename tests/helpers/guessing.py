"""A small text environment that says nothing of itself but what it must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepopsd_envs import HistoryTurn, TextEnv


class GuessEnv(TextEnv):
    """Say the last letter of the task within three turns."""

    def __init__(self, *, turns: int = 3) -> None:
        """Sets the number of turns."""
        super().__init__()
        self.turns = turns

    def tasks(self, split: str) -> tuple[str, ...]:
        """Two tasks a split."""
        if split not in ("train", "valid_seen", "valid_unseen"):
            raise ValueError(f"split={split!r}: no such split.")
        return (f"{split}/a", f"{split}/b")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Asks for the letter."""
        super().reset(seed=seed)
        self.task = self.task_for_reset(options)
        if "/" not in self.task:
            raise ValueError(f"task={self.task!r}: no such task.")
        self.turn = 0
        return "Guess!", self._info("", won=False)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Compares the whole response."""
        self.turn += 1
        won = action == self.task[-1]
        is_late = not won and self.turn == self.turns
        return "Right." if won else "Wrong.", float(won), won, is_late, self._info(action, won=won)

    def first_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """The observation."""
        return observation

    def append_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """The observation."""
        return observation

    def window_message(
        self, history: Sequence[HistoryTurn], observation: str, info: Mapping[str, Any]
    ) -> str:
        """What was guessed, and the observation."""
        return f"{[turn.action for turn in history]} {observation}"

    def _info(self, action: str, *, won: bool) -> dict[str, Any]:
        return {
            "task_id": self.task,
            "task_type": "guess",
            "won": won,
            "is_action_valid": True,
            "action": action,
        }
