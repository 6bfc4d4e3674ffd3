"""Which rooms there are, which are kept for validation, and how often a task plays in each.

The numbers are those of the 3,553 official training games.
"""

_FIRST_SCENE = {"kitchen": 1, "living room": 201, "bedroom": 301, "bathroom": 401}
_SCENES_IN_ROOM = 30
_UNSEEN_SCENES = frozenset({9, 10, 29, 215, 219, 226, 308, 315, 325, 404, 424, 425})
"""The scenes in which no official training game plays, three of each room."""

ROOM_WEIGHTS: dict[str, dict[str, int]] = {
    "pick_and_place_simple": {"bathroom": 280, "bedroom": 251, "living room": 226, "kitchen": 92},
    "look_at_obj_in_light": {"bedroom": 286, "living room": 53},
    "pick_clean_then_place_in_recep": {"kitchen": 541, "bathroom": 167},
    "pick_heat_then_place_in_recep": {"kitchen": 1},
    "pick_cool_then_place_in_recep": {"kitchen": 1},
    "pick_two_obj_and_place": {
        "bedroom": 249,
        "bathroom": 248,
        "living room": 226,
        "kitchen": 131,
    },
}
"""Official training games by task type and room."""

FIXTURES = {
    "kitchen": ("CoffeeMachine", "GarbageCan", *["StoveBurner"] * 4, "Toaster"),
    "living room": ("GarbageCan",),
    "bedroom": ("GarbageCan",),
    "bathroom": (
        "GarbageCan",
        "HandTowelHolder",
        "Toilet",
        "ToiletPaperHanger",
        "TowelHolder",
    ),
}
"""Receptacles of official rooms that the wheel's floor plans leave out."""


def scenes(room: str, *, unseen: bool) -> tuple[int, ...]:
    """Returns the scenes of a room that are, or are not, kept for valid_unseen."""
    first = _FIRST_SCENE[room]
    every = range(first, first + _SCENES_IN_ROOM)
    return tuple(scene for scene in every if (scene in _UNSEEN_SCENES) == unseen)
