"""An ALFWorld problem, checked, its entities named and numbered.

Objects, receptacles and locations are numbered from 0 in the order of their lower-case ids, which is the
order in which the game lists them.
"""

from collections import Counter
from collections.abc import Iterable

from envs.alfworld.pddl_problem import GameError, PddlProblem, read_problem

_AGAIN = "Download or generate the file again."
_OBJECT_FLAGS = (
    *(
        "pickupable",
        "cleanable",
        "heatable",
        "coolable",
        "toggleable",
        "sliceable",
        "isreceptacleobject",
    ),
    *("isclean", "ishot", "iscool", "istoggled", "issliced"),
)
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
    **dict.fromkeys(_OBJECT_FLAGS, ("object",)),
}
"""Facts that a game may start with, and what their arguments are ("type": an otype or rtype)."""
_CONSTANTS = ("knifetype", "butterknifetype", "microwavetype", "fridgetype")
"""Types that every known domain names, besides those in which it cleans."""


class AlfredProblem:
    """The facts of a `pddl_problem` in numbers; raises GameError for one that ALFWorld does not write.

    Args:
        text: The `pddl_problem`.
        cleaning_types: Receptacle types in which the domain cleans.
    """

    def __init__(self, text: str, cleaning_types: Iterable[str]):
        problem = read_problem(text)
        _check_facts(problem, constants=(*_CONSTANTS, *cleaning_types))
        self._facts = problem.facts
        self._types = problem.types
        self.goal = problem.goal
        self._ids = sorted(
            {name for rows in problem.facts.values() for ids in rows for name in ids}
        )
        self._names = _entity_names(self._ids, problem.types)
        self._objects = self._numbered("object")
        self._receptacles = self._numbered("receptacle")
        self._locations = self._numbered("location")

    def object_names(self) -> tuple[str, ...]:
        return tuple(self._names[name] for name in self._objects)

    def receptacle_names(self) -> tuple[str, ...]:
        return tuple(self._names[name] for name in self._receptacles)

    def start_location(self) -> int:
        """The agent's location."""
        agents = [name for name, kind in self._types.items() if kind == "agent"]
        if len(agents) != 1:
            raise GameError(
                f"it declares {len(agents)} agents where every ALFWorld game has 1. {_AGAIN}"
            )
        return self._locations[self._only_value("atlocation", agents)[agents[0]]]

    def receptacle_locations(self) -> tuple[int, ...]:
        """Location of each receptacle."""
        locations = self._only_value("receptacleatlocation", self._receptacles)
        return tuple(self._locations[locations[name]] for name in self._receptacles)

    def receptacles_at(self) -> tuple[tuple[int, ...], ...]:
        """Receptacles at each location, ascending."""
        here: list[list[int]] = [[] for _ in self._locations]
        for receptacle, location in enumerate(self.receptacle_locations()):
            here[location].append(receptacle)
        return tuple(map(tuple, here))

    def object_locations(self) -> tuple[frozenset[int], ...]:
        """Locations of each object; often none or not that of the receptacle it is in."""
        locations: list[list[int]] = [[] for _ in self._objects]
        for name, location in self._facts.get("objectatlocation", ()):
            locations[self._objects[name]].append(self._locations[location])
        return tuple(map(frozenset, locations))

    def contents(self) -> tuple[tuple[int, ...], ...]:
        """Objects in each receptacle, ascending."""
        contents: list[list[int]] = [[] for _ in self._receptacles]
        for name, receptacle in self._facts.get("inreceptacle", ()):
            contents[self._receptacles[receptacle]].append(self._objects[name])
        return tuple(tuple(sorted(objects)) for objects in contents)

    def inner_objects(self) -> tuple[tuple[int, ...] | None, ...]:
        """What is inside each object, ascending; None if it is no receptacle object."""
        inner: list[list[int]] = [[] for _ in self._objects]
        for name, outer in self._facts.get("inreceptacleobject", ()):
            inner[self._objects[outer]].append(self._objects[name])
        can_hold = self.objects_with("isreceptacleobject")
        return tuple(
            tuple(sorted(inner[outer])) if outer in can_hold else None
            for outer in range(len(inner))
        )

    def accepted_objects(self) -> tuple[frozenset[int], ...]:
        """Objects that may be moved to each receptacle."""
        accepted_types: dict[str, list[str]] = {}
        for receptacle_type, object_type in self._facts.get("cancontain", ()):
            accepted_types.setdefault(receptacle_type, []).append(object_type)
        accepted = {type_: self.objects_of(*types) for type_, types in accepted_types.items()}
        accepted_by: list[frozenset[int]] = [frozenset()] * len(self._receptacles)
        for name, receptacle_type in self._facts.get("receptacletype", ()):
            accepted_by[self._receptacles[name]] |= accepted.get(receptacle_type, frozenset())
        return tuple(accepted_by)

    def objects_with(self, predicate: str) -> frozenset[int]:
        """Objects for which the one-place predicate is a fact."""
        return frozenset(self._objects[name] for (name,) in self._facts.get(predicate, ()))

    def receptacles_with(self, predicate: str) -> frozenset[int]:
        """Receptacles for which the one-place predicate is a fact."""
        return frozenset(self._receptacles[name] for (name,) in self._facts.get(predicate, ()))

    def objects_of(self, *types: str) -> frozenset[int]:
        """Objects of any of the types."""
        return frozenset(
            self._objects[name]
            for name, type_ in self._facts.get("objecttype", ())
            if type_ in types
        )

    def receptacles_of(self, *types: str) -> frozenset[int]:
        """Receptacles of any of the types."""
        rows = self._facts.get("receptacletype", ())
        return frozenset(self._receptacles[name] for name, type_ in rows if type_ in types)

    def _numbered(self, kind: str) -> dict[str, int]:
        return {
            name: i
            for i, name in enumerate(name for name in self._ids if self._types[name] == kind)
        }

    def _only_value(self, predicate: str, ids: Iterable[str]) -> dict[str, str]:
        values: dict[str, list[str]] = {name: [] for name in ids}
        for name, value in self._facts.get(predicate, ()):
            values[name].append(value)
        for name, found in values.items():
            if len(found) != 1:
                raise GameError(
                    f"`{name}` has {len(found)} `{predicate}` facts where every ALFWorld game has 1. {_AGAIN}"
                )
        return {name: value for name, (value,) in values.items()}


