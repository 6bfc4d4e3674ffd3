"""Draws a household: one room, its receptacles and objects, and a goal that can be reached there.

Floor plans, what holds what and what can be heated come from the alfworld wheel (`wheel_facts`).
As in the official games, what is to be placed never starts where it belongs.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from stepopsd_envs.alfworld.game import TaskType
from stepopsd_envs.alfworld.rooms import FIXTURES, ROOM_WEIGHTS, scenes
from stepopsd_envs.alfworld.sizes import SIZE_SPECS, SizeSpec
from stepopsd_envs.alfworld.wheel_facts import SceneLayout, WheelFacts, scene_layout, wheel_facts

_Item = TypeVar("_Item")

LAMP = "DeskLamp"
APPLIANCES: dict[str, tuple[str, str]] = {
    "pick_clean_then_place_in_recep": ("Cleanable", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("Heatable", "Microwave"),
    "pick_cool_then_place_in_recep": ("Coolable", "Fridge"),
}
"""The property that the object needs, and the receptacle type that gives the wanted state."""

_LAMP_HOLDERS = ("CoffeeTable", "Desk", "Dresser", "Shelf", "SideTable")


@dataclass(frozen=True, kw_only=True, slots=True)
class Receptacle:
    """One receptacle: THOR id, type, and the location (x, z, rotation, horizon) before it."""

    id: str
    type: str
    location: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedObject:
    """One object: THOR id, type, and the receptacle that it starts in."""

    id: str
    type: str
    receptacle: Receptacle


@dataclass(frozen=True, kw_only=True, slots=True)
class Household:
    """A room with its goal; `goal_receptacle` is "" for look_at_obj_in_light."""

    task_type: TaskType
    scene: int
    goal_object: str
    goal_receptacle: str
    receptacles: tuple[Receptacle, ...]
    objects: tuple[PlacedObject, ...]
    start: tuple[int, int, int, int]


class NoSuchHousehold(Exception):
    """The room drawn cannot hold the task; draw again."""


def draw_household(
    rng: random.Random, task_type: TaskType, size: str, *, unseen: bool
) -> Household:
    """Draws a household in which the task can be done.

    Raises:
        NoSuchHousehold: The room drawn cannot hold the task; draw again with the same `rng`.
    """
    weights = ROOM_WEIGHTS[task_type]
    room = rng.choices(list(weights), list(weights.values()))[0]
    scene = rng.choice(scenes(room, unseen=unseen))
    draw = _Draw(rng, SIZE_SPECS[size], scene_layout(scene), wheel_facts(), room)
    goal_object, goal_receptacle = draw.goal(task_type)
    draw.require_for_goal(task_type, goal_object, goal_receptacle)
    draw.fill_receptacles()
    draw.fill_objects(goal_object)
    return Household(
        task_type=task_type,
        scene=scene,
        goal_object=goal_object,
        goal_receptacle=goal_receptacle,
        receptacles=tuple(draw.kept),
        objects=tuple(draw.objects),
        start=draw.free_location((0, 0, 0, 0)),
    )


class _Draw:
    """The choices made so far; every list is in an order that does not depend on hashing."""

    def __init__(
        self,
        rng: random.Random,
        spec: SizeSpec,
        layout: SceneLayout,
        facts: WheelFacts,
        room: str,
    ):
        self.rng, self.spec, self.layout, self.facts = rng, spec, layout, facts
        self.locations: set[tuple[int, int, int, int]] = set()
        self.ids: set[str] = set()
        self.room_receptacles = self._room_receptacles(room)
        self.kept: list[Receptacle] = []
        self.objects: list[PlacedObject] = []

    def goal(self, task_type: TaskType) -> tuple[str, str]:
        """Draws the goal's object and receptacle type ("" where none is needed)."""
        kinds = sorted({receptacle.type for receptacle in self.room_receptacles})
        candidates = set(self.layout.object_types)
        if task_type == "look_at_obj_in_light":
            sources = {name for kind in kinds for name in self.facts.holds.get(kind, ())}
            return self._choose(sorted(candidates & sources)), ""
        if task_type in APPLIANCES:
            ability, appliance = APPLIANCES[task_type]
            candidates &= set(self.facts.properties[ability])
            if appliance not in kinds:
                raise NoSuchHousehold
            goal_kinds = [kind for kind in kinds if kind != appliance]
        else:
            goal_kinds = kinds
        pairs = {
            kind: sorted(
                name
                for name in candidates & set(self.facts.holds.get(kind, ()))
                if any(name in self.facts.holds.get(other, ()) for other in kinds if other != kind)
            )
            for kind in goal_kinds
        }
        kind = self._choose([kind for kind in goal_kinds if pairs[kind]])
        return self._choose(pairs[kind]), kind

    def require_for_goal(self, task_type: TaskType, target: str, goal_receptacle: str) -> None:
        """Keeps goal receptacle, appliance and lamp, and places lamp and target objects."""
        if goal_receptacle:
            self._keep(self._choose(self._of_types((goal_receptacle,))))
        if task_type in APPLIANCES:
            self._keep(self._choose(self._of_types((APPLIANCES[task_type][1],))))
        if task_type == "look_at_obj_in_light":
            self._place(LAMP, self._choose(self._of_types(_LAMP_HOLDERS)))
        least, most = self.spec.target_copies
        more = int(task_type == "pick_two_obj_and_place")
        for _ in range(self.rng.randint(least + more, most + more)):
            homes = [
                receptacle
                for receptacle in self.room_receptacles
                if receptacle.type != goal_receptacle
                and target in self.facts.holds.get(receptacle.type, ())
                and self._has_room(receptacle)
            ]
            self._place(target, self._weighted_choice(homes))

    def fill_receptacles(self) -> None:
        """Keeps further receptacles up to the size, some closed ones first."""
        if self.spec.receptacles is None:
            for receptacle in self.room_receptacles:
                self._keep(receptacle)
            return
        number = self.rng.randint(*self.spec.receptacles)
        useful = [
            receptacle
            for receptacle in self.room_receptacles
            if not set(self.facts.holds[receptacle.type]).isdisjoint(self.layout.object_types)
        ]
        self.rng.shuffle(useful)
        is_closed = [receptacle.type in self.facts.openable for receptacle in useful]
        closed = [receptacle for receptacle, shut in zip(useful, is_closed, strict=True) if shut]
        for receptacle in closed[: self.spec.closed_receptacles] + useful:
            of_type = sum(kept.type == receptacle.type for kept in self.kept)
            if len(self.kept) < number and of_type < self.spec.copies_of_receptacle:
                self._keep(receptacle)

    def fill_objects(self, target: str) -> None:
        """Places objects of other types wherever they fit."""
        types = [name for name in self.layout.object_types if name != target]
        holdable = {name for kept in self.kept for name in self.facts.holds[kept.type]}
        types = [name for name in types if name in holdable]
        number = min(self.rng.randint(*self.spec.object_types), len(types))
        for name in self.rng.sample(types, number):
            for _ in range(self.rng.randint(*self.spec.copies)):
                homes = [
                    receptacle
                    for receptacle in self.kept
                    if name in self.facts.holds[receptacle.type] and self._has_room(receptacle)
                ]
                if homes:
                    self._place(name, self._weighted_choice(homes))

    def free_location(self, wanted: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Returns `wanted`, moved along x until nobody stands there, and takes it.

        In ALFWorld one cannot walk between two receptacles that share a location.
        """
        while wanted in self.locations:
            wanted = (wanted[0] + 1, *wanted[1:])
        self.locations.add(wanted)
        return wanted

    def _room_receptacles(self, room: str) -> list[Receptacle]:
        found = []
        for name, (x, z, rotation, horizon) in self.layout.poses.items():
            fields = name.split("|")
            kind = fields[4] if len(fields) > 4 else fields[0]
            if not kind.startswith(fields[0]):
                continue  # scene 420 has a bathtub of the type of a sink; games show its first name
            pose = (round(x / 0.25), round(z / 0.25), round(rotation / 90), round(horizon))
            found.append(Receptacle(id=name, type=kind, location=self.free_location(pose)))
        self.ids.update(receptacle.id for receptacle in found)
        present = {receptacle.type for receptacle in found}
        for kind in FIXTURES[room]:
            if kind not in present:
                pose = (self.rng.randint(-9, 9), self.rng.randint(-9, 9), self.rng.randrange(4), 30)
                location = self.free_location(pose)
                found.append(Receptacle(id=self._new_id(kind), type=kind, location=location))
        return [receptacle for receptacle in found if receptacle.type in self.facts.holds]

    def _new_id(self, kind: str) -> str:
        while True:
            x, y, z = self.rng.uniform(-3, 3), self.rng.uniform(0, 2), self.rng.uniform(-3, 3)
            name = f"{kind}|{x:+06.2f}|{y:+06.2f}|{z:+06.2f}"
            if name not in self.ids:
                self.ids.add(name)
                return name

    def _place(self, kind: str, receptacle: Receptacle) -> None:
        self._keep(receptacle)
        self.objects.append(PlacedObject(id=self._new_id(kind), type=kind, receptacle=receptacle))

    def _keep(self, receptacle: Receptacle) -> None:
        if receptacle not in self.kept:
            self.kept.append(receptacle)

    def _of_types(self, kinds: Sequence[str]) -> list[Receptacle]:
        return [receptacle for receptacle in self.room_receptacles if receptacle.type in kinds]

    def _has_room(self, receptacle: Receptacle) -> bool:
        inside = sum(placed.receptacle is receptacle for placed in self.objects)
        return inside < self.spec.objects_in_receptacle

    def _weighted_choice(self, homes: list[Receptacle]) -> Receptacle:
        kinds = sorted({receptacle.type for receptacle in homes})
        if not kinds:
            raise NoSuchHousehold
        weights = [1 if kind in self.facts.openable else self.spec.surface_weight for kind in kinds]
        kind = self.rng.choices(kinds, weights)[0]
        return self.rng.choice([receptacle for receptacle in homes if receptacle.type == kind])

    def _choose(self, items: Sequence[_Item]) -> _Item:
        if not items:
            raise NoSuchHousehold
        return self.rng.choice(items)
