"""What the installed alfworld wheel knows of households, read at run time and copied nowhere.

The files are read in place and alfworld itself is not imported: its import creates the folder
`$ALFWORLD_DATA` and exports that variable to the process.
"""

import functools
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class GoalTemplates:
    """How one task type states its goal.

    Attributes:
        pddl: Goal with `{obj}`, `{recep}` and `{toggle}` left open, and "#" for "-".
        sentences: Lower-case sentences with the same names left open.
    """

    pddl: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelFacts:
    """Households as alfworld knows them; every set comes as a sorted tuple.

    Attributes:
        domain: PDDL domain of all games.
        grammar: TextWorld grammar with the goal sentence left open.
        goals: Goal templates by task type.
        holds: Pickupable object types that a receptacle type may hold.
        properties: Object types by "Heatable", "Coolable", "Cleanable", "Toggleable", "Sliceable".
        openable: Types that open and close.
        movable_receptacles: Object types that may hold other objects.
    """

    domain: str
    grammar: str
    goals: dict[str, GoalTemplates]
    holds: dict[str, tuple[str, ...]]
    properties: dict[str, tuple[str, ...]]
    openable: tuple[str, ...]
    movable_receptacles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneLayout:
    """One floor plan.

    Attributes:
        poses: Agent pose (x and z in metres, rotation and horizon in degrees) by receptacle id.
        object_types: Types of the objects that belong there.
    """

    poses: dict[str, tuple[float, ...]]
    object_types: tuple[str, ...]


@functools.cache
def wheel_facts() -> WheelFacts:
    """Reads the facts from the installed alfworld wheel, once in a process."""
    constants: Any = _load_module("gen/constants.py")
    goal_library: Any = _load_module("gen/goal_library.py")
    goals = {
        task_type: GoalTemplates(pddl=goal["pddl"], sentences=tuple(goal["templates"]))
        for task_type, goal in goal_library.gdict.items()
    }
    return WheelFacts(
        domain=(_package_folder() / "data" / "alfred.pddl").read_text(encoding="utf-8"),
        grammar=(_package_folder() / "data" / "alfred.twl2").read_text(encoding="utf-8"),
        goals=goals,
        holds=_without_slices(constants.VAL_RECEPTACLE_OBJECTS),
        properties=_without_slices(constants.VAL_ACTION_OBJECTS),
        openable=tuple(sorted(constants.OPENABLE_CLASS_SET)),
        movable_receptacles=tuple(sorted(constants.MOVABLE_RECEPTACLES_SET)),
    )


@functools.cache
def scene_layout(scene: int) -> SceneLayout:
    """Reads the floor plan of a scene (1-30 kitchens, 201-230, 301-330, 401-430)."""
    folder = _package_folder() / "gen" / "layouts"
    poses = json.loads((folder / f"FloorPlan{scene}-openable.json").read_text(encoding="utf-8"))
    types = json.loads((folder / f"FloorPlan{scene}-objects.json").read_text(encoding="utf-8"))
    return SceneLayout(
        poses={name: tuple(pose) for name, pose in sorted(poses.items())},
        object_types=tuple(sorted(set(types))),
    )


def _without_slices(table: dict[str, set[str]]) -> dict[str, tuple[str, ...]]:
    return {
        key: tuple(sorted(name for name in names if not name.endswith("Sliced")))
        for key, names in sorted(table.items())
    }


@functools.cache
def _package_folder() -> Path:
    spec = importlib.util.find_spec("alfworld")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "Generated ALFWorld games need the alfworld package, which is not installed: it holds "
            "the rooms and the rules. Run `pip install --no-deps alfworld`."
        )
    return Path(spec.origin).parent


def _load_module(path: str) -> ModuleType:
    file = _package_folder() / path
    spec = importlib.util.spec_from_file_location(f"_alfworld_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"alfworld has no {path}: reinstall alfworld 0.4.2.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
