"""One text game of ALFWorld (https://github.com/alfworld/alfworld), parsed once for all its copies.

Objects, receptacles and locations are numbered from 0 in the order of their lower-case ids, which
is the order in which the game lists them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepopsd_envs.alfworld.alfred_problem import AlfredProblem
from stepopsd_envs.alfworld.known_texts import TaskType, goal_sentence, parse_goal, sink_types
from stepopsd_envs.alfworld.pddl_problem import TRY_AGAIN, GameError
from stepopsd_envs.text_files import read_json

_ABILITIES = {
    "pick_clean_then_place_in_recep": "cleanable",
    "pick_heat_then_place_in_recep": "heatable",
    "pick_cool_then_place_in_recep": "coolable",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What counts towards winning; the task type says how."""

    objects: frozenset[int]
    """Objects of the goal's type, and cleanable, heatable or coolable if the task asks for it."""
    receptacles: frozenset[int]
    """Receptacles of the goal's type; empty for look_at_obj_in_light."""
    lamps: frozenset[int]
    """Lamps of the goal's type that are toggleable; empty but for look_at_obj_in_light."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Game:
    """What no action changes, and the state that a reset restores. Immutable and picklable."""

    source: str
    """Where the game came from, usually its path."""
    task_type: TaskType
    goal_sentence: str
    """The sentence as in the observation after "Your task is to: ", full stop included."""
    intro: str
    """The whole first observation."""
    walkthrough: tuple[str, ...] | None
    """Commands that win the game, if the file has them."""

    object_names: tuple[str, ...]
    receptacle_names: tuple[str, ...]
    receptacle_locations: tuple[int, ...]
    receptacles_at: tuple[tuple[int, ...], ...]
    """Per location."""
    accepted_objects: tuple[frozenset[int], ...]
    """Per receptacle, the objects that may be moved to it."""
    inner_objects: tuple[tuple[int, ...] | None, ...]
    """Per object, what is inside it; None if it is no receptacle object."""
    openable: frozenset[int]
    sinks: frozenset[int]
    microwaves: frozenset[int]
    fridges: frozenset[int]
    pickupable: frozenset[int]
    cleanable: frozenset[int]
    heatable: frozenset[int]
    coolable: frozenset[int]
    toggleable: frozenset[int]
    sliceable: frozenset[int]
    knives: frozenset[int]
    goal: Goal

    start_location: int
    start_contents: tuple[tuple[int, ...], ...]
    """Per receptacle, ascending. An object may be in several receptacles at once."""
    start_object_locations: tuple[frozenset[int], ...]
    """Per object."""
    start_opened: frozenset[int]
    start_clean: frozenset[int]
    start_hot: frozenset[int]
    start_cool: frozenset[int]
    start_toggled: frozenset[int]
    start_sliced: frozenset[int]


def load_game(path: str | Path) -> Game:
    """Reads a `game.tw-pddl`; raises GameError if it is damaged or not of a known kind."""
    return parse_game(read_game_file(path), str(path))


def read_game_file(path: str | Path) -> dict[str, Any]:
    """Decodes a `game.tw-pddl` and checks its form, not its texts; raises GameError."""
    data = read_json(path, GameError)
    try:
        _check_form(data)
    except GameError as error:
        raise GameError(f"{path}: {error}") from None
    return data


def parse_game(data: Mapping[str, Any], source: str) -> Game:
    """Builds a game from the content of a `game.tw-pddl`; raises GameError like `load_game`.

    Args:
        data: The texts `pddl_domain`, `grammar` and `pddl_problem`; optional `solvable` (bool) and
            `walkthrough` (commands), null or absent if alfworld did not compute them.
        source: Names the game in error messages, usually its path.
    """
    try:
        _check_form(data)
        return _game(data, source)
    except GameError as error:
        raise GameError(f"{source}: {error}") from None


def enumerated(items: Sequence[str]) -> str:
    """Joins as the game does: "a cup 3, a cup 2, and a cup 1", or "nothing"."""
    if len(items) < 2:
        return items[0] if items else "nothing"
    return f"{', '.join(items[:-1])}, and {items[-1]}"


def _game(data: Mapping[str, Any], source: str) -> Game:
    sentence = goal_sentence(data["grammar"])
    cleaning = sink_types(data["pddl_domain"])
    problem = AlfredProblem(data["pddl_problem"], cleaning)
    task_type, goal_types = parse_goal(problem.goal)
    walkthrough = data.get("walkthrough")
    receptacles_at = problem.receptacles_at()
    return Game(
        source=source,
        task_type=task_type,
        goal_sentence=sentence,
        intro=_intro(sentence, receptacles_at[problem.start_location], problem.receptacle_names),
        walkthrough=None if walkthrough is None else tuple(walkthrough),
        object_names=problem.object_names,
        receptacle_names=problem.receptacle_names,
        receptacle_locations=problem.receptacle_locations,
        receptacles_at=receptacles_at,
        accepted_objects=problem.accepted_objects(),
        inner_objects=problem.inner_objects(),
        openable=problem.receptacles_with("openable"),
        sinks=problem.receptacles_of(*cleaning),
        microwaves=problem.receptacles_of("microwavetype"),
        fridges=problem.receptacles_of("fridgetype"),
        pickupable=problem.objects_with("pickupable"),
        cleanable=problem.objects_with("cleanable"),
        heatable=problem.objects_with("heatable"),
        coolable=problem.objects_with("coolable"),
        toggleable=problem.objects_with("toggleable"),
        sliceable=problem.objects_with("sliceable"),
        knives=problem.objects_of("knifetype", "butterknifetype"),
        goal=_goal(problem, task_type, goal_types),
        start_location=problem.start_location,
        start_contents=problem.contents(),
        start_object_locations=problem.object_locations(),
        start_opened=problem.receptacles_with("opened"),
        start_clean=problem.objects_with("isclean"),
        start_hot=problem.objects_with("ishot"),
        start_cool=problem.objects_with("iscool"),
        start_toggled=problem.objects_with("istoggled"),
        start_sliced=problem.objects_with("issliced"),
    )


def _goal(problem: AlfredProblem, task_type: TaskType, types: Mapping[str, str]) -> Goal:
    objects = problem.objects_of(types["object"])
    if task_type in _ABILITIES:
        objects &= problem.objects_with(_ABILITIES[task_type])
    receptacles = lamps = frozenset[int]()
    if task_type == "look_at_obj_in_light":
        lamps = problem.objects_of(types["lamp"]) & problem.objects_with("toggleable")
    else:
        receptacles = problem.receptacles_of(types["receptacle"])
    if not objects or not (receptacles or lamps):
        raise GameError(
            f"it can never be won: it lacks a {' or a '.join(types.values())} that its goal needs. "
            "Leave it out or generate another game."
        )
    return Goal(objects=objects, receptacles=receptacles, lamps=lamps)


def _intro(sentence: str, here: Sequence[int], receptacle_names: Sequence[str]) -> str:
    if here:
        facing = enumerated([receptacle_names[receptacle] for receptacle in here])
        view = f"You are facing the {facing}. Next to it, you see nothing."
    else:
        everything = enumerated([f"a {name}" for name in receptacle_names])
        view = f"You are in the middle of a room. Looking quickly around you, you see {everything}."
    return f"-= Welcome to TextWorld, ALFRED! =-\n\n{view}\n\nYour task is to: {sentence}"


def _check_form(data: Any) -> None:
    if not isinstance(data, Mapping):
        raise GameError(f"holds a {type(data).__name__} in place of a JSON object. {TRY_AGAIN}")
    for key in ("pddl_domain", "grammar", "pddl_problem"):
        if not isinstance(data.get(key), str):
            raise GameError(f"{key}={data.get(key)!s:.40} is no text. {TRY_AGAIN}")
    walkthrough = data.get("walkthrough")
    if walkthrough is not None and not (
        isinstance(walkthrough, list) and all(isinstance(command, str) for command in walkthrough)
    ):
        raise GameError(f"walkthrough={walkthrough!s:.40} is no list of commands. {TRY_AGAIN}")
    if data.get("solvable") is False:
        raise GameError(
            "solvable=false: no episode could be won. Leave it out or generate another game."
        )
