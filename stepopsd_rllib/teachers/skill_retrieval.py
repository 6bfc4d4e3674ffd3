"""Which skills a task gets, and how they are told to the teacher (SDAR's retrieval).

By what the environment says of the task, or by keyword. Each function names categories of a
`SkillLibrary`; `library.text(categories)` assembles the text.
"""

from __future__ import annotations

import logging
import random
from functools import cache
from typing import Literal

from stepopsd_envs.text_env import TextEnv

from stepopsd_rllib.teachers.skills import SkillLibrary

logger = logging.getLogger(__name__)

SkillRetrieval = Literal["task", "keyword", "random", "all"]
SKILL_RETRIEVALS: tuple[SkillRetrieval, ...] = ("task", "keyword", "random", "all")

PRIVILEGED_HEADER = "Privileged information, known to you alone: skills for this task."


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
        skill_text: Text from `SkillLibrary.text`; a blank one gives no preamble, so the teacher
            is the student.

    Returns:
        A header line, the skills and a blank line.
    """
    if not skill_text.strip():
        return ""
    return f"{PRIVILEGED_HEADER}\n{skill_text.strip()}\n\n"


def student_preamble(skill_text: str) -> str:
    """What stands at the beginning of the first message of a student that reads skills itself.

    Args:
        skill_text: Text from `SkillLibrary.text`; a blank one gives no preamble.

    Returns:
        The skills and a blank line.
    """
    return f"{skill_text}\n\n" if skill_text.strip() else ""


@cache
def _warn_of_unknown(environment: str, task_type: str) -> None:
    """Names a kind of task once; with the general skills alone a comparison means another thing."""
    logger.warning(
        "%s: no skill category knows tasks of type %r, so they get the general skills alone. "
        "Add it to %s.skill_categories, or set skill_retrieval='keyword'.",
        environment,
        task_type,
        environment,
    )


class SkillChoice:
    """Chooses the skills of a task: what SDAR's paper compares as retrieval.

    "task" goes by `TextEnv.skill_categories` of the environment, "keyword" by words of the first
    observation, "random" draws one category a task, "all" takes everything.
    """

    def __init__(
        self, library: SkillLibrary, *, retrieval: SkillRetrieval, env: type[TextEnv]
    ) -> None:
        """Keeps library and retrieval.

        Args:
            library: The skills.
            retrieval: How they are chosen.
            env: Class of the environment.

        Raises:
            ValueError: "task", and the environment does not say which skills a task gets.
        """
        if retrieval == "task" and not env.says("skill_categories"):
            raise ValueError(
                f"config.skill_retrieval='task': {env.__name__} does not say which skills a task "
                f"gets. Define {env.__name__}.skill_categories(task_type, first_observation), or "
                "set skill_retrieval='keyword'."
            )
        self.library = library
        self.retrieval: SkillRetrieval = retrieval
        self.env = env

    def text(self, *, task_id: str, task_type: str, first_observation: str) -> str:
        """The skills of a task.

        Raises:
            ValueError: A task type that is not known, or has no category.
        """
        if self.retrieval == "all":
            return self.library.full_text()
        if self.retrieval == "random":
            draw = random.Random(task_id)  # by name: the same in every process and update
            return self.library.text([draw.choice(sorted(self.library.categories))])
        if self.retrieval == "task":
            categories = self.env.skill_categories(task_type, first_observation)
            if not categories:
                _warn_of_unknown(self.env.__name__, task_type)
            return self.library.text(categories)
        return self.library.text(keyword_categories(self.library, first_observation))
