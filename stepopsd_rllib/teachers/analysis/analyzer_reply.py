"""Reads the reply of an analyzing model: JSON wherever it stands, usual mistakes included.

The time taken grows with the length of the reply and no faster, whatever it is made of.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from stepopsd_rllib.teachers.analysis.analyzer import AnalyzerFailure, EpisodeSkills

# How a missing value looks once it has been turned into text.
_NOTHING = ("", "none", "null")

_FENCE = re.compile(r"```[^\S\n]*+\w*+[^\S\n]*+\n?+")
# A string may be cut off by the end of what is searched.
_BRACE_OR_STRING = re.compile(r"""\{|"(?:[^"\\]|\\.)*+"?""", flags=re.DOTALL)
_OPENS_OBJECT = re.compile(r"""\{(?=[ \t\n\r]*+["}])""")
_FIRST_PIECE = 256
_LONGEST_WORD = 16
"""Characters of the longest JSON token that is no string and no number, and some more."""
_LONGEST_INTEGER = 4000
"""Digits; Python refuses to read integers of a few hundred more."""
_LONGEST_LITERAL = 1 << 16
"""Characters of a Python literal that is tried; a reply of the usual length has a tenth."""
_DEEPEST_LITERAL = 8
"""Pairs of braces around a Python literal that is tried."""


def usable_skills(text: str) -> EpisodeSkills | AnalyzerFailure:
    """The skills in a reply, or why it cannot be used: no object, or an empty episode skill."""
    skills = parse_reply(text)
    if skills is None:
        return AnalyzerFailure.UNREADABLE
    return skills if has_episode_skill(skills) else AnalyzerFailure.EMPTY_SKILL


def parse_reply(text: str) -> EpisodeSkills | None:
    """Finds the skills in a reply.

    Candidates are the contents of fenced code blocks, then the whole text, each also with trailing
    commas removed. At every `{` a JSON object is tried; if none decodes anywhere, balanced brace
    slices are tried as Python literals. The first object with an `episode_skill` wins, else the
    first object.

    Args:
        text: The model's reply.

    Returns:
        The skills, values turned into text (a `null` becomes "None"), step keys that are no
        integers left out; None if there is no object. The episode skill may be empty: see
        `has_episode_skill`.
    """
    candidates = list(_candidates(text))
    chosen = _chosen(found for candidate in candidates for found in _json_objects(candidate))
    if chosen is None:
        chosen = _chosen(found for candidate in candidates for found in _python_objects(candidate))
    if chosen is None:
        return None
    return EpisodeSkills(
        episode_summary=str(chosen.get("episode_summary", "")),
        episode_skill=str(chosen.get("episode_skill", "")),
        step_skills=_step_skills(chosen.get("step_skills")),
    )


def has_episode_skill(skills: EpisodeSkills) -> bool:
    """Whether the episode skill says anything."""
    return skills.episode_skill.strip().lower() not in _NOTHING


def _chosen(objects: Iterable[dict[Any, Any]]) -> dict[Any, Any] | None:
    """The first object with an episode skill, else the first."""
    first = None
    for found in objects:
        if "episode_skill" in found:
            return found
        first = found if first is None else first
    return first


def _fenced(text: str) -> Iterator[str]:
    """The contents of the code blocks."""
    opened = _FENCE.search(text)
    while opened and (end := text.find("```", opened.end())) >= 0:
        yield text[opened.end() : end]
        opened = _FENCE.search(text, end + 3)


def _candidates(text: str) -> Iterator[str]:
    for candidate in (*_fenced(text), text):
        yield candidate
        without_trailing_commas = re.sub(r",(\s*[}\]])", r"\1", candidate)
        if without_trailing_commas != candidate:
            yield without_trailing_commas


def _json_objects(text: str) -> Iterator[dict[Any, Any]]:
    """Every object that decodes, in the order of their opening braces.

    Where decoding fails, the objects inside that were complete are kept, and those that were open
    would fail at the same place: their braces need not be tried again. Only braces inside what was
    read as a string are, since an unescaped quote may have turned inside and outside around.
    """
    complete: list[dict[Any, Any]] = []

    def keep(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        complete.append(dict(pairs))
        return complete[-1]

    # Control characters are allowed inside strings.
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=keep, parse_int=_integer)
    settled: set[int] = set()
    for brace in _OPENS_OBJECT.finditer(text):
        if brace.start() in settled:
            continue
        try:
            end = _read_from(text, brace.start(), decoder, complete)
        except RecursionError:
            return  # nested as no answer is
        read = _BRACE_OR_STRING.finditer(text, brace.start(), end)
        settled.update(found.start() for found in read if found.group() == "{")
        yield from _outermost_first(complete)


def _read_from(
    text: str, start: int, decoder: json.JSONDecoder, complete: list[dict[Any, Any]]
) -> int:
    """Where an object ends, or stops being one; fills `complete`.

    Reads growing pieces: an error of `json` takes time in proportion to the text it speaks of.
    """
    length = _FIRST_PIECE
    while True:
        piece = text[start : start + length]
        complete.clear()
        try:
            return start + decoder.raw_decode(piece)[1]
        except json.JSONDecodeError as error:
            is_cut = error.msg.startswith("Unterminated") or error.pos > length - _LONGEST_WORD
            if not is_cut or start + length >= len(text):
                return start + error.pos
        length *= 4


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


def _outermost_first(complete: list[dict[Any, Any]]) -> Iterator[dict[Any, Any]]:
    """Objects by their opening braces, from objects by their closing ones."""
    inside = {id(inner) for outer in complete for inner in _objects_in(outer)}
    waiting = [found for found in reversed(complete) if id(found) not in inside]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += reversed(list(_objects_in(found)))


def _objects_in(outer: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    """The objects that an object holds, alone or in lists, without those that these hold."""
    waiting = list(reversed(outer.values()))
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
        elif isinstance(value, list):
            waiting += reversed(value)


def _python_objects(text: str) -> Iterator[dict[Any, Any]]:
    for start, end in _balanced(text):
        try:
            found = ast.literal_eval(text[start:end])
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def _balanced(text: str) -> Iterator[tuple[int, int]]:
    """The pairs of braces around what may be a literal, by their opening braces."""
    opened: list[int] = []
    pairs: list[tuple[int, int]] = []
    for brace in re.finditer(r"[{}]", text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif opened:
            pairs.append((opened.pop(), brace.end()))
    around: list[int] = []
    for start, end in sorted(pairs):
        while around and around[-1] <= start:
            around.pop()
        if len(around) < _DEEPEST_LITERAL and end - start <= _LONGEST_LITERAL:
            yield start, end
        around.append(end)


def _step_skills(value: Any) -> dict[int, str]:
    skills: dict[int, str] = {}
    if isinstance(value, dict):
        for key, text in value.items():
            try:
                skills[int(str(key))] = str(text)
            except ValueError:
                continue
    return skills
