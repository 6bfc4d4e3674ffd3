"""What can end a run: result keys and the numbers that they must be able to reach."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

STOP_KEYS = ("training_iteration", "time_total_s", "num_env_steps_sampled_lifetime")
STOP_SECTIONS = ("env_runners/", "evaluation/", "learners/")

# Written by every evaluation, beside status/<status>, task_type/<type>/... and task_type_mean/...
_OF_EPISODES = ("episode_return_mean", "num_episodes", "success_rate", "turns_mean")
_OF_EVALUATIONS = ("iteration", "num_wins", "seconds", "success_rate_low", "success_rate_high")
_SHARES = (
    *("success_rate", "success_rate_low", "success_rate_high", "valid_action_ratio"),
    *("task_score_mean", "task_score_low", "task_score_high"),
)


def check_stop(
    source: str, stop: Mapping[Any, Any], config: Mapping[str, Any], *, key: str = "stop"
) -> None:
    """Refuses a criterion that no result can ever meet.

    Args:
        source: The file; messages start with it.
        stop: Result key -> the number that ends a trial when reached.
        config: Keys of the algorithm, for criteria that need an evaluation.
        key: Key of the tuned example that names the results.

    Raises:
        ValueError: An unknown key (with the nearest one), a value that is no number, or one that
            the result cannot reach.
    """
    for result, value in stop.items():
        where, result = f"{source}: {key}.{result}", str(result)
        _check_key(where, result)
        check_number(where, value)
        if not math.isfinite(value):
            raise ValueError(f"{where}={value}: no result reaches that.")
        if result.rpartition("/")[2] in _SHARES and value > 1:
            advice = f" Write {value / 100:g}." if value <= 100 else ""
            raise ValueError(f"{where}={value:g}: a share is at most 1.{advice}")
        if result.startswith("evaluation/") and not config.get("evaluation_interval"):
            raise ValueError(f"{where}: this run never evaluates. Set config.evaluation_interval.")


def _check_key(where: str, key: str) -> None:
    if key not in STOP_KEYS and not key.startswith(STOP_SECTIONS):
        sections = ", ".join(f"{section}..." for section in STOP_SECTIONS)
        raise ValueError(
            f"{where} is not a result that can end a run"
            f"{nearest(key, [*STOP_KEYS, *_paths()])}. Known: {', '.join(STOP_KEYS)}, {sections}."
        )
    section, _, name = key.partition("/")
    close = difflib.get_close_matches(name, [*_OF_EPISODES, *_OF_EVALUATIONS], n=1, cutoff=0.8)
    known = (*_OF_EPISODES, *(_OF_EVALUATIONS if section == "evaluation" else ()))
    if section in ("evaluation", "env_runners") and close and name not in known:
        if close[0] not in known:
            return
        raise ValueError(
            f"{where} is no result of this package; did you mean '{section}/{close[0]}'?"
        )


def never_met(stop: Mapping[str, float], flat: Mapping[str, Any]) -> dict[str, str]:
    """Criteria that a result should hold and does not, each with the nearest key there is.

    Args:
        stop: Criteria as written in the file.
        flat: One result, keys joined by "/". A section without any key (no evaluation yet, no
            update) says nothing.
    """
    missing = {}
    for key in stop:
        section = key.partition("/")[0] + "/"
        siblings = [name for name in flat if name.startswith(section)]
        if "/" in key and siblings and key not in flat:
            missing[key] = nearest(key, siblings)
    return missing


def check_number(where: str, value: object) -> None:
    """Refuses text where a number belongs, such as one in quotes."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return
    advice = "Write a number."
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            advice = f"Write {yaml_number(float(value))}."
        raise ValueError(f"{where}={value!r} is text. {advice}")
    raise ValueError(f"{where}={value!r} is not a number. {advice}")


def yaml_number(value: float) -> str:
    """A number as every YAML reads it: an exponent needs a decimal point before it."""
    text = repr(value)
    mantissa, separator, exponent = text.partition("e")
    return f"{mantissa}.0e{exponent}" if separator and "." not in mantissa else text


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint at the known name that is nearest, or ""."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _paths() -> list[str]:
    return [f"{section}{name}" for section in STOP_SECTIONS[:2] for name in _OF_EPISODES]
