"""Writes a household as the text of an official game, and names things as the game will.

The facts that a game needs, and the ids, are those that the 3,827 official games use.
"""

import random
from collections.abc import Iterable
from typing import Any

from stepopsd_envs.alfworld.household import LAMP, Household
from stepopsd_envs.alfworld.wheel_facts import wheel_facts

_TYPES_NAMED_BY_DOMAIN = {
    "otype": ("ButterKnife", "Knife"),
    "rtype": ("Fridge", "Microwave", "SinkBasin"),
}
"""Types that the domain's actions mention, so that every problem must declare them."""

_MANGLED = {"-": "_minus_", "|": "_bar_", "+": "_plus_", ".": "_dot_"}
_GOAL_PLACEHOLDER = "UNKNOWN GOAL"


def goal_sentence(household: Household, rng: random.Random) -> str:
    """Draws one of the sentences that alfworld has for the task, in lower case, with no stop."""
    template = rng.choice(wheel_facts().goals[household.task_type].sentences)
    return template.format(
        obj=household.goal_object.lower(),
        recep=household.goal_receptacle.lower(),
        toggle=LAMP.lower(),
    )


def display_names(household: Household) -> dict[str, str]:
    """Returns the name that the game shows, by THOR id.

    Things of one type are numbered in the order of their mangled ids, from the highest down.
    """
    by_type: dict[str, list[str]] = {}
    for thing in (*household.receptacles, *household.objects):
        by_type.setdefault(thing.type, []).append(thing.id)
    names = {}
    for kind, ids in by_type.items():
        for place, name in enumerate(sorted(ids, key=lambda name: _mangle(name).lower())):
            names[name] = f"{kind.lower()} {len(ids) - place}"
    return names


def game_data(household: Household, sentence: str, *, trial: str) -> dict[str, Any]:
    """Returns the content of `game.tw-pddl` without its walkthrough.

    Args:
        household: What the game is about.
        sentence: The goal as the player reads it, with no stop.
        trial: Name of the trial folder, which names the problem.
    """
    facts = wheel_facts()
    return {
        "pddl_domain": facts.domain,
        "grammar": facts.grammar.replace(_GOAL_PLACEHOLDER, sentence),
        "pddl_problem": _problem(household, trial),
        "solvable": True,
    }


def trajectory_data(household: Household, sentence: str, *, trial: str) -> dict[str, Any]:
    """Returns the content of `traj_data.json`: what alfworld reads of ALFRED's annotation."""
    is_look = household.task_type == "look_at_obj_in_light"
    return {
        "task_id": trial,
        "task_type": household.task_type,
        "pddl_params": {
            "object_target": household.goal_object,
            "parent_target": household.goal_receptacle,
            "toggle_target": LAMP if is_look else "",
            "mrecep_target": "",
            "object_sliced": False,
        },
        "scene": {
            "floor_plan": f"FloorPlan{household.scene}",
            "scene_num": household.scene,
        },
        "turk_annotations": {"anns": [{"task_desc": f"{sentence.capitalize()}."}]},
    }


def _problem(household: Household, trial: str) -> str:
    declared = "\n        ".join(_declarations(household))
    facts = "\n        ".join(f"({fact})" for fact in _facts(household))
    goal = wheel_facts().goals[household.task_type].pddl.replace("#", "-")
    goal = goal.format(obj=household.goal_object, recep=household.goal_receptacle, toggle=LAMP)
    return (
        f"\n(define (problem plan_{trial})\n    (:domain alfred)\n    (:objects\n"
        f"        {declared}\n    )\n    (:init\n        {facts}\n    )\n{goal}"
    )


def _declarations(household: Household) -> Iterable[str]:
    object_types = {placed.type for placed in household.objects}
    receptacle_types = {receptacle.type for receptacle in household.receptacles}
    locations = {household.start, *(receptacle.location for receptacle in household.receptacles)}
    yield "agent1 - agent"
    for kind in sorted(object_types.union(_TYPES_NAMED_BY_DOMAIN["otype"])):
        yield f"{kind}Type - otype"
    for kind in sorted(receptacle_types.union(_TYPES_NAMED_BY_DOMAIN["rtype"])):
        yield f"{kind}Type - rtype"
    for placed in household.objects:
        yield f"{_mangle(placed.id)} - object"
    for receptacle in household.receptacles:
        yield f"{_mangle(receptacle.id)} - receptacle"
    for location in sorted(locations):
        yield f"{_location(location)} - location"


def _facts(household: Household) -> Iterable[str]:
    facts = wheel_facts()
    object_types = sorted({placed.type for placed in household.objects})
    for receptacle in household.receptacles:
        name = _mangle(receptacle.id)
        yield f"receptacleType {name} {receptacle.type}Type"
        yield f"receptacleAtLocation {name} {_location(receptacle.location)}"
        if receptacle.type in facts.openable:
            yield f"openable {name}"
    for kind in sorted({receptacle.type for receptacle in household.receptacles}):
        for name in object_types:
            if name in facts.holds[kind]:
                yield f"canContain {kind}Type {name}Type"
    for placed in household.objects:
        name = _mangle(placed.id)
        yield f"objectType {name} {placed.type}Type"
        yield f"inReceptacle {name} {_mangle(placed.receptacle.id)}"
        yield f"objectAtLocation {name} {_location(placed.receptacle.location)}"
        if placed.type != LAMP:
            yield f"pickupable {name}"
        if placed.type in facts.movable_receptacles:
            yield f"isReceptacleObject {name}"
        for ability, types in facts.properties.items():
            if placed.type in types:
                yield f"{ability.lower()} {name}"
    yield f"atLocation agent1 {_location(household.start)}"


def _mangle(name: str) -> str:
    for sign, word in _MANGLED.items():
        name = name.replace(sign, word)
    return name


def _location(location: tuple[int, int, int, int]) -> str:
    return _mangle("|".join(("loc", *map(str, location))))
