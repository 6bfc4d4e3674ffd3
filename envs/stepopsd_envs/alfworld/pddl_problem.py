"""Reads a PDDL problem text: declared objects, initial facts and the goal expression."""

import re
from dataclasses import dataclass
from typing import TypeAlias

Expression: TypeAlias = "str | list[Expression]"
"""A word, or what stands between two brackets."""

TRY_AGAIN = "Download or generate the file again."

_SECTIONS = ("problem", ":domain", ":objects", ":init", ":goal")


class GameError(ValueError):
    """A game that cannot be played; the message names the file, what is wrong and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PddlProblem:
    """A problem as written, in lower case (PDDL does not distinguish), nothing interpreted yet."""

    types: dict[str, str]
    """Declared type of each id."""
    facts: dict[str, dict[tuple[str, ...], None]]
    """Arguments of the facts of each predicate, an ordered set: published games repeat facts."""
    goal: str
    """The goal expression with single blanks between its words."""


def read_problem(text: str) -> PddlProblem:
    """Parses one `(define (problem ...) ...)`; raises GameError if it has another form."""
    if ";" in text:
        text = re.sub(r";[^\n]*", "", text)
    words = text.lower().replace("(", " ( ").replace(")", " ) ").split()
    sections = _sections(_bracketed(words))
    goal = sections[":goal"]
    if len(goal) != 1:
        raise _damaged(f"its :goal holds {len(goal)} expressions instead of 1")
    return PddlProblem(
        types=_declarations(sections[":objects"]),
        facts=_facts(sections[":init"]),
        goal=_flat(goal[0]),
    )


def _bracketed(words: list[str]) -> Expression:
    outermost: list[Expression] = []
    current = outermost
    enclosing: list[list[Expression]] = []
    for word in words:
        if word == "(":
            inner: list[Expression] = []
            current.append(inner)
            enclosing.append(current)
            current = inner
        elif word == ")":
            if not enclosing:
                raise _damaged("it closes a bracket that was never opened")
            current = enclosing.pop()
        else:
            current.append(word)
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
        if not isinstance(section, list) or not section or section[0] not in _SECTIONS:
            raise _damaged(f"`{_flat(section)[:60]}` is no section of a problem")
        if section[0] in sections:
            raise _damaged(f"its section `{section[0]}` comes twice")
        sections[str(section[0])] = section[1:]
    missing = [name for name in _SECTIONS if name not in sections]
    if missing:
        raise _damaged(f"its section `{missing[0]}` is missing")
    return sections


def _declarations(parts: list[Expression]) -> dict[str, str]:
    """Types of the ids in `a b - type1 c - type2`."""
    types: dict[str, str] = {}
    waiting: list[str] = []
    words = iter(parts)
    for word in words:
        if not isinstance(word, str):
            raise _damaged(f"`{_flat(word)[:60]}` in :objects is no declaration")
        if word != "-":
            waiting.append(word)
            continue
        type_ = next(words, None)
        if not waiting or not isinstance(type_, str):
            raise _damaged("a `-` in :objects stands without an id before or a type behind it")
        for name in waiting:
            if types.setdefault(name, type_) != type_:
                raise _damaged(f"`{name}` is declared as {types[name]} and as {type_}")
        waiting = []
    if waiting:
        raise _damaged(f"`{waiting[0]}` in :objects has no type")
    return types


def _facts(parts: list[Expression]) -> dict[str, dict[tuple[str, ...], None]]:
    facts: dict[str, dict[tuple[str, ...], None]] = {}
    for fact in parts:
        if isinstance(fact, str) or not fact or list in map(type, fact):
            raise _damaged(f"`{_flat(fact)[:60]}` in :init is no plain fact")
        predicate, *arguments = map(str, fact)
        facts.setdefault(predicate, {})[tuple(arguments)] = None
    return facts


def _flat(expression: Expression) -> str:
    if isinstance(expression, str):
        return expression
    return "(" + " ".join(map(_flat, expression)) + ")"


def _damaged(what: str) -> GameError:
    return GameError(f"pddl_problem is damaged: {what}. {TRY_AGAIN}")
