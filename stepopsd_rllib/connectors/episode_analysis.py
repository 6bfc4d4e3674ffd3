"""What an analyzer learnt from each finished episode of the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray.rllib.utils.annotations import override

from stepopsd_rllib.connectors.analyzed_episodes import skills_of
from stepopsd_rllib.connectors.hindsight import control_texts
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeAnalyzer, EpisodeSkills
from stepopsd_rllib.teachers.text_control import TextControl

EPISODE_SKILLS = "episode_skills"
"""Key of `shared_data`: an `EpisodeSkills` for every episode, None where the analyzer failed."""


class EpisodeAnalysis(LearnerConnector):
    """Puts the skills of every episode into `shared_data[EPISODE_SKILLS]`.

    An episode that the analyzer could not read has none, keeps its outcome advantage, and is
    counted by reason. A skill of more than `max_tokens` is cut from its own end, and counted.
    """

    def __init__(
        self,
        *,
        analyzer: EpisodeAnalyzer,
        chat: ChatFormat,
        max_tokens: int,
        control: TextControl | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.analyzer = analyzer
        self.chat = chat
        self.max_tokens = max_tokens
        self.control = control
        self.num_skills = self.num_cut = 0

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Asks for the skills and caps them."""
        self.num_skills = self.num_cut = 0
        episodes = batch.episodes
        skills = skills_of(episodes, self.analyzer, batch.metrics)
        kept = [self._capped(found) for found in skills]
        if self.control is not None and not self.control.is_off:
            kept = self._controlled(batch, self.control, kept)
        batch.shared[EPISODE_SKILLS] = kept
        analysed = [found for found in kept if found is not None]
        num_turns = sum(len(episode.turns) for episode in episodes)
        values = {
            "skill_available_share": len(analysed) / max(1, len(kept)),
            "step_skill_turn_share": sum(len(s.step_skills) for s in analysed) / max(1, num_turns),
            "skill_cut_share": self.num_cut / max(1, self.num_skills),
        }
        batch.log(values)

    def _controlled(
        self, batch: LearnerBatch, control: TextControl, skills: list[EpisodeSkills | None]
    ) -> list[EpisodeSkills | None]:
        """Other texts in the place of the skills; None where no other episode has a skill."""
        tasks = [episode.task_id for episode in batch.episodes]
        own = ["" if found is None else found.episode_skill for found in skills]
        episode_texts = control_texts(batch, control, own, tasks)
        places = [
            (n, k, text)
            for n, found in enumerate(skills)
            if found is not None
            for k, text in found.step_skills.items()
        ]
        step_texts = control.replaced(
            [text for _, _, text in places], [tasks[n] for n, _, _ in places], seed=batch.update
        )
        by_place = {(n, k): text for (n, k, _), text in zip(places, step_texts, strict=True)}
        return [
            None
            if found is None or not text.strip()
            else replace(
                found,
                episode_skill=text,
                step_skills={k: by_place[n, k] for k in found.step_skills},
            )
            for n, (found, text) in enumerate(zip(skills, episode_texts, strict=True))
        ]

    def _capped(self, skills: EpisodeSkills | None) -> EpisodeSkills | None:
        if skills is None:
            return None
        return replace(
            skills,
            episode_skill=self._cap(skills.episode_skill),
            step_skills={k: self._cap(text) for k, text in skills.step_skills.items()},
        )

    def _cap(self, text: str) -> str:
        ids = self.chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        self.num_skills += 1
        if len(ids) <= self.max_tokens:
            return text
        self.num_cut += 1
        return self.chat.text(ids[: self.max_tokens])
