"""What teachers of ALFWorld are told, made from played games, and where it stands in a prompt.

The forms are those of the methods themselves: each text goes through the function that tells it in
training. A demonstration is told something about its own task, or about another one; only the
former is a reason to play better (the controls of arXiv:2609.20612 and arXiv:2608.09228).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.alfworld.expert import ExploringExpert, first_places, response_text
from stepopsd_envs.search_qa.env import SearchQAEnv
from stepopsd_envs.skill_rules import EpisodeSkills
from stepopsd_envs.text_env import TextEnv
from stepopsd_envs.webshop.env import WebShopEnv

from stepopsd_rllib.connectors.group_guidance import guidance_text
from stepopsd_rllib.teachers.contexts import hindsight_text, render_episode
from stepopsd_rllib.teachers.feedback import CLOSING, feedback_text, with_told_text
from stepopsd_rllib.teachers.skill_insertion import insert_skills
from stepopsd_rllib.teachers.skill_retrieval import privileged_preamble, student_preamble
from stepopsd_rllib.teachers.skills import environment_library

Way = Literal[
    "skills",
    "own_skills",
    "peer",
    "peer_in_turn",
    "episode_skill",
    "guidance",
    "step_skill",
    "feedback",
]
WAYS: tuple[Way, ...] = get_args(Way)
"""`skills`: in front of the whole prompt (SDAR, RLSD ...); `own_skills`: in the first message
(Skill-GRPO, UCOB); `peer`: a sibling's episode in front (StepOPSD with `hindsight_position:
prefix`); `peer_in_turn`: right before a response (StepOPSD as in the paper); `episode_skill`: after
the task's line (OPID, SEED); `guidance`: in front (GRSD); `step_skill`, `feedback`: at the end of a
turn's message (OPID; SERL)."""

SKILL_WAYS: tuple[Way, ...] = ("skills", "own_skills")
PER_TURN: tuple[Way, ...] = ("step_skill", "feedback")
TURN_LIMIT = 20
"""Of the episodes that texts are made from: the limit under which a policy plays."""

_TRIES = 4
_GOLDEN_SHARE = 0.15  # of peers' texts
_OUTCOME_SHARE = 0.25
_FAILURE_SHARE = 0.25  # of episode skills
_LOSING_DITHERING = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A text and where it stands.

    Attributes:
        way: One of `WAYS`; None where nothing is told.
        is_own: Whether it is about the very task.
        text: As the method tells it; an episode's skill before it is put into the prompt; "" for
            the ways of `PER_TURN`.
        turn_texts: Of the ways of `PER_TURN`: those of turns of the episode they were made from.
        places: Object -> receptacle, as the text shows it.
    """

    way: Way | None = None
    is_own: bool = False
    text: str = ""
    turn_texts: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def privileged(self) -> str:
        """What stands in front of the whole prompt."""
        return self.text if self.way in ("skills", "peer", "guidance") else ""

    def in_first_message(self, message: str) -> str:
        """The first message with what stands in it."""
        if self.way == "own_skills":
            return self.text + message
        if self.way == "episode_skill" and self.text:
            return _inserted(message, episode_skill=self.text)
        return message


NOTHING = Told()


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedTurn:
    """A turn as rules read it."""

    observation: str
    response: str
    action: str
    is_action_valid: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedGame:
    """An episode of a middling player."""

    turns: tuple[PlayedTurn, ...]
    final_observation: str
    won: bool
    golden: str

    def observations(self) -> list[str]:
        """All of them, in order."""
        return [*(turn.observation for turn in self.turns), self.final_observation]

    def skills(self) -> EpisodeSkills | None:
        """What rules read off it."""
        return ALFWorldEnv.skill_rules(
            self.turns[0].observation, self.turns, won=self.won, max_step_skills=5
        )


class AlfworldTexts:
    """Makes texts about tasks by playing them with an expert that dithers, as a policy would."""

    def __init__(self, env: TextEnv, rng: random.Random, *, skills: str, dithering: float):
        """Keeps the settings.

        Args:
            env: Plays the games; no other game may be under way in it.
            rng: Source of all draws.
            skills: Name of the packaged library.
            dithering: Largest probability, each turn, that the player wastes it.
        """
        self._env = env
        self._rng = rng
        self._dithering = dithering
        self._library = environment_library(ALFWorldEnv, skills)
        self._foreign = [
            word
            for other, name in ((SearchQAEnv, "search_qa"), (WebShopEnv, "webshop"))
            for word in environment_library(other, name).full_text().split()
        ]

    def told(self, way: Way, task: str) -> Told:
        """What `way` tells about a task; `NOTHING` where the tries brought no episode to tell."""
        if way in SKILL_WAYS:
            return Told(way=way, is_own=True, text=with_header(way, self.skills(task)))
        won = way != "episode_skill" or self._rng.random() >= _FAILURE_SHARE
        game = self.game(task, won=won)
        if game is None:
            return NOTHING
        if way in PER_TURN:
            return Told(way=way, is_own=True, turn_texts=_turn_texts(way, game))
        places = first_places(game.observations()) if won else {}
        return Told(way=way, is_own=True, text=self._text(way, task, game), places=places)

    def skills(self, task: str) -> str:
        """The skills of a task's type."""
        return self._library.text(ALFWorldEnv.skill_categories(task.split("/")[3], ""))

    def foreign(self, told: Told) -> Told:
        """The same with words of other environments, as many as there were."""
        if told.way in SKILL_WAYS:
            text = with_header(told.way, self._words(told.text))
        else:
            text = self._words(told.text)
        turn_texts = [self._words(text) for text in told.turn_texts]
        if told.way == "feedback":
            turn_texts = [f"{text}\n\n{CLOSING}" for text in turn_texts]
        return replace(told, text=text, turn_texts=tuple(turn_texts), places={})

    def _words(self, text: str) -> str:
        size = len(text.split())
        start = self._rng.randrange(len(self._foreign) - size)
        return " ".join(self._foreign[start : start + size])

    def game(self, task: str, *, won: bool) -> PlayedGame | None:
        """An episode that ended so, None where some tries brought none."""
        for _ in range(_TRIES):
            game = self._play(task, self._dithering if won else _LOSING_DITHERING)
            if game.won == won:
                return game
        return None

    def _text(self, way: Way, task: str, game: PlayedGame) -> str:
        if way == "guidance":
            failure = self.game(task, won=False)
            return guidance_text(game.skills(), failure.skills() if failure else None)
        if way == "episode_skill":
            skills = game.skills()
            return skills.episode_skill if skills else ""
        is_correct = self._rng.random() < 0.5 if self._rng.random() < _OUTCOME_SHARE else None
        if self._rng.random() < _GOLDEN_SHARE:
            return hindsight_text(is_correct=is_correct, golden=game.golden)
        peer = render_episode([(turn.observation, turn.action) for turn in game.turns])
        return hindsight_text(is_correct=is_correct, peer=peer)

    def _play(self, task: str, dithering: float) -> PlayedGame:
        rng, env = self._rng, self._env
        dithering *= rng.random()
        expert = ExploringExpert(seed=rng.getrandbits(32))
        observation, info = env.reset(options={"task": task})
        golden, turns, is_over = info["golden_rollout"], [], False
        while not is_over:
            command = expert.act(observation, info["admissible_commands"])
            if rng.random() < dithering:
                command = rng.choice(idle_commands(info["admissible_commands"]))
            turns.append(
                PlayedTurn(observation=observation, response=response_text(command), action=command)
            )
            observation, _, terminated, truncated, info = env.step(turns[-1].response)
            is_over = terminated or truncated
        return PlayedGame(
            turns=tuple(turns), final_observation=observation, won=info["won"], golden=golden
        )


def advice(command: str) -> str:
    """A step skill of a turn that moved the task forward, as rules write it."""
    return f"Do `{command}` now: it moved the task forward."


def warning(command: str, effect: str) -> str:
    """A step skill of a turn that was wasted, as rules write it."""
    return f"Do not do `{command}` here: it {effect}."


def at_the_end(way: Way | None, message: str, text: str) -> str:
    """A turn's message with what `step_skill` or `feedback` tells at its end."""
    if not text:
        return message
    if way == "feedback":
        return with_told_text(message, step_skill=text)
    return _inserted(message, step_skill=text)


def _inserted(message: str, *, episode_skill: str = "", step_skill: str = "") -> str:
    return insert_skills(
        message,
        episode_skill=episode_skill,
        step_skill=step_skill,
        task_phrases=ALFWorldEnv.task_phrases,
        turn_phrases=ALFWorldEnv.turn_phrases,
    )


def with_header(way: Way | None, skills: str) -> str:
    """Skills as the two of `SKILL_WAYS` tell them."""
    return privileged_preamble(skills) if way == "skills" else student_preamble(skills)


def _turn_texts(way: Way, game: PlayedGame) -> tuple[str, ...]:
    if way == "step_skill":
        skills = game.skills()
        return tuple(skills.step_skills.values()) if skills else ()
    return tuple(feedback_text(answer) for answer in game.observations()[1:])


def idle_commands(admissible_commands: Sequence[str]) -> list[str]:
    """Commands that change nothing in the game."""
    return [
        command
        for command in admissible_commands
        if command in ("look", "inventory") or command.startswith("examine ")
    ]