def _check_facts(problem: PddlProblem, constants: tuple[str, ...]) -> None:
    for name in constants:
        if name not in problem.types:
            raise GameError(
                f"pddl_problem does not declare `{name}`, which pddl_domain names, so TextWorld cannot play it. "
                f"Add `{name}` to :objects."
            )
    kinds = {
        name: "type" if kind in ("otype", "rtype") else kind for name, kind in problem.types.items()
    }
    for predicate, rows in problem.facts.items():
        expected = _START_FACTS.get(predicate)
        if expected is None:
            raise GameError(
                f"its :init holds `{predicate}`, with which no ALFWorld game starts and which the fast engine "
                'does not know. Use engine="textworld", or leave the game out.'
            )
        for ids in rows:
            if tuple(map(kinds.get, ids)) != expected:
                declared = ", ".join(
                    f"{name}: {problem.types.get(name, 'undeclared')}" for name in ids
                )
                raise GameError(
                    f"its :init holds `{predicate}` of ({declared}), which takes ({', '.join(expected)}). "
                    f"{_AGAIN}"
                )


def _entity_names(ids: list[str], types: dict[str, str]) -> dict[str, str]:
    """Names of the objects and receptacles, in the order of their ids.

    As alfworld's demangler gives them: class and number, the highest number to the first id of a class.
    "basin" anywhere in an id goes into the class.

    Args:
        ids: Sorted, those that occur in a fact; ids that are only declared do not count.
        types: Declared type of each.
    """
    classes: dict[str, str] = {}
    for name in ids:
        first, has_position, _ = name.partition("_bar_")
        if has_position:
            classes[name] = f"{first}basin" if "basin" in name else first
        elif types[name] in ("object", "receptacle"):
            raise GameError(
                f"the id `{name}` has no position (`{name}|x|y|z`), so ALFWorld cannot number it. "
                f"{_AGAIN}"
            )
    remaining = Counter(classes.values())
    names: dict[str, str] = {}
    for name, class_ in classes.items():
        if types[name] in ("object", "receptacle"):
            names[name] = f"{class_} {remaining[class_]}"
        remaining[class_] -= 1
    return names
