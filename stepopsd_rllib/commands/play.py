"""`stepopsd play`: a person takes the policy's place in an environment and types the actions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stepopsd_envs import TextEnv

from stepopsd_rllib.commands.tuned import parse_override
from stepopsd_rllib.environments import make_text_env

LEAVE = {"quit", "exit"}
_HINT = "Type an action, without the tags that a model is asked for: they are added. 'quit' leaves."
_TAG = re.compile(r"</?[a-z_]+>", re.IGNORECASE)


def env_config(overrides: Sequence[str]) -> dict[str, Any]:
    """The environment's keyword arguments from `KEY=VALUE` texts."""
    return dict(parse_override(override) for override in overrides)


def play(
    env_id: str,
    config: dict[str, Any],
    *,
    split: str,
    task: str | None,
    seed: int,
) -> int:
    """Plays one task in the terminal and returns the exit status.

    Args:
        env_id: What `env:` takes in a configuration.
        config: Keyword arguments of the environment.
        split: Split that the task is drawn from.
        task: Task id; drawn from the split with `seed` if not given.
        seed: Seed of the draw and of the environment.
    """
    env = make_text_env(env_id, config)
    if task is None:
        tasks = env.tasks(split)
        task = tasks[seed % len(tasks)]
    observation, info = env.reset(seed=seed, options={"task": task})
    print(f"task {task} ({info['task_type']})\n{_HINT}\n")
    if env.system_prompt:
        print(f"[system]\n{env.system_prompt}\n")
    message = env.first_message(observation, info)
    total, turns = 0.0, 0
    terminated = truncated = False
    while not (terminated or truncated):
        print(f"{message}\n")
        typed = _line_of_text()
        if typed is None:
            print(f"Left after {turns} turns, return {total:g}.")
            return 0
        observation, reward, terminated, truncated, info = env.step(response_of(env, typed))
        total, turns = total + float(reward), turns + 1
        if said := _done(typed, info):
            print(said)
        message = env.append_message(observation, info)
    ending = "won" if info["won"] else "turn limit" if truncated else "lost"
    score = f", task score {info['task_score']:.2f}" if "task_score" in info else ""
    print(f"{observation}\n\n{ending} after {turns} turns, return {total:g}{score}")
    return 0


def response_of(env: TextEnv, typed: str) -> str:
    """What a model would have written: a text with tags as it is, a bare one as `env` wraps it."""
    return typed if _TAG.search(typed) else env.response_of(typed)


def _done(typed: str, info: Mapping[str, Any]) -> str:
    """What became of a line: pages do not always show what was done."""
    action = info["action"]
    if not info["is_action_valid"]:
        return f"(not a valid action, and a turn is spent: {action!r:.200})"
    return f"({action:.200})" if action != typed else ""


def typed_line() -> str | None:
    """The next line; None when the person leaves or the input ends."""
    try:
        line = input("> ").strip()
    except EOFError:
        return None
    return None if line.lower() in LEAVE else line


def _line_of_text() -> str | None:
    """The next line that is not empty."""
    while (line := typed_line()) == "":
        continue
    return line
