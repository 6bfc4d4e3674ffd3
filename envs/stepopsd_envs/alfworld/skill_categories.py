"""Which skills an ALFWorld task gets: by its type."""

# Substring of the task -> category, first match wins. The order, and the shared texts of the first
# two types, follow SDAR's code.
CATEGORIES = {
    "pick_and_place": "pick_and_place",
    "pick_two_obj_and_place": "pick_and_place",
    "look_at_obj_in_light": "look_at_obj_in_light",
    "pick_heat": "pick_heat",
    "pick_cool": "pick_cool",
    "pick_clean": "pick_clean",
}


def skill_categories(task: str) -> tuple[str, ...]:
    """Category of an ALFWorld task.

    Args:
        task: Task type, or path of the game file, which contains it.

    Returns:
        One name.

    Raises:
        ValueError: No task type is part of the text.
    """
    for part, category in CATEGORIES.items():
        if part in task:
            return (category,)
    raise ValueError(
        f"task {task!r}: no ALFWorld task type in it, so no skills can be chosen. "
        f"Known: {', '.join(CATEGORIES)}."
    )
