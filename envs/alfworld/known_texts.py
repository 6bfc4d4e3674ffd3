"""The PDDL domains, text grammars and goals that the fast engine knows, recognised by their content."""

import hashlib
import re
from functools import lru_cache
from typing import Literal, TypeAlias

from envs.alfworld.pddl_problem import GameError

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
    "54e29bce2933d7dc48c8665e02d86add1d4600082641fbf91807eeb151cb08fa": (
        "sinktype",
        "sinkbasintype",
    ),
    "da18d44ab1bcf831f61e90b88a99ad5766d8bbb562b6f87839b4b6ace4f796fe": ("sinkbasintype",),
}
"""SHA-256 of the known domains without comments and layout (published games; alfworld 0.4 and 0.5 wheels)
-> receptacle types that clean, the one thing in which they differ."""
_GRAMMARS = {
    "3701c3eb2ed4687e46084f311fd52308c240fd61b76e4ca2a13da6a54079a733",
    "a3f0018f7eeb99d9445114c7830a361c528315a01ad6007f514ccb4aae198f59",
}
"""SHA-256 of the known grammars (published games; alfworld 0.4 and 0.5 wheels) without their goal sentence."""

# A sentence with other characters would be read as grammar by TextWorld.
_GOAL_SENTENCE = re.compile(r'(?<="Your task is to: )[^"\\#{}\[\]|]*(?=")')
_NO_GOAL = "UNKNOWN GOAL."
"""Stands in alfworld's grammar file where a game has its goal sentence."""
_OLD_PUT_COMMAND = "in/on {r}"

_PLACE_GOAL = (
    r"\(and \(exists \(\?r - receptacle\) \(exists \(\?o - object\) \(and BEFORE"
    r"\(objecttype \?o (?P<object>\w+)\) \(receptacletype \?r (?P<receptacle>\w+)\)AFTER\)\)\)\)"
)
_STATE_GOAL = _PLACE_GOAL.replace("BEFORE", r"\(ABLE \?o\) ").replace(
    "AFTER", r" \(STATE \?o\) \(inreceptacle \?o \?r\)"
)
_GOALS: dict[TaskType, str] = {
    "pick_and_place_simple": _PLACE_GOAL.replace("BEFORE", r"\(inreceptacle \?o \?r\) ").replace(
        "AFTER", ""
    ),
    "look_at_obj_in_light": (
        r"\(and \(exists \(\?ot - object \?r - receptacle \?a - agent \?l - location\) \(and "
        r"\(objecttype \?ot (?P<lamp>\w+)\) \(toggleable \?ot\) \(istoggled \?ot\) "
        r"\(receptacleatlocation \?r \?l\) \(atlocation \?a \?l\) \(inreceptacle \?ot \?r\)\)\) "
        r"\(exists \(\?o - object \?a - agent\) \(and \(objecttype \?o (?P<object>\w+)\) \(holds \?a \?o\)\)\)\)"
    ),
    "pick_clean_then_place_in_recep": _STATE_GOAL.replace("ABLE", "cleanable").replace(
        "STATE", "isclean"
    ),
    "pick_heat_then_place_in_recep": _STATE_GOAL.replace("ABLE", "heatable").replace(
        "STATE", "ishot"
    ),
    "pick_cool_then_place_in_recep": _STATE_GOAL.replace("ABLE", "coolable").replace(
        "STATE", "iscool"
    ),
    "pick_two_obj_and_place": (
        r"\(and \(exists \(\?r - receptacle\) \(exists \(\?o1 - object\) \(and "
        r"\(objecttype \?o1 (?P<object>\w+)\) \(receptacletype \?r (?P<receptacle>\w+)\) \(inreceptacle \?o1 \?r\) "
        r"\(exists \(\?o2 - object\) \(and \(not \(= \?o1 \?o2\)\) "
        r"\(objecttype \?o2 (?P=object)\) \(receptacletype \?r (?P=receptacle)\) "
        r"\(inreceptacle \?o2 \?r\)\)\)\)\)\)\)"
    ),
}
"""The goal of each task type as alfworld's `goal_library` writes it, in lower case and single blanks."""


@lru_cache(maxsize=8)
def sink_types(domain: str) -> tuple[str, ...]:
    """Returns the receptacle types in which this PDDL domain cleans; refuses an unknown domain."""
    code = " ".join(re.sub(r";[^\n]*", "", domain).lower().split())
    try:
        return _SINK_TYPES[hashlib.sha256(code.encode()).hexdigest()]
    except KeyError:
        raise GameError(
            "pddl_domain is neither that of the published games nor that of alfworld 0.4 and 0.5, so its rules "
            'are unknown to the fast engine. Use engine="textworld", or generate the game with alfworld >= 0.4.'
        ) from None


def goal_sentence(grammar: str) -> str:
    """Returns the goal sentence in a text grammar, full stop included; refuses an unknown grammar."""
    sentences = _GOAL_SENTENCE.findall(grammar)
    if len(sentences) == 1:
        (sentence,) = sentences
        if _is_known_grammar(
            grammar.replace(f'"Your task is to: {sentence}"', f'"Your task is to: {_NO_GOAL}"')
        ):
            if not sentence.strip() or sentence == _NO_GOAL:
                raise GameError(
                    f"its goal sentence is {sentence!r}: none was filled in. Generate the game again with alfworld."
                )
            return sentence
    if _OLD_PUT_COMMAND in grammar:
        raise GameError(
            'grammar is that of alfworld < 0.4 ("put X in/on R" in place of "move X to R"). Get current games '
            "with `alfworld-download` of alfworld >= 0.4."
        )
    raise GameError(
        "grammar is neither that of the published games nor that of alfworld 0.4 and 0.5, so its texts are "
        'unknown to the fast engine. Use engine="textworld", or generate the game with alfworld >= 0.4.'
    )


def parse_goal(goal: str) -> tuple[TaskType, dict[str, str]]:
    """Returns the task type of a goal expression and the types (`object`, `receptacle`, `lamp`) it names."""
    for task_type, pattern in _GOALS.items():
        if match := re.fullmatch(pattern, goal):
            return task_type, match.groupdict()
    raise GameError(
        f"its :goal `{goal[:200]}` is none of ALFWorld's six task types ({', '.join(_GOALS)}). "
        'Use engine="textworld", or leave the game out.'
    )


@lru_cache(maxsize=8)
def _is_known_grammar(grammar: str) -> bool:
    code = "\n".join(line.rstrip() for line in grammar.splitlines()).strip()
    return hashlib.sha256(code.encode()).hexdigest() in _GRAMMARS
