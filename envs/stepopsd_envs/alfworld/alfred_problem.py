"""The `pddl_problem` of an ALFWorld game: checked, its entities named and numbered.

Objects, receptacles and locations are numbered from 0 in the order of their lower-case ids, which
is the order in which the game lists them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from stepopsd_envs.alfworld.pddl_problem import TRY_AGAIN, GameError, PddlProblem, read_problem

_START_FACTS: dict[str, tuple[str, ...]] = {
    "atlocation": ("agent", "location"),
    "receptacleatlocation": ("receptacle", "location"),
    "objectatlocation": ("object", "location"),
    "inreceptacle": ("object", "receptacle"),
    "inreceptacleobject": ("object", "object"),
    "receptacletype": ("receptacle", "type"),
    "objecttype": ("object", "type"),
    "cancontain": ("type", "type"),
    "openable": ("receptacle",),
    "opened": ("receptacle",),
    "isreceptacleobject": ("object",),
    "pickupable": ("object",),
    "cleanable": ("object",),
    "heatable": ("object",),
    "coolable": ("object",),
    "toggleable": ("object",),
    "sliceable": ("object",),
    "isclean": ("object",),
    "ishot": ("object",),
    "iscool": ("object",),
    "istoggled": ("object",),
    "issliced": ("object",),
}
"""Facts that a game may start with, and what their arguments are ("type": an otype or rtype)."""
_CONSTANTS = ("knifetype", "butterknifetype", "microwavetype", "fridgetype")
"""Types that every known domain names, besides those in which it cleans."""


class AlfredProblem:
    """The facts of a problem, in numbers."""

    def __init__(self, text: str, sink_types: Iterable[str]):
        """Reads and checks a problem.

        Args:
            text: The `pddl_problem`; GameError if it is damaged or not what ALFWorld writes.
            sink_types: Receptacle types in which the domain cleans.
        """
        problem = read_problem(text)
        _check_facts(problem, constants=(*_CONSTANTS, *sink_types))
        self._facts = problem.facts
        self.goal = problem.goal
        ids: dict[str, list[str]] = {"object": [], "receptacle": [], "location": [], "agent": []}
        for name in sorted({name for rows in self._facts.values() for row in rows for name in row}):
            ids.setdefault(problem.types[name], []).append(name)
        names = _entity_names(ids)
        self.object_names = tuple(names[name] for name in ids["object"])
        self.receptacle_names = tuple(names[name] for name in ids["receptacle"])
        self._objects = {name: number for number, name in enumerate(ids["object"])}
        self._receptacles = {name: number for number, name in enumerate(ids["receptacle"])}
        self._locations = {name: number for number, name in enumerate(ids["location"])}
        if len(ids["agent"]) != 1:
            raise GameError(f"its :init names {len(ids['agent'])} agents instead of 1. {TRY_AGAIN}")
        (self.start_location,) = self._only_locations("atlocation", ids["agent"])
        self.receptacle_locations = self._only_locations("receptacleatlocation", self._receptacles)

    def receptacles_at(self) -> tuple[tuple[int, ...], ...]:
        """Receptacles at each location, ascending."""
        here: list[list[int]] = [[] for _ in self._locations]
        for receptacle, location in enumerate(self.receptacle_locations):
            here[location].append(receptacle)
        return tuple(map(tuple, here))

    def object_locations(self) -> tuple[frozenset[int], ...]:
        """Locations of each object, often not that of the receptacle that it is in."""
        locations: list[list[int]] = [[] for _ in self._objects]
        for name, location in self._rows("objectatlocation"):
            locations[self._objects[name]].append(self._locations[location])
        return tuple(map(frozenset, locations))

    def contents(self) -> tuple[tuple[int, ...], ...]:
        """Objects in each receptacle, ascending."""
        contents: list[list[int]] = [[] for _ in self._receptacles]
        for name, receptacle in self._rows("inreceptacle"):
            contents[self._receptacles[receptacle]].append(self._objects[name])
        return tuple(tuple(sorted(objects)) for objects in contents)

    def inner_objects(self) -> tuple[tuple[int, ...] | None, ...]:
        """What is inside each object, ascending; None if it is no receptacle object."""
        inner: list[list[int]] = [[] for _ in self._objects]
        for name, outer in self._rows("inreceptacleobject"):
            inner[self._objects[outer]].append(self._objects[name])
        can_hold = self.objects_with("isreceptacleobject")
        return tuple(
            tuple(sorted(objects)) if outer in can_hold else None
            for outer, objects in enumerate(inner)
        )

    def accepted_objects(self) -> tuple[frozenset[int], ...]:
        """Objects that may be moved to each receptacle; receptacles of one type share the set."""
        accepted_types: dict[str, set[str]] = {}
        for receptacle_type, object_type in self._rows("cancontain"):
            accepted_types.setdefault(receptacle_type, set()).add(object_type)
        accepted = {type_: self.objects_of(*types) for type_, types in accepted_types.items()}
        accepted_by = [frozenset[int]()] * len(self._receptacles)
        for name, type_ in self._rows("receptacletype"):
            accepted_by[self._receptacles[name]] |= accepted.get(type_, frozenset())
        shared = {objects: objects for objects in accepted_by}
        return tuple(shared[objects] for objects in accepted_by)

    def objects_with(self, predicate: str) -> frozenset[int]:
        """Objects for which the one-place predicate is a fact."""
        return frozenset(self._objects[name] for (name,) in self._rows(predicate))

    def receptacles_with(self, predicate: str) -> frozenset[int]:
        """Receptacles for which the one-place predicate is a fact."""
        return frozenset(self._receptacles[name] for (name,) in self._rows(predicate))

    def objects_of(self, *types: str) -> frozenset[int]:
        """Objects of any of the types."""
        rows = self._rows("objecttype")
        return frozenset(self._objects[name] for name, type_ in rows if type_ in types)

    def receptacles_of(self, *types: str) -> frozenset[int]:
        """Receptacles of any of the types."""
        rows = self._rows("receptacletype")
        return frozenset(self._receptacles[name] for name, type_ in rows if type_ in types)

    def _rows(self, predicate: str) -> Iterable[tuple[str, ...]]:
        return self._facts.get(predicate, ())

    def _only_locations(self, predicate: str, ids: Iterable[str]) -> tuple[int, ...]:
        locations: dict[str, list[int]] = {name: [] for name in ids}
        for name, location in self._rows(predicate):
            locations[name].append(self._locations[location])
        for name, found in locations.items():
            if len(found) != 1:
                raise GameError(
                    f"its :init has {len(found)} facts `{predicate}` of `{name}` instead of 1. "
                    f"{TRY_AGAIN}"
                )
        return tuple(location for (location,) in locations.values())


def _check_facts(problem: PddlProblem, *, constants: Iterable[str]) -> None:
    for name in constants:
        if name not in problem.types:
            raise GameError(
                f"its :objects lack `{name}`, which pddl_domain names, so TextWorld could not play "
                f"it. {TRY_AGAIN}"
            )
    kinds = problem.types | {
        name: "type" for name, kind in problem.types.items() if kind in ("otype", "rtype")
    }
    for predicate, rows in problem.facts.items():
        expected = _START_FACTS.get(predicate)
        if expected is None:
            raise GameError(
                f"its :init holds a fact `{predicate}`, with which no ALFWorld game starts and "
                'which the fast engine does not know. Use engine="textworld", or leave it out.'
            )
        for row in rows:
            if tuple(map(kinds.get, row)) != expected:
                found = ", ".join(
                    f"{name}: {problem.types.get(name, 'undeclared')}" for name in row
                )
                raise GameError(
                    f"its :init holds `{predicate}` of ({found}), which takes "
                    f"({', '.join(expected)}). {TRY_AGAIN}"
                )


def _entity_names(ids: Mapping[str, list[str]]) -> dict[str, str]:
    """Names of the objects and receptacles as alfworld's demangler gives them.

    A name is a class and a number; the first id of a class gets the highest number. "basin"
    anywhere in an id belongs to the class.

    Args:
        ids: By type, all ids that occur in a fact. An id that is only declared does not count.
    """
    classes: dict[str, str] = {}
    for kind, names in ids.items():
        for name in names:
            class_, has_position, _ = name.partition("_bar_")
            if has_position:
                classes[name] = f"{class_}basin" if "basin" in name else class_
            elif kind in ("object", "receptacle"):
                raise GameError(
                    f"`{name}` has no position in its id (Type|x|y|z), so that ALFWorld would not "
                    f"number it. {TRY_AGAIN}"
                )
    remaining = Counter(classes.values())
    numbered: dict[str, str] = {}
    for name in sorted(classes):
        numbered[name] = f"{classes[name]} {remaining[classes[name]]}"
        remaining[classes[name]] -= 1
    return numbered
