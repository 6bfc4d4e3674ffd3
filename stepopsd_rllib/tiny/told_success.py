"""Whether the ALFWorld model reads: how it plays when it is told what teachers are told.

Each way of telling is measured with texts of the very task, of another task, and of no task at all
(`teacher_text: own | shuffled | foreign`). A model that reads plays better with the first alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from stepopsd_envs.alfworld.expert import ExploringExpert, response_text
from stepopsd_envs.text_env import TextEnv
from transformers import PreTrainedModel

from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.teachers.feedback import feedback_text
from stepopsd_rllib.teachers.text_control import TextControl
from stepopsd_rllib.tiny.batched_play import play
from stepopsd_rllib.tiny.told_alfworld import (
    PER_TURN,
    SKILL_WAYS,
    TURN_LIMIT,
    WAYS,
    AlfworldTexts,
    Told,
    Way,
    advice,
    at_the_end,
    with_header,
)

Condition = Literal["own", "shuffled", "foreign"]
CONDITIONS: tuple[Condition, ...] = ("own", "shuffled", "foreign")

_EPISODES_AT_ONCE = 288
_MAX_RESPONSE_TOKENS = 32


class AlfworldTeacher:
    """Tells one episode something, in one way; a `batched_play.Teacher`."""

    def __init__(self, told: Told, task: str, make_env: Callable[[], TextEnv], seed: int):
        """Keeps what is told.

        Args:
            told: The text, or the texts of turns; `is_own` ones of turns are made while it plays.
            task: The episode's.
            make_env: Makes an environment in which answers to commands are looked up.
            seed: Seed of the advice.
        """
        self.privileged = told.privileged
        self._told = told
        self._task = task
        self._twin = make_env() if told.way == "feedback" and told.is_own else None
        self._rng = random.Random(seed)
        self._expert = ExploringExpert(seed=seed)
        self._actions: list[str] = []

    def first_message(self, message: str) -> str:
        """What stands in the first message."""
        return self._told.in_first_message(message)

    def turn(self, message: str, observation: str, info: Mapping[str, Any]) -> tuple[str, str]:
        """What stands in the turn's message, or right before the response."""
        told = self._told
        if told.way == "peer_in_turn":
            return message, told.text
        if told.way not in PER_TURN:
            return message, ""
        if not told.is_own:
            text = self._rng.choice(told.turn_texts) if told.turn_texts else ""
            return at_the_end(told.way, message, text), ""
        if info["turn"] > 0:
            self._actions.append(info["action"])
        command = self._expert.act(observation, info["admissible_commands"])
        text = advice(command) if self._twin is None else feedback_text(self._answer(command))
        return at_the_end(told.way, message, text), ""

    def _answer(self, command: str) -> str:
        """What the environment would answer now."""
        assert self._twin is not None
        observation, _ = self._twin.reset(options={"task": self._task})
        for action in [*self._actions, command]:
            observation, *_ = self._twin.step(response_text(action))
        return observation


def measure_told(
    model: PreTrainedModel,
    chat: ChatFormat,
    make_env: Callable[[], TextEnv],
    *,
    split: str,
    samples: int,
    skills: str,
    ways: Sequence[Way] = WAYS,
    report: Callable[[str], None] = print,
) -> dict[str, dict[str, float]]:
    """Success at temperature 1 for each way of telling and each condition.

    The texts are made from games of an expert that dithers, one text a task.

    Args:
        model: The model.
        chat: Format of its tokenizer.
        make_env: Makes the environment that it is at home in.
        split: The tasks.
        samples: Episodes of each task.
        skills: Name of the packaged library.
        ways: Which ways.
        report: Takes a line of progress.

    Returns:
        Way -> condition -> share of episodes won.
    """
    envs = [make_env() for _ in range(_EPISODES_AT_ONCE)]
    tasks = envs[0].tasks(split)
    texts = AlfworldTexts(make_env(), random.Random(0), skills=skills, dithering=0.4)
    measured: dict[str, dict[str, float]] = {}
    for way in ways:
        own = [texts.told(way, task) for task in tasks]
        measured[way] = {}
        for condition in CONDITIONS:
            told = _controlled(own, tasks, condition, chat, texts)
            played = play(
                model,
                chat,
                envs,
                [task for task in tasks for _ in range(samples)],
                temperature=1.0,
                max_response_tokens=_MAX_RESPONSE_TOKENS,
                seed=0,
                teachers=[
                    AlfworldTeacher(each, task, make_env, seed)
                    for each, task in zip(told, tasks, strict=True)
                    for seed in range(samples)
                ],
            )
            rate = sum(episode.won for episode in played) / len(played)
            measured[way][condition] = round(rate, 4)
        report(f"told {way}: {measured[way]}")
    return measured


def _controlled(
    own: Sequence[Told],
    tasks: Sequence[str],
    condition: Condition,
    chat: ChatFormat,
    texts: AlfworldTexts,
) -> list[Told]:
    """What is told in the place of the own texts; turns that lack a text are told nothing."""
    if condition == "own":
        return list(own)
    control = TextControl(
        kind=condition, encode=lambda text: chat.tokenizer(text, add_special_tokens=False).input_ids
    )
    way = cast(Way, next(told.way for told in own if told.way))
    if way in PER_TURN:
        count = TURN_LIMIT
        flat = [
            told.turn_texts[k % len(told.turn_texts)] if told.turn_texts else ""
            for told in own
            for k in range(count)
        ]
        replaced = control.replaced(flat, [task for task in tasks for _ in range(count)], seed=0)
        return [
            replace(told, is_own=False, turn_texts=tuple(replaced[i * count : (i + 1) * count]))
            for i, told in enumerate(own)
        ]
    if way in SKILL_WAYS and condition == "foreign":
        bare = control.replaced([texts.skills(task) for task in tasks], tasks, seed=0)
        return [
            replace(told, is_own=False, text=with_header(way, text))
            for told, text in zip(own, bare, strict=True)
        ]
    replaced = control.replaced([told.text for told in own], tasks, seed=0)
    return [
        replace(told, is_own=False, text=text) for told, text in zip(own, replaced, strict=True)
    ]
