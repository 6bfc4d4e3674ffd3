"""Skills of a library as what the teacher is told of each episode."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from stepopsd_rllib.connectors.hindsight import HINDSIGHT, Hindsight, capped
from stepopsd_rllib.connectors.token_batch import episodes_of
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.hindsight.skill_retrieval import (
    alfworld_categories,
    keyword_categories,
    privileged_preamble,
    search_qa_categories,
)
from stepopsd_rllib.hindsight.skills import SkillLibrary

SkillRetrieval = Literal["task", "keyword", "random", "all"]
SKILL_RETRIEVALS: tuple[SkillRetrieval, ...] = ("task", "keyword", "random", "all")


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


class SkillContext(ConnectorV2):
    """Puts the skills of each episode's task into `shared_data[HINDSIGHT]`, as a prefix.

    The text stands before the student's whole prompt, its first role marker included (SDAR). What
    exceeds `max_tokens` is cut from its own end, and counted: the reference programs cut the front
    of the joined prompt, where the skills are, and so turn the teacher into the student unseen.
    """

    def __init__(
        self,
        *,
        choice: SkillChoice,
        max_tokens: int,
        encode: Callable[[str], list[int]],
        **kwargs: Any,
    ):
        """Keeps choice, cap and the tokenizer's encoding without special tokens."""
        super().__init__(**kwargs)
        self.choice = choice
        self.max_tokens = max_tokens
        self.encode = encode

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        batch: dict[str, Any],
        shared_data: Any = None,
        metrics: MetricsLogger | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Looks the skills up, encodes and caps them."""
        by_task: dict[str, Hindsight] = {}
        episodes = episodes_of(shared_data)
        for episode in episodes:
            if episode.task_id not in by_task:
                by_task[episode.task_id] = self._prefix(episode)
        shared_data[HINDSIGHT] = prefixes = [by_task[episode.task_id] for episode in episodes]
        if prefixes and not any(prefix.ids for prefix in prefixes):
            raise RuntimeError(
                f"config.skills ({self.choice.library.source}): not one of {len(prefixes)} "
                "episodes got a skill, so the teacher would be the student. Choose another library "
                "or another skill_retrieval."
            )
        if metrics is not None:
            lengths = [len(prefix.ids) for prefix in prefixes]
            counted = {
                "skill_share": sum(length > 0 for length in lengths) / max(1, len(lengths)),
                "skill_cut_share": sum(p.was_cut for p in prefixes) / max(1, len(prefixes)),
                "skill_tokens_mean": sum(lengths) / max(1, len(lengths)),
            }
            for name, value in counted.items():
                metrics.log_value((DEFAULT_MODULE_ID, name), value, window=1)
        return batch

    def _prefix(self, episode: AgentEpisode) -> Hindsight:
        text = self.choice.text(
            task_id=episode.task_id,
            task_type=episode.task_type,
            first_observation=episode.turns[0].observation,
        )
        return capped(self.encode(privileged_preamble(text)), self.max_tokens)
