"""Checks of a configuration's values: what a key may hold, and numbers that YAML reads as texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

KeyCheck = tuple[str, Callable[[Any], bool], str]
"""A key of a config, whether a value will do, and what it must be."""


def passes(check: Callable[[Any], bool], value: Any) -> bool:
    """Whether a value passes a check; one of a type that the check cannot take does not."""
    try:
        return check(value)
    except TypeError:
        return False


def is_int(value: Any, low: int) -> bool:
    """Whether a value is a whole number, at least `low`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_number(value: Any, low: float, high: float = math.inf) -> bool:
    """Whether a value is a finite number in [low, high]; true and false are none."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value) and low <= value <= high


def require(settings: object, checks: Sequence[KeyCheck], *, section: str) -> None:
    """Refuses the first attribute of `settings` whose value fails its check.

    Raises:
        ValueError: It names `section`, key, value, and what the value must be.
    """
    for key, check, requirement in checks:
        value = getattr(settings, key)
        if not passes(check, value):
            raise ValueError(f"{section}.{key}={value!r}: must be {requirement}.")


def refuse_number_as_text(key: str, value: Any, current: Any) -> None:
    """Refuses a text where a number belongs: YAML reads 1e-6 as one, and later checks let it pass.

    Args:
        key: Name of the key, for the message.
        value: What was given.
        current: What stands there now; a text may replace a text.

    Raises:
        ValueError: With the number as it must be written.
    """
    if not isinstance(value, str) or isinstance(current, str):
        return
    try:
        number = float(value)
    except ValueError:
        if isinstance(current, bool | int | float):
            raise ValueError(
                f"config.{key}={value!r} is text where {current!r} stands by default. Write a "
                "number."
            ) from None
        return
    mantissa, _, exponent = value.lower().partition("e")
    written = f"{float(mantissa)}e{int(exponent)}" if exponent else repr(number)
    raise ValueError(f"config.{key}={value!r} is text. Write {written}.")
