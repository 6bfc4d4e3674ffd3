"""Calls into an environment: whatever it does, the caller gets a sound reply or a named error.

Everything that an environment writes is checked here, in the thread that called it: texts hold no
half surrogate pairs, rewards are finite, `info` has the keys of the contract.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepopsd_envs.text_env import HistoryTurn, TextEnv
from stepopsd_envs.text_files import whole_characters

from stepopsd_rllib.episodes.agent_episode import ContextPolicy

LONGEST_TEXT = 1_000_000  # characters; no context window comes near
LARGEST_REWARD = 1e30  # sums over an episode stay finite in float32
_LONGEST_ERROR = 1000  # characters of an exception's text that are kept

_REQUIRED_TEXTS = ("task_id", "task_type", "action")
_REQUIRED_CLAIMS = ("won", "is_action_valid")
_OPTIONAL_TEXTS = ("anchor", "golden_rollout", "tool_error")


class BrokenContract(Exception):
    """An environment answered with something that the text contract does not allow."""


class EnvTimeout(Exception):
    """An environment did not answer in time; its thread is left behind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvReply:
    """What an environment answered to a reset or a response; after an error nothing else counts.

    Attributes:
        observation: Raw text of the environment.
        reward: Finite; 0 after a reset.
        terminated: Whether the task is over.
        truncated: Whether the episode was stopped.
        info: The contract's keys, checked, and whatever else the environment wrote.
        message: User message of the next turn; "" where there is none.
        system_prompt: System message of the environment; "" for none.
        error: Name and text of what went wrong; "" for nothing.
        is_overdue: Whether there was no answer in time, so that a thread is in the environment.
    """

    observation: str = ""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    system_prompt: str = ""
    error: str = ""
    is_overdue: bool = False


def reset(env: TextEnv, *, task_id: str, seed: int) -> EnvReply:
    """Starts a task; the reply has the first user message."""
    observation, info = env.reset(seed=seed, options={"task": task_id})
    observation, info = _text("observation", observation), _checked_info(info)
    return EnvReply(
        observation=observation,
        info=info,
        message=_text("first_message", env.first_message(observation, info)),
        system_prompt=_system_prompt(env),
    )


def step(
    env: TextEnv,
    response: str,
    *,
    context: ContextPolicy,
    observation: str,
    history: Sequence[HistoryTurn],
    window_turns: int,
) -> EnvReply:
    """Plays a response; the reply has the next user message where the episode goes on.

    Args:
        env: An environment in the state that the response answers.
        response: The policy's text.
        context: How the next prompt is made.
        observation: What the response answers.
        history: The turns before this one.
        window_turns: Past turns that a rebuilt prompt shows.
    """
    after, reward, terminated, truncated, info = env.step(response)
    after, info = _text("observation", after), _checked_info(info)
    reward = _checked_reward(reward)
    message = ""
    if not (terminated or truncated or info.get("tool_error")):
        if context == "append":
            message = _text("append_message", env.append_message(after, info))
        else:
            turn = HistoryTurn(index=len(history), observation=observation, action=info["action"])
            past = [*history, turn]
            shown = past[-window_turns:] if window_turns else []
            message = _text("window_message", env.window_message(shown, after, info))
    return EnvReply(
        observation=after,
        reward=reward,
        terminated=bool(terminated),
        truncated=bool(truncated),
        info=info,
        message=message,
        system_prompt=_system_prompt(env) if context == "window" else "",
    )


def error_text(error: BaseException) -> str:
    """Type and text of an exception: short, without what no file can hold."""
    try:
        said = str(error)
    except Exception:  # an exception whose own text cannot be made
        said = "(its text cannot be read)"
    if len(said) > _LONGEST_ERROR:
        said = said[:_LONGEST_ERROR] + "..."
    return whole_characters(f"{type(error).__name__}: {said}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BrokenContract(f"{name} is a {type(value).__name__}, not a string")
    if len(value) > LONGEST_TEXT:
        raise BrokenContract(
            f"{name} has {len(value)} characters; more than {LONGEST_TEXT} fit no context"
        )
    return whole_characters(value)


def _system_prompt(env: TextEnv) -> str:
    prompt = env.system_prompt
    return "" if prompt is None else _text("system_prompt", prompt)


def _checked_info(info: Any) -> dict[str, Any]:
    if not isinstance(info, Mapping):
        raise BrokenContract(f"info is a {type(info).__name__}, not a dict")
    checked = dict(info)
    for key in (*_REQUIRED_TEXTS, *_REQUIRED_CLAIMS):
        if key not in checked:
            raise BrokenContract(f"info lacks {key!r}")
    for key in (*_REQUIRED_TEXTS, *_OPTIONAL_TEXTS):
        if checked.get(key) is not None:
            checked[key] = _text(f"info[{key!r}]", checked[key])
        elif key in _REQUIRED_TEXTS:
            raise BrokenContract(f"info[{key!r}] is None, not a string")
        else:
            checked.pop(key, None)
    for key in _REQUIRED_CLAIMS:
        checked[key] = _claim(key, checked[key])
    return checked


def _claim(key: str, value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_", "int"):  # numpy's own is a bool too
        raise BrokenContract(f"info[{key!r}]={value!r:.80} is neither true nor false")
    return bool(value)


def _checked_reward(value: Any) -> float:
    reward = float(value)
    if not math.isfinite(reward):
        raise BrokenContract(f"the reward is {reward}, which would make every mean {reward}")
    if abs(reward) > LARGEST_REWARD:
        raise BrokenContract(f"the reward {reward:g} is beyond {LARGEST_REWARD:g}")
    return reward
