"""Reads the reply of an analyzing model: JSON wherever it stands, usual mistakes included."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from stepopsd_rllib.teachers.analysis.analyzer import AnalyzerFailure, EpisodeSkills

# How a missing value looks once it has been turned into text.
_NOTHING = ("", "none", "null")

_DECODER = json.JSONDecoder(strict=False)  # control characters are allowed inside strings


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
    objects = [found for candidate in candidates for found in _json_objects(candidate)]
    if not objects:
        objects = [found for candidate in candidates for found in _python_objects(candidate)]
    if not objects:
        return None
    chosen = next((found for found in objects if "episode_skill" in found), objects[0])
    return EpisodeSkills(
        episode_summary=str(chosen.get("episode_summary", "")),
        episode_skill=str(chosen.get("episode_skill", "")),
        step_skills=_step_skills(chosen.get("step_skills")),
    )


def has_episode_skill(skills: EpisodeSkills) -> bool:
    """Whether the episode skill says anything."""
    return skills.episode_skill.strip().lower() not in _NOTHING


def _candidates(text: str) -> Iterator[str]:
    fenced = re.findall(r"```[^\S\n]*\w*[^\S\n]*\n?(.*?)```", text, flags=re.DOTALL)
    for candidate in (*fenced, text):
        yield candidate
        without_trailing_commas = re.sub(r",(\s*[}\]])", r"\1", candidate)
        if without_trailing_commas != candidate:
            yield without_trailing_commas


def _json_objects(text: str) -> Iterator[dict[Any, Any]]:
    for brace in re.finditer(r"\{", text):
        try:
            found, _ = _DECODER.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        yield found


def _python_objects(text: str) -> Iterator[dict[Any, Any]]:
    for brace in re.finditer(r"\{", text):
        piece = _balanced(text, brace.start())
        try:
            found = ast.literal_eval(piece)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def _balanced(text: str, start: int) -> str:
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[start : start + brace.end()]
    return ""


def _step_skills(value: Any) -> dict[int, str]:
    skills: dict[int, str] = {}
    if isinstance(value, dict):
        for key, text in value.items():
            try:
                skills[int(str(key))] = str(text)
            except ValueError:
                continue
    return skills
