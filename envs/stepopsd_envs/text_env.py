"""The contract between a text environment and whoever plays it, and the checker of the contract.

An action is the policy's whole response text of one turn; the environment finds the command in
it. An observation is the raw text of the environment. What a model reads around it (role,
history, instructions) comes from three message methods, so that one environment serves both
context policies: `append` (one growing chat) and `window` (prompt rebuilt from the last turns).
"""

import difflib
import inspect
import string
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

SPLITS = ("train", "valid_seen", "valid_unseen")

# What a space may hold has no natural end; this is far above any context window, in characters.
_MAX_TEXT_LENGTH = 10_000_000
_MAX_SAMPLE_LENGTH = 64
_MAX_TURNS_CHECKED = 1000

_INFO_TYPES: dict[str, type] = {
    "task_id": str,
    "task_type": str,
    "won": bool,
    "is_action_valid": bool,
    "action": str,
}
_OPTIONAL_INFO_TYPES: dict[str, type] = {"tool_error": str, "anchor": str, "golden_rollout": str}


class UnicodeText(gym.spaces.Text):
    """Every text, the empty one included; samples are short and printable.

    Gymnasium's own `Text` looks up each character in an explicit set, which for all of Unicode
    would hold a million entries in every environment.
    """

    def __init__(self, *, seed: int | np.random.Generator | None = None):
        """Makes the space; `seed` is for sampling."""
        super().__init__(_MAX_TEXT_LENGTH, min_length=0, charset=string.printable, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draws a printable text of at most 64 characters (or of the length in `mask`)."""
        if mask is None and probability is None:
            mask = (int(self.np_random.integers(_MAX_SAMPLE_LENGTH + 1)), None)
        return super().sample(mask, probability)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        """Shows the name alone; there is nothing to configure."""
        return "UnicodeText()"


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryTurn:
    """One past turn as a rebuilt prompt shows it.

    Attributes:
        index: 0-based number of the turn in its episode.
        observation: What the environment said *before* the action.
        action: What the environment parsed out of the response and executed.
    """

    index: int
    observation: str
    action: str


class TextEnv(gym.Env[str, str]):
    """One task at a time, played in turns of text.

    Writes in every `info`: `task_id`, `task_type`, `won`, `is_action_valid`, `action` (what was
    parsed and executed, "" at reset); optionally `anchor` (text that names the state),
    `golden_rollout` (a known solution as text, which no prompt ever shows) and
    `tool_error` (then the turn is truncated and its observation is not evidence).

    A turn limit is `truncated`, the end of the task is `terminated`; never both.
    An exception out of `reset` or `step` means that the environment is broken.
    """

    thread_safe: ClassVar[bool] = False
    """Whether copies may be stepped from several threads at once."""

    action_tags: ClassVar[tuple[str, ...]] = ("action",)
    """Names of the tags between which a response acts."""

    system_prompt: str | None = None

    def __init__(self) -> None:
        """Sets the spaces; a subclass calls this first."""
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()

    @abstractmethod
    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of all tasks of a split, sorted, each once.

        Args:
            split: "train", "valid_seen" or "valid_unseen".
        """
        raise NotImplementedError

    @abstractmethod
    def first_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """Returns the user message of turn 0, under either context policy."""
        raise NotImplementedError

    @abstractmethod
    def append_message(self, observation: str, info: Mapping[str, Any]) -> str:
        """Returns the user message of a later turn when the chat grows."""
        raise NotImplementedError

    @abstractmethod
    def window_message(
        self, history: Sequence[HistoryTurn], observation: str, info: Mapping[str, Any]
    ) -> str:
        """Returns the only user message of a later turn when the prompt is rebuilt.

        Args:
            history: The last turns, oldest first, as many as the agent wants shown.
            observation: What the environment says now.
            info: The info that came with it.
        """
        raise NotImplementedError

    def task_for_reset(self, options: Mapping[str, Any] | None) -> str:
        """Returns `options["task"]`, or a task of the train split drawn with `np_random`.

        Call it after `super().reset(seed=seed)`.
        """
        options = options or {}
        for key in options:
            if key != "task":
                raise ValueError(f"reset(options=...) has the key {key!r}: only 'task' is known.")
        if "task" in options:
            return options["task"]
        tasks = self.tasks("train")
        return tasks[int(self.np_random.integers(len(tasks)))]


def nearest(name: str, known: Sequence[str]) -> str:
    """Returns " Did you mean 'x'?" for the known name nearest to `name`, or "" if none is near."""
    matches = difflib.get_close_matches(str(name), known, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def require_choice(key: str, value: Any, known: Sequence[str]) -> None:
    """Raises a ValueError unless `value` is one of the `known` values of `key`."""
    if value not in known:
        choices = ", ".join(map(repr, known))
        raise ValueError(f"{key}={value!r} is none of {choices}.{nearest(value, known)}")


def require_bool(key: str, value: Any) -> None:
    """Raises a ValueError unless `value` is a bool: the text "false" would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{key}={value!r} must be true or false.")


def refuse_unknown_keys(environment: type[TextEnv], unknown: Mapping[str, Any]) -> None:
    """Raises a ValueError if a constructor that takes any keyword was given one it does not know.

    Args:
        environment: The class constructed.
        unknown: What its `**unknown` caught.
    """
    parameters = inspect.signature(environment).parameters.values()
    known = [key.name for key in parameters if key.kind is inspect.Parameter.KEYWORD_ONLY]
    for key, value in unknown.items():
        raise ValueError(
            f"{key}={value!r}: {environment.__name__} has no such key.{nearest(key, known)} "
            f"It has {', '.join(known)}."
        )


class TextEnvContractError(AssertionError):
    """An environment breaks the text contract."""


def check_text_env(env: TextEnv, responses: Sequence[str] | None = None) -> None:
    """Plays `env` and raises `TextEnvContractError` where it breaks the contract.

    Run it beside `gymnasium.utils.env_checker.check_env`, which knows nothing of tasks,
    messages and info keys.

    Args:
        env: The environment, fresh.
        responses: Texts to play in turn, over and over until the episode ends; by default texts
            that no environment can execute.
    """
    responses = responses or ("", "no tag at all", "<action>é\n中</action>", "<search>x</search>")
    seen: dict[str, str] = {}
    for split in SPLITS:
        tasks = env.tasks(split)
        _require(isinstance(tasks, tuple) and len(tasks) > 0, f"tasks({split!r}) is no full tuple")
        _require(list(tasks) == sorted(set(tasks)), f"tasks({split!r}) is unsorted or repeats")
        for task in tasks:
            _require(task not in seen, f"task {task!r} is in {split} and in {seen.get(task)}")
            seen[task] = split
        for task in (*tasks[:1], *tasks[-1:]):
            _require(
                _transcript(env, task, responses) == _transcript(env, task, responses),
                f"task {task!r} played twice with one seed gave two transcripts",
            )
    _require_refusal("an unknown split", env.tasks, "no_such_split")
    _require_refusal("an unknown task", env.reset, options={"task": "no such task"})
    _require_refusal("an unknown reset option", env.reset, options={"tusk": env.tasks("train")[0]})
    draws = [env.reset(seed=7)[1]["task_id"] for _ in range(2)]
    _require(draws[0] == draws[1], "reset(seed=7) drew two different tasks")
    _require(seen[draws[0]] == "train", "reset without a task drew one that is not in train")


def _transcript(env: TextEnv, task: str, responses: Sequence[str]) -> list[Any]:
    observation, info = env.reset(seed=3, options={"task": task})
    _check_info(info)
    _require(info["task_id"] == task, f"reset to {task!r} gave task_id {info['task_id']!r}")
    _require(info["action"] == "" and not info["won"], "reset gave an action or a win")
    _require_text("observation", observation)
    _require_text("first_message", env.first_message(observation, info))
    lines: list[Any] = [observation]
    history: list[HistoryTurn] = []
    for index in range(_MAX_TURNS_CHECKED):
        before = observation
        response = responses[index % len(responses)]
        observation, reward, terminated, truncated, info = env.step(response)
        _check_info(info)
        _require_text("observation", observation)
        _require(type(reward) is float, f"the reward is a {type(reward).__name__}, not a float")
        _require(
            type(terminated) is bool and type(truncated) is bool,
            "terminated and truncated must be bool",
        )
        _require(not (terminated and truncated), "a turn is both terminated and truncated")
        _require("tool_error" not in info or truncated, "a tool_error must be truncated")
        lines.append((observation, reward, terminated, truncated, dict(info)))
        if terminated or truncated:
            return lines
        history.append(HistoryTurn(index=index, observation=before, action=info["action"]))
        for shown in ([], history[-1:], history[-3:]):
            _require_text("window_message", env.window_message(shown, observation, info))
        _require_text("append_message", env.append_message(observation, info))
    raise TextEnvContractError(f"task {task!r} had no end after {_MAX_TURNS_CHECKED} turns")


def _check_info(info: Mapping[str, Any]) -> None:
    for key, kind in _INFO_TYPES.items():
        _require(key in info, f"info lacks {key!r}")
        _require(type(info[key]) is kind, f"info[{key!r}]={info[key]!r} is no {kind.__name__}")
    for key, kind in _OPTIONAL_INFO_TYPES.items():
        if key in info:
            _require(type(info[key]) is kind, f"info[{key!r}]={info[key]!r} is no {kind.__name__}")


def _require_text(what: str, value: Any) -> None:
    _require(UnicodeText().contains(value), f"{what} is a {type(value).__name__}, not a text")


def _require_refusal(what: str, function: Any, *args: Any, **kwargs: Any) -> None:
    try:
        function(*args, **kwargs)
    except ValueError:
        return
    raise TextEnvContractError(f"{what} is not refused with a ValueError")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise TextEnvContractError(otherwise)
