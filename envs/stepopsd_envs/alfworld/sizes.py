"""How large generated households are: tiny, small, and full like the official ones."""

from dataclasses import dataclass

SIZES = ("tiny", "small", "full")


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeSpec:
    """How large a household is; every pair is (least, most).

    Attributes:
        receptacles: Number of receptacles, or None for all that the room has.
        copies_of_receptacle: Most receptacles of one type.
        closed_receptacles: Receptacles to open that are kept if the room has them.
        object_types: Number of object types besides the goal's.
        copies: Objects of each such type.
        target_copies: Objects of the goal's type; one more if two are to be placed.
        objects_in_receptacle: Most objects that a receptacle starts with.
        surface_weight: How much likelier a kind of surface is to hold an object than a kind of
            closed container; official games have about 3. The goal of a tiny game would too
            seldom be hidden with that, since its rooms have few containers.
    """

    receptacles: tuple[int, int] | None
    copies_of_receptacle: int
    closed_receptacles: int
    object_types: tuple[int, int]
    copies: tuple[int, int]
    target_copies: tuple[int, int]
    objects_in_receptacle: int
    surface_weight: int


SIZE_SPECS: dict[str, SizeSpec] = {
    "tiny": SizeSpec(
        receptacles=(6, 8),
        copies_of_receptacle=2,
        closed_receptacles=2,
        object_types=(4, 5),
        copies=(1, 1),
        target_copies=(1, 1),
        objects_in_receptacle=2,
        surface_weight=1,
    ),
    "small": SizeSpec(
        receptacles=(9, 13),
        copies_of_receptacle=4,
        closed_receptacles=3,
        object_types=(7, 10),
        copies=(1, 2),
        target_copies=(1, 2),
        objects_in_receptacle=4,
        surface_weight=2,
    ),
    "full": SizeSpec(
        receptacles=None,
        copies_of_receptacle=30,
        closed_receptacles=0,
        object_types=(11, 22),
        copies=(1, 3),
        target_copies=(1, 3),
        objects_in_receptacle=12,
        surface_weight=3,
    ),
}
