"""Which skills a task gets, and how they are told to the teacher (SDAR's retrieval).

By task type on ALFWorld, by data source on Search-QA, by keyword elsewhere. Each function names
categories of a `SkillLibrary`; `library.text(categories)` assembles the text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from stepopsd_rllib.teachers.skills import SkillLibrary, SkillLibraryError

SkillRetrieval = Literal["task", "keyword", "random", "all"]
SKILL_RETRIEVALS: tuple[SkillRetrieval, ...] = ("task", "keyword", "random", "all")

PRIVILEGED_HEADER = "Privileged information, known to you alone: skills for this task."

# Substring of the task -> category, first match wins. The order, and the shared texts of the first
# two types, follow SDAR's code.
ALFWORLD_CATEGORIES = {
    "pick_and_place": "pick_and_place",
    "pick_two_obj_and_place": "pick_and_place",
    "look_at_obj_in_light": "look_at_obj_in_light",
    "pick_heat": "pick_heat",
    "pick_cool": "pick_cool",
    "pick_clean": "pick_clean",
}

SEARCH_QA_CATEGORIES = {
    "popqa": "entity_attribute_lookup",
    "nq": "direct_retrieval",
    "triviaqa": "direct_retrieval",
    "hotpotqa": "multi_hop",
    "2wiki": "multi_hop",
    "musique": "multi_hop",
    "bamboogle": "multi_hop",
}

# In all other sources the wording tells comparisons apart first, as in SDAR's code.
_SOURCES_WITHOUT_COMPARISONS = ("popqa", "nq", "triviaqa", "hotpotqa")


def alfworld_categories(task: str) -> tuple[str, ...]:
    """Category of an ALFWorld task.

    Args:
        task: Task type, or path of the game file, which contains it.

    Returns:
        One name.

    Raises:
        SkillLibraryError: No task type is part of the text.
    """
    for part, category in ALFWORLD_CATEGORIES.items():
        if part in task:
            return (category,)
    raise SkillLibraryError(
        f"task {task!r}: no ALFWorld task type in it, so no skills can be chosen. "
        f"Known: {', '.join(ALFWORLD_CATEGORIES)}."
    )


def search_qa_categories(data_source: str, question: str) -> tuple[str, ...]:
    """Category of a Search-QA question.

    Args:
        data_source: Name of the data set, such as "hotpotqa" or "2wikimultihopqa".
        question: The question, whose wording tells a comparison in the sources that mix them.

    Returns:
        One name, or none: an unknown source gets the general skills alone.
    """
    source = data_source.lower()
    category = next(
        (name for part, name in SEARCH_QA_CATEGORIES.items() if source.startswith(part)), None
    )
    words = question.lower()
    # Bare substrings, "or" inside "world" included, as SDAR's code has them.
    looks_like_choice = "which" in words and "or" in words and "for" not in words
    if looks_like_choice and not source.startswith(_SOURCES_WITHOUT_COMPARISONS):
        return ("comparison",)
    return () if category is None else (category,)


def keyword_categories(library: SkillLibrary, prompt: str) -> tuple[str, ...]:
    """Every category with a keyword in the prompt, by name; none where no keyword occurs."""
    words = prompt.lower()
    return tuple(
        name
        for name, category in sorted(library.categories.items())
        if any(keyword in words for keyword in category.keywords)
    )


def privileged_preamble(skill_text: str) -> str:
    """What stands before the student's whole templated prompt in the teacher's (SDAR).

    Args:
        skill_text: From `SkillLibrary.text`; blank text gives no preamble, so the teacher is the
            student.

    Returns:
        A header line, the skills and a blank line.
    """
    if not skill_text.strip():
        return ""
    return f"{PRIVILEGED_HEADER}\n{skill_text.strip()}\n\n"


def student_preamble(skill_text: str) -> str:
    """What stands at the beginning of the first message of a student that reads skills itself.

    Args:
        skill_text: From `SkillLibrary.text`; blank text gives no preamble.

    Returns:
        The skills and a blank line.
    """
    return f"{skill_text}\n\n" if skill_text.strip() else ""


class SkillChoice:
    """Chooses the skills of a task: what SDAR's paper compares as retrieval.

    "task" goes by the task type on ALFWorld and by data source and wording on Search-QA, "keyword"
    by words of the first observation, "random" draws one category a task, "all" takes everything.
    """

    def __init__(self, library: SkillLibrary, *, retrieval: SkillRetrieval, env: str):
        """Keeps the library; `env` is the environment's id."""
        self.library = library
        self.retrieval: SkillRetrieval = retrieval
        self.env = env

    def text(self, *, task_id: str, task_type: str, first_observation: str) -> str:
        """The skills of a task.

        Raises:
            SkillLibraryError: A task type that is not known, or has no category.
        """
        if self.retrieval == "all":
            return self.library.full_text()
        if self.retrieval == "random":
            draw = random.Random(task_id)  # by name: the same in every process and update
            return self.library.text([draw.choice(sorted(self.library.categories))])
        return self.library.text(self._categories(task_type, first_observation))

    def _categories(self, task_type: str, first_observation: str) -> Sequence[str]:
        if self.retrieval == "task" and "ALFWorld" in self.env:
            return alfworld_categories(task_type)
        if self.retrieval == "task" and "SearchQA" in self.env:
            return search_qa_categories(task_type, first_observation)
        return keyword_categories(self.library, first_observation)
