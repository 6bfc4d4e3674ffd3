"""The work of `toy_work.py` as a text environment of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepopsd_envs import EpisodeSkills, HistoryTurn, RecordedTurn, TextEnv

from benchmarks.toy_work import TURNS, ToyTask, sentence, system_prompt

SPLITS = {"train": 4096, "valid_seen": 8, "valid_unseen": 8}
SKILL_WORDS = 24  # of what an analyzer would write about an episode, and about a step


class ToyEnv(TextEnv):
    """Five turns of made-up sentences; every action is valid, and half of the episodes succeed."""

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
        return self.toy.observe(), self._info("", won=False)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The next sentence, and the hash of the action."""
        text, reward, is_over = self.toy.step(action)
        return text, reward, is_over, False, self._info(action, won=is_over and reward > 0.5)

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

    @classmethod
    def skill_categories(cls, task_type: str, first_observation: str) -> tuple[str, ...]:
        """None: general skills alone."""
        return ()

    @classmethod
    def skill_rules(
        cls, task: str, turns: Sequence[RecordedTurn], *, won: bool, max_step_skills: int
    ) -> EpisodeSkills:
        """A sentence for the episode, and one for each of its first steps."""
        steps = range(min(TURNS, max_step_skills))
        return EpisodeSkills(
            episode_summary="made up",
            episode_skill=sentence(f"{task}/{won}", SKILL_WORDS),
            step_skills={step: sentence(f"{task}/{step}", SKILL_WORDS) for step in steps},
        )

    def _info(self, action: str, *, won: bool) -> dict[str, Any]:
        return {
            "task_id": self.task,
            "task_type": "toy",
            "won": won,
            "is_action_valid": True,
            "action": action,
        }
