"""Reads a PDDL problem text (PDDL 1.2 syntax): declared objects, initial facts and the goal expression."""

import re
from dataclasses import dataclass
from typing import TypeAlias

Expression: TypeAlias = "str | list[Expression]"

_COMMENT = re.compile(r";[^\n]*")
_TOKEN = re.compile(r"[()]|[^\s()]+")
_EXPECTED_SECTIONS = ("problem", ":domain", ":objects", ":init", ":goal")


class GameError(ValueError):
    """A game that cannot be played; the message names the file, what is wrong with it and the fix."""


def _damaged(what: str) -> GameError:
    return GameError(f"pddl_problem is damaged: {what}. Download or generate the file again.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PddlProblem:
    """A problem as written, lower case (PDDL is case-insensitive), nothing interpreted yet."""

    types: dict[str, str]
    """Declared type of each id."""
    facts: dict[str, dict[tuple[str, ...], None]]
    """Argument tuples of each predicate, an ordered set: official files repeat facts."""
    goal: str
    """The goal expression with single blanks between its parts."""


def read_problem(text: str) -> PddlProblem:
    """Parses one `(define (problem ...) ...)`; raises GameError if it is not one of the expected form."""
    sections = _sections(_expression(_TOKEN.findall(_COMMENT.sub("", text).lower())))
    goal = sections[":goal"]
    if len(goal) != 1:
        raise _damaged(f"its :goal section has {len(goal)} expressions instead of 1")
    return PddlProblem(
        types=_declarations(sections[":objects"]),
        facts=_facts(sections[":init"]),
        goal=_flat(goal[0]),
    )


def _expression(tokens: list[str]) -> Expression:
    outermost: list[Expression] = []
    current = outermost
    enclosing: list[list[Expression]] = []
    for token in tokens:
        if token == "(":
            inner: list[Expression] = []
            current.append(inner)
            enclosing.append(current)
            current = inner
        elif token == ")":
            if not enclosing:
                raise _damaged("it closes a bracket that was never opened")
            current = enclosing.pop()
        else:
            current.append(token)
    if enclosing:
        raise _damaged(f"{len(enclosing)} brackets are never closed, so its end is missing")
    if len(outermost) != 1:
        raise _damaged(f"it holds {len(outermost)} expressions instead of one `(define ...)`")
    return outermost[0]


def _sections(definition: Expression) -> dict[str, list[Expression]]:
    if not isinstance(definition, list) or definition[:1] != ["define"]:
        raise _damaged("it does not start with `(define`")
    sections: dict[str, list[Expression]] = {}
    for section in definition[1:]:
        if not isinstance(section, list) or not section or not isinstance(section[0], str):
            raise _damaged(f"`{_flat(section)[:60]}` is no section of a problem")
        if section[0] not in _EXPECTED_SECTIONS or section[0] in sections:
            raise _damaged(f"its section `{section[0]}` is unknown or repeated")
        sections[section[0]] = section[1:]
    missing = [name for name in _EXPECTED_SECTIONS if name not in sections]
    if missing:
        raise _damaged(f"its section `{missing[0]}` is missing")
    return sections


def _declarations(parts: list[Expression]) -> dict[str, str]:
    """Ids and types of `a b - type1 c - type2`."""
    types: dict[str, str] = {}
    waiting: list[str] = []
    words = iter(parts)
    for word in words:
        if not isinstance(word, str):
            raise _damaged(f"`{_flat(word)[:60]}` in :objects is no declaration")
        if word != "-":
            waiting.append(word)
            continue
        type_name = next(words, None)
        if not waiting or not isinstance(type_name, str):
            raise _damaged("a type in :objects stands without an id, or the other way round")
        for name in waiting:
            if types.setdefault(name, type_name) != type_name:
                raise _damaged(f"`{name}` is declared as {types[name]} and as {type_name}")
        waiting = []
    if waiting:
        raise _damaged(f"`{waiting[0]}` in :objects has no type")
    return types


def _facts(parts: list[Expression]) -> dict[str, dict[tuple[str, ...], None]]:
    facts: dict[str, dict[tuple[str, ...], None]] = {}
    for fact in parts:
        if (
            not isinstance(fact, list)
            or not fact
            or not all(isinstance(word, str) for word in fact)
        ):
            raise _damaged(f"`{_flat(fact)[:60]}` in :init is no plain fact")
        predicate, *arguments = fact
        facts.setdefault(predicate, {})[tuple(arguments)] = None  # type: ignore[arg-type, index]
    return facts


def _flat(expression: Expression) -> str:
    if isinstance(expression, str):
        return expression
    return "(" + " ".join(map(_flat, expression)) + ")"
