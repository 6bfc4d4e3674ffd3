"""One recorded expert episode, as a policy or a teacher would have read and written it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from stepopsd_envs.text_env import TextEnv


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstratedTurn:
    """One response, whether it is to be learned, and the message that answered it.

    `told` stands right before the response, where a teacher reads what the policy is not told.
    """

    response: str
    is_learned: bool
    next_message: str
    told: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """One episode as the policy, or a teacher, would have read and written it.

    `privileged` stands in front of the chat, where a teacher reads what the policy is not told.
    """

    task_id: str
    system_prompt: str | None
    first_message: str
    turns: tuple[DemonstratedTurn, ...]
    won: bool
    privileged: str = ""

    def texts(self) -> Iterator[str]:
        """All messages and responses in order."""
        if self.privileged:
            yield self.privileged
        yield self.first_message
        for turn in self.turns:
            if turn.told:
                yield turn.told
            yield turn.response
            yield turn.next_message


def training_tasks(env: TextEnv, episodes: int, rng: random.Random) -> Iterator[str]:
    """Training tasks in random order, again and again."""
    tasks = list(env.tasks("train"))
    for index in range(episodes):
        if index % len(tasks) == 0:
            rng.shuffle(tasks)
        yield tasks[index % len(tasks)]
