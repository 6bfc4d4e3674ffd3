"""Expert episodes of training tasks, from which the embedded models are cloned.

Each environment has one function here; it plays with an expert that sees what the policy sees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.alfworld.env import ALFWorldEnv
from envs.alfworld.expert import ExploringExpert, response_text
from envs.text_env import TextEnv


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstrationSettings:
    """Which episodes are shown to a model; every field moves the result.

    Attributes:
        episodes: Number of episodes; the training tasks are gone through in random order, again
            and again, each time with other expert choices.
        max_turns: Turn limit of the demonstrations; wider than the limit the model is measured
            with, so that long episodes are demonstrated too.
        noise: Probability, each turn, of a random command in place of the expert's. It is not
            imitated: the model sees what comes of it and how the expert goes on.
        repeats: Probability, each turn, of the last command once more, which mostly does nothing.
            It is not imitated either; it teaches the way out of a loop.
        dithering: Probability, each turn, that the expert wastes it: looks around, looks at what
            it carries, examines something. This *is* imitated. It makes an able model slow, and so
            gives reinforcement learning under a turn limit something to unlearn.
    """

    episodes: int
    max_turns: int = 50
    noise: float = 0.0
    repeats: float = 0.0
    dithering: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstratedTurn:
    """One response, whether it is to be learned, and the message that answered it."""

    response: str
    is_learned: bool
    next_message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """One episode as the policy would have read and written it."""

    task_id: str
    system_prompt: str | None
    first_message: str
    turns: tuple[DemonstratedTurn, ...]
    won: bool

    def texts(self) -> Iterator[str]:
        """All messages and responses in order."""
        yield self.first_message
        for turn in self.turns:
            yield turn.response
            yield turn.next_message


def alfworld_demonstrations(
    env_config: Mapping[str, Any], settings: DemonstrationSettings, *, seed: int
) -> list[Demonstration]:
    """Plays ALFWorld training tasks with the exploring expert.

    Episodes that the expert does not win within the turn limit are left out of the result.

    Args:
        env_config: Arguments of the environment.
        settings: How many episodes, and how noisy.
        seed: Of the order of tasks, the expert's choices and the noise.
    """
    env = ALFWorldEnv(**{**env_config, "max_turns": settings.max_turns})
    rng = random.Random(seed)
    played = (_play_alfworld(env, task, settings, rng) for task in _tasks(env, settings, rng))
    return [demonstration for demonstration in played if demonstration.won]


def _tasks(env: TextEnv, settings: DemonstrationSettings, rng: random.Random) -> Iterator[str]:
    tasks = list(env.tasks("train"))
    for index in range(settings.episodes):
        if index % len(tasks) == 0:
            rng.shuffle(tasks)
        yield tasks[index % len(tasks)]


def _play_alfworld(
    env: ALFWorldEnv, task: str, settings: DemonstrationSettings, rng: random.Random
) -> Demonstration:
    expert = ExploringExpert(seed=rng.getrandbits(32))
    observation, info = env.reset(options={"task": task})
    first_message = env.first_message(observation, info)
    turns: list[DemonstratedTurn] = []
    is_over = False
    while not is_over:
        command = expert.act(observation, info["admissible_commands"])
        is_learned = True
        draw = rng.random()
        if draw < settings.dithering:
            command = rng.choice(_idle_commands(info["admissible_commands"]))
        elif draw < settings.dithering + settings.noise:
            command = rng.choice([name for name in info["admissible_commands"] if name != "help"])
            is_learned = False
        elif draw < settings.dithering + settings.noise + settings.repeats and info["action"]:
            command = info["action"]
            is_learned = False
        response = response_text(command)
        observation, _, terminated, truncated, info = env.step(response)
        is_over = terminated or truncated
        turns.append(
            DemonstratedTurn(
                response=response,
                is_learned=is_learned,
                next_message=env.append_message(observation, info),
            )
        )
    return Demonstration(
        task_id=task,
        system_prompt=env.system_prompt,
        first_message=first_message,
        turns=tuple(turns),
        won=info["won"],
    )


def _idle_commands(admissible_commands: Sequence[str]) -> list[str]:
    """Commands that change nothing in the game."""
    return [
        command
        for command in admissible_commands
        if command in ("look", "inventory") or command.startswith("examine ")
    ]


DemonstrationFunction = Callable[..., list[Demonstration]]

DEMONSTRATIONS: dict[str, DemonstrationFunction] = {"alfworld": alfworld_demonstrations}
"""The function of each environment for which a recipe exists."""
