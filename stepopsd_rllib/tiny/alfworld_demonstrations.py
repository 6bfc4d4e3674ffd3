"""ALFWorld's demonstrations: an exploring expert that dithers, unless it is told how to play."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.alfworld.expert import ExploringExpert, response_text

from stepopsd_rllib.teachers.feedback import feedback_text
from stepopsd_rllib.tiny.demonstration import DemonstratedTurn, Demonstration, training_tasks
from stepopsd_rllib.tiny.told_alfworld import (
    NOTHING,
    PER_TURN,
    SKILL_WAYS,
    TURN_LIMIT,
    WAYS,
    AlfworldTexts,
    Told,
    Way,
    advice,
    at_the_end,
    idle_commands,
    warning,
)


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
        informed: Share of the episodes that are told something, in the forms of `told_alfworld`.
        mistold: Share of those that are told of another task, or of none, and are played as if
            nothing were told; the others dither less, and that is not imitated.
        skills: Name of the packaged library that skills come from.
        way_weights: Way of telling -> how often it is drawn, where the others count 1.
    """

    episodes: int
    max_turns: int = 50
    noise: float = 0.0
    repeats: float = 0.0
    dithering: float = 0.0
    informed: float = 0.0
    mistold: float = 0.0
    skills: str = "alfworld_brief"
    way_weights: Mapping[Way, float] = field(default_factory=dict)


_FOREIGN_SHARE = 0.25  # of mistold texts
_HINTED_SHARE = 0.5  # of the turns of an episode that is told something turn by turn
_WARNING_SHARE = 0.2  # of step skills
_LATEST_TOLD_TURN = 12  # for what stands before a response, the first time
_RETOLD_SHARE = 0.3  # of the turns after it, up to so many tellings
_MOST_TELLINGS = 5
_WASTED = 1.5  # largest share of the dithering that a told episode has, before it is cut to 1
_WARNINGS = ("was refused", "brought nothing new")


def alfworld_demonstrations(
    env_config: Mapping[str, Any], settings: DemonstrationSettings, *, seed: int
) -> list[Demonstration]:
    """Plays ALFWorld training tasks with the exploring expert.

    Episodes that the expert does not win within the turn limit are left out of the result.

    Args:
        env_config: Arguments of the environment.
        settings: How many episodes, how noisy, and how many of them are told something.
        seed: Seed of the order of tasks, the expert's choices, the noise and the texts.
    """
    env = ALFWorldEnv(**{**env_config, "max_turns": settings.max_turns})
    rng = random.Random(seed)
    texts = AlfworldTexts(
        ALFWorldEnv(**{**env_config, "max_turns": TURN_LIMIT}),
        rng,
        skills=settings.skills,
        dithering=settings.dithering,
    )
    tasks = env.tasks("train")
    played = []
    for task in training_tasks(env, settings.episodes, rng):
        told = NOTHING
        if settings.informed and rng.random() < settings.informed:
            told = _told(texts, task, rng.choice(tasks), settings, rng)
        played.append(_play(env, task, told, settings, rng))
    return [demonstration for demonstration in played if demonstration.won]


def _told(
    texts: AlfworldTexts,
    task: str,
    other: str,
    settings: DemonstrationSettings,
    rng: random.Random,
) -> Told:
    """What an episode is told: of its own task, or of another."""
    (way,) = rng.choices(WAYS, [settings.way_weights.get(way, 1.0) for way in WAYS])
    is_own = rng.random() >= settings.mistold
    if is_own and way in PER_TURN:
        return Told(way=way, is_own=True)
    told = texts.told(way, task if is_own else other)
    if is_own:
        return told
    if way in SKILL_WAYS and told.text == texts.told(way, task).text:
        return NOTHING  # the other task has the same skills
    if rng.random() < _FOREIGN_SHARE:
        told = texts.foreign(told)
    return replace(told, is_own=False, places={})


def _play(
    env: ALFWorldEnv,
    task: str,
    told: Told,
    settings: DemonstrationSettings,
    rng: random.Random,
) -> Demonstration:
    expert = ExploringExpert(seed=rng.getrandbits(32))
    observation, info = env.reset(options={"task": task})
    first_turn = rng.randint(0, _LATEST_TOLD_TURN) if told.way == "peer_in_turn" else 0
    told_turns: list[int] = []
    wasted_share = min(1.0, _WASTED * rng.random()) if told.is_own else 0.0
    messages = [told.in_first_message(env.first_message(observation, info))]
    responses: list[tuple[str, bool]] = []
    is_over = False
    while not is_over:
        turn, admissible = len(responses), info["admissible_commands"]
        if told.way == "peer_in_turn" and _is_told_now(turn, first_turn, told_turns, rng):
            told_turns.append(turn)
        hint = told.way if told.way in PER_TURN and rng.random() < _HINTED_SHARE else None
        is_informed = told.is_own and (
            hint == "step_skill" if told.way in PER_TURN else turn >= first_turn
        )
        if is_informed:
            expert.learn(told.places)
        command, is_learned = expert.act(observation, admissible), True
        dithering = settings.dithering * (wasted_share if is_informed else 1.0)
        draw = rng.random()
        if draw < dithering:
            # Not imitated where it is told: or a model would read off its own past turns whether to
            # waste the next one, and not off the text.
            command, is_learned = rng.choice(idle_commands(admissible)), not is_informed
        elif draw < dithering + settings.noise and hint is None:
            command = rng.choice([name for name in admissible if name != "help"])
            is_learned = False
        elif draw < dithering + settings.noise + settings.repeats and hint is None:
            command, is_learned = info["action"] or command, not info["action"]
        observation, _, terminated, truncated, info = env.step(response_text(command))
        is_over = terminated or truncated
        if hint:
            text = _turn_text(told, command, observation, admissible, rng)
            messages[-1] = at_the_end(told.way, messages[-1], text)
        messages.append(env.append_message(observation, info))
        responses.append((response_text(command), is_learned))
    return Demonstration(
        task_id=task,
        system_prompt=env.system_prompt,
        first_message=messages[0],
        turns=tuple(
            DemonstratedTurn(
                response=response,
                is_learned=is_learned,
                next_message=messages[index + 1],
                told=told.text if index in told_turns else "",
            )
            for index, (response, is_learned) in enumerate(responses)
        ),
        won=info["won"],
        privileged=told.privileged,
    )


def _is_told_now(turn: int, first_turn: int, told_turns: Sequence[int], rng: random.Random) -> bool:
    """Whether what stands before a response stands there in this turn.

    A method tells it before each response, each time in a prompt of its own; a row is one prompt,
    so it tells it before some.
    """
    if turn <= first_turn:
        return turn == first_turn
    return len(told_turns) < _MOST_TELLINGS and rng.random() < _RETOLD_SHARE


def _turn_text(
    told: Told, command: str, answer: str, admissible: Sequence[str], rng: random.Random
) -> str:
    """What is told at the end of a turn's message."""
    if not told.is_own:
        return rng.choice(told.turn_texts) if told.turn_texts else ""
    if told.way == "feedback":
        return feedback_text(answer)
    if rng.random() < _WARNING_SHARE:
        others = [name for name in admissible if name not in (command, "help")]
        return warning(rng.choice(others), rng.choice(_WARNINGS))
    return advice(command)
