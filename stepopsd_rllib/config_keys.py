"""How a key of a configuration is declared: once, with default, range, meaning and source.

    alpha_clip: float = key(
        0.2, number(0, below=1), "half width of the trust region of the weights", symbol="α"
    )

The default, the check, the fluent methods with their signature and documentation, the nearest-name
error, `stepopsd keys` and `docs/configuration.md` follow from it
(`stepopsd_rllib.training.keyed_config`).
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """What a key may hold.

    Attributes:
        accepts: Whether a value will do; a TypeError means no.
        requirement: What the value must be, as it stands after "must be".
    """

    accepts: Callable[[Any], bool]
    requirement: str

    def passes(self, value: Any) -> bool:
        """Whether a value will do; one of a type that the check cannot take will not."""
        try:
            return bool(self.accepts(value))
        except TypeError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of a config, declared as a class attribute with `key`.

    Attributes:
        default: The value where none is given; copied for each config.
        check: What it may hold.
        meaning: What it is, with its unit; a noun first, no full stop.
        symbol: Symbol in the paper.
        paper: The paper's values, such as "0.2; 0.05 on Search-QA".
        section: The fluent method that sets it.
        name: The attribute.
        argument: How the user writes it, where the attribute has another name.
        type: Annotation as text.
    """

    default: Any
    check: Check
    meaning: str
    symbol: str = ""
    paper: str = ""
    section: str = "training"
    name: str = ""
    argument: str = ""
    type: str = "Any"

    def read(self, value: Any) -> Any:
        """The value that a YAML file means: it reads `off`, without quotes, as false."""
        if value is False and not self.check.passes(value) and self.check.passes("off"):
            return "off"
        return value

    @property
    def description(self) -> str:
        """Meaning, range, and what the paper says, in sentences."""
        meaning = f"{self.symbol}, {self.meaning}" if self.symbol else _capital(self.meaning)
        paper = f" Paper: {self.paper}." if self.paper else ""
        return f"{meaning}. {_capital(self.check.requirement)}.{paper}"


def key(
    default: Any,
    check: Check,
    meaning: str,
    *,
    symbol: str = "",
    paper: str = "",
    section: str = "training",
    argument: str = "",
) -> Any:
    """Declares a key; see `Key`. Typed as Any, so that the attribute has the type of its value."""
    return Key(
        default=default,
        check=check,
        meaning=meaning,
        symbol=symbol,
        paper=paper,
        section=section,
        argument=argument,
    )


def number(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
    below: float | None = None,
    unit: str = "",
) -> Check:
    """A finite number in [low, high]; `above` and `below` leave their end out. No true or false."""

    def accepts(value: Any) -> bool:
        return (
            is_number(value, low, high)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    noun = f"a number of {unit}" if unit else "a number"
    if below is None and high == math.inf:
        return Check(
            accepts, f"{noun} above {above}" if above is not None else f"{noun}, at least {low}"
        )
    left = f"({above}" if above is not None else f"[{low}"
    right = f"{below})" if below is not None else f"{high}]"
    return Check(accepts, f"{noun} in {left}, {right}")


def whole(low: int, unit: str = "") -> Check:
    """A whole number, at least `low`; true and false are none."""
    noun = f"a whole number of {unit}" if unit else "a whole number"
    return Check(lambda value: is_int(value, low), f"{noun}, at least {low}")


def one_of(*choices: str) -> Check:
    """One of some words."""
    words = [repr(choice) for choice in choices]
    few = f"{', '.join(words[:-1])} or {words[-1]}"
    return Check(
        lambda value: value in choices, few if len(words) < 4 else f"one of {', '.join(choices)}"
    )


def or_none(check: Check, meaning: str = "") -> Check:
    """What a check takes, or none, with what none means."""
    return Check(
        lambda value: value is None or check.accepts(value),
        f"{check.requirement}, or none{meaning and f' {meaning}'}",
    )


def of_type(kind: type, requirement: str) -> Check:
    """A value of a type; an empty string is none."""
    return Check(lambda value: isinstance(value, kind) and value != "", requirement)


FLAG = Check(lambda value: isinstance(value, bool), "true or false")


def is_int(value: Any, low: float) -> bool:
    """Whether a value is a whole number, at least `low`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_number(value: Any, low: float, high: float = math.inf) -> bool:
    """Whether a value is a finite number in [low, high]; true and false are none."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value) and low <= value <= high


def require(settings: object, checks: Mapping[str, Check], *, section: str) -> None:
    """Refuses the first attribute of `settings` whose value fails its check.

    Raises:
        ValueError: It names `section`, key, value, and what the value must be.
    """
    for name, check in checks.items():
        value = getattr(settings, name)
        if not check.passes(value):
            raise ValueError(f"{section}.{name}={value!r}: must be {check.requirement}.")


def declared_here(body: Mapping[str, Any], known: Mapping[str, Key]) -> dict[str, Key]:
    """The keys that a class body declares, and the known ones to which it gives another default.

    Args:
        body: Namespace of the class.
        known: The keys that it inherits.
    """
    annotations = body.get("__annotations__", {})
    found: dict[str, Key] = {}
    for name, value in body.items():
        if isinstance(value, Key):
            kind = str(annotations.get(name, value.type))
            argument = value.argument or name
            found[name] = replace(value, name=name, argument=argument, type=kind)
        elif name in known:
            found[name] = replace(known[name], default=value)
    return found


def described(method: Callable[..., Any], keys: Iterable[Key], more: Iterable[str] = ()) -> Any:
    """A copy of a fluent method whose signature and documentation list keys.

    Args:
        method: Takes keyword arguments.
        keys: What it sets; `help()` shows their defaults.
        more: Further arguments, documented elsewhere.
    """

    @functools.wraps(method)
    def copy(self: Any, **arguments: Any) -> Any:
        return method(self, **arguments)

    keys = list(keys)
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [
        inspect.Parameter(item.argument, kind, default=item.default, annotation=item.type)
        for item in keys
    ]
    parameters += [inspect.Parameter(name, kind, default=None) for name in more]
    copy.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    copy.__doc__ = f"Sets what is given and leaves the rest.\n\nArgs:\n{_arguments(keys)}"
    return copy


def _arguments(keys: Iterable[Key]) -> str:
    return "\n".join(
        textwrap.fill(
            f"{item.argument}: {item.description}",
            width=100,
            break_on_hyphens=False,
            initial_indent=" " * 4,
            subsequent_indent=" " * 8,
        )
        for item in keys
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the most similar known name, or nothing."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def refuse_number_as_text(name: str, value: Any, current: Any) -> None:
    """Refuses a text where a number belongs: YAML reads 1e-6 as one, and later checks let it pass.

    Args:
        name: Name of the key, for the message.
        value: What was given.
        current: What stands there now; a text may replace a text.

    Raises:
        ValueError: With the number as it must be written.
    """
    if not isinstance(value, str) or isinstance(current, str):
        return
    try:
        given = float(value)
    except ValueError:
        if isinstance(current, bool | int | float):
            raise ValueError(
                f"config.{name}={value!r} is text where {current!r} stands by default. Write a "
                "number."
            ) from None
        return
    mantissa, _, exponent = value.lower().partition("e")
    written = f"{float(mantissa)}e{int(exponent)}" if exponent else repr(given)
    if isinstance(current, int) and given.is_integer():
        written = str(int(given))
    raise ValueError(f"config.{name}={value!r} is text. Write {written}.")
