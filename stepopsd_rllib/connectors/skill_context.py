"""Skills of a library as what the teacher is told of each episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.rllib.utils.annotations import override

from stepopsd_rllib.connectors.hindsight import HINDSIGHT, capped, control_texts
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.teachers.skill_retrieval import SkillChoice, privileged_preamble
from stepopsd_rllib.teachers.text_control import TextControl


class SkillContext(LearnerConnector):
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
        control: TextControl | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.choice = choice
        self.max_tokens = max_tokens
        self.encode = encode
        self.control = control

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Looks the skills up, encodes and caps them."""
        episodes = batch.episodes
        first = {episode.task_id: episode for episode in reversed(episodes)}
        own = [self._text(episode) for episode in first.values()]
        if episodes and not any(text.strip() for text in own):
            raise RuntimeError(
                f"config.skills ({self.choice.library.source}): not one of {len(episodes)} "
                "episodes got a skill, so the teacher would be the student. Choose another library "
                "or another skill_retrieval."
            )
        texts = control_texts(batch, self.control, own, list(first))
        by_task = {
            task: capped(self.encode(privileged_preamble(text)), self.max_tokens)
            for task, text in zip(first, texts, strict=True)
        }
        batch.shared[HINDSIGHT] = prefixes = [by_task[episode.task_id] for episode in episodes]
        lengths = [len(prefix.ids) for prefix in prefixes]
        counted = {
            "skill_share": sum(length > 0 for length in lengths) / max(1, len(lengths)),
            "skill_cut_share": sum(p.was_cut for p in prefixes) / max(1, len(prefixes)),
            "skill_tokens_mean": sum(lengths) / max(1, len(lengths)),
        }
        batch.log(counted)

    def _text(self, episode: AgentEpisode) -> str:
        return self.choice.text(
            task_id=episode.task_id,
            task_type=episode.task_type,
            first_observation=episode.turns[0].observation,
        )
