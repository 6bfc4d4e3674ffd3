"""The PDDL domains, text grammars and goals that the fast engine knows, recognised by content."""

import hashlib
import re
from functools import lru_cache
from typing import Literal, TypeAlias

from stepopsd_envs.alfworld.pddl_problem import GameError

TaskType: TypeAlias = Literal[
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
]
"""The six task types of ALFWorld (arXiv:2010.03768), under the names of the data set."""

_SINK_TYPES = {
    # published games
    "54e29bce2933d7dc48c8665e02d86add1d4600082641fbf91807eeb151cb08fa": (
        "sinktype",
        "sinkbasintype",
    ),
    # alfworld 0.4 and 0.5
    "da18d44ab1bcf831f61e90b88a99ad5766d8bbb562b6f87839b4b6ace4f796fe": ("sinkbasintype",),
}
"""SHA-256 of the known domains, comments and layout taken out, to the receptacle types in which
they clean; in nothing else do they differ."""
_GRAMMARS = {
    "3701c3eb2ed4687e46084f311fd52308c240fd61b76e4ca2a13da6a54079a733",  # published games
    "a3f0018f7eeb99d9445114c7830a361c528315a01ad6007f514ccb4aae198f59",  # alfworld 0.4 and 0.5
}
"""SHA-256 of the known grammars, goal sentence taken out. They tell the same texts."""

_TASK = '"Your task is to: '
_NO_GOAL = "UNKNOWN GOAL."
"""Stands in alfworld's grammar where a game has its goal sentence."""
_GRAMMAR_CHARACTERS = re.compile(r'[\\#{}\[\]|"]')
"""TextWorld would not print them, but read them as grammar."""
_PUT_COMMAND = "in/on {r}"
"""Part of the commands of games made before alfworld 0.4."""

_GOALS: dict[TaskType, str] = {
    "pick_and_place_simple": (
        "(and (exists (?r - receptacle) (exists (?o - object) (and (inreceptacle ?o ?r)"
        " (objecttype ?o OBJECT) (receptacletype ?r RECEPTACLE)))))"
    ),
    "look_at_obj_in_light": (
        "(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location)"
        " (and (objecttype ?ot LAMP) (toggleable ?ot) (istoggled ?ot) (receptacleatlocation ?r ?l)"
        " (atlocation ?a ?l) (inreceptacle ?ot ?r)))"
        " (exists (?o - object ?a - agent) (and (objecttype ?o OBJECT) (holds ?a ?o))))"
    ),
    "pick_clean_then_place_in_recep": (
        "(and (exists (?r - receptacle) (exists (?o - object) (and (cleanable ?o)"
        " (objecttype ?o OBJECT) (receptacletype ?r RECEPTACLE) (isclean ?o)"
        " (inreceptacle ?o ?r)))))"
    ),
    "pick_heat_then_place_in_recep": (
        "(and (exists (?r - receptacle) (exists (?o - object) (and (heatable ?o)"
        " (objecttype ?o OBJECT) (receptacletype ?r RECEPTACLE) (ishot ?o)"
        " (inreceptacle ?o ?r)))))"
    ),
    "pick_cool_then_place_in_recep": (
        "(and (exists (?r - receptacle) (exists (?o - object) (and (coolable ?o)"
        " (objecttype ?o OBJECT) (receptacletype ?r RECEPTACLE) (iscool ?o)"
        " (inreceptacle ?o ?r)))))"
    ),
    "pick_two_obj_and_place": (
        "(and (exists (?r - receptacle) (exists (?o1 - object) (and (objecttype ?o1 OBJECT)"
        " (receptacletype ?r RECEPTACLE) (inreceptacle ?o1 ?r) (exists (?o2 - object)"
        " (and (not (= ?o1 ?o2)) (objecttype ?o2 OBJECT) (receptacletype ?r RECEPTACLE)"
        " (inreceptacle ?o2 ?r)))))))"
    ),
}
"""What alfworld's `goal_library` makes of each task type, in lower case and single blanks."""


def sink_types(domain: str) -> tuple[str, ...]:
    """Returns the receptacle types in which this PDDL domain cleans; refuses an unknown domain."""
    types = _SINK_TYPES.get(_domain_digest(domain))
    if types is None:
        raise GameError(
            "pddl_domain is neither that of the published games nor that of alfworld 0.4 and 0.5, "
            'so the fast engine does not know its rules. Use engine="textworld", or generate the '
            "game with alfworld >= 0.4."
        )
    return types


def goal_sentence(grammar: str) -> str:
    """Returns the goal sentence, full stop included, of a known grammar; refuses any other."""
    before, task, behind = grammar.partition(_TASK)
    sentence, _, after = behind.partition('"')
    if _grammar_digest(f'{before}{task}{_NO_GOAL}"{after}') not in _GRAMMARS:
        if _PUT_COMMAND in grammar:
            raise GameError(
                'grammar is that of alfworld < 0.4 ("put X in/on R", now "move X to R"). Get the '
                "games that `alfworld-download` of alfworld >= 0.4 fetches."
            )
        raise GameError(
            "grammar is neither that of the published games nor that of alfworld 0.4 and 0.5, so "
            'the fast engine does not know its texts. Use engine="textworld", or generate the '
            "game with alfworld >= 0.4."
        )
    if not sentence.strip(" .") or sentence == _NO_GOAL or _GRAMMAR_CHARACTERS.search(sentence):
        raise GameError(
            f"grammar has the goal sentence {sentence!r}, which is empty, a placeholder or not "
            "plain text. Generate the game again with a sentence for its goal."
        )
    return sentence


def parse_goal(goal: str) -> tuple[TaskType, dict[str, str]]:
    """Returns the task type of a goal, and the `object`, `receptacle` and `lamp` types it names."""
    for task_type, pattern in _goal_patterns().items():
        if match := pattern.fullmatch(goal):
            return task_type, match.groupdict()
    raise GameError(
        f"its :goal `{goal[:200]}` belongs to none of ALFWorld's six task types "
        f'({", ".join(_GOALS)}). Use engine="textworld", or leave the game out.'
    )


@lru_cache(maxsize=1)
def _goal_patterns() -> dict[TaskType, re.Pattern[str]]:
    patterns: dict[TaskType, re.Pattern[str]] = {}
    for task_type, goal in _GOALS.items():
        pattern = re.escape(goal)
        for name in ("object", "receptacle", "lamp"):
            pattern = pattern.replace(name.upper(), rf"(?P<{name}>\w+)", 1)
            pattern = pattern.replace(name.upper(), f"(?P={name})")
        patterns[task_type] = re.compile(pattern)
    return patterns


# A data set repeats the same two texts in every file.
@lru_cache(maxsize=8)
def _domain_digest(domain: str) -> str:
    return _digest(" ".join(re.sub(r";[^\n]*", "", domain).lower().split()))


@lru_cache(maxsize=8)
def _grammar_digest(grammar: str) -> str:
    return _digest("\n".join(line.rstrip() for line in grammar.splitlines()).strip())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
