"""What an analyzer learnt from each finished episode of the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from stepopsd_rllib.connectors.analyzed_episodes import skills_of
from stepopsd_rllib.connectors.token_batch import episodes_of
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeAnalyzer, EpisodeSkills

EPISODE_SKILLS = "episode_skills"
"""Key of `shared_data`: an `EpisodeSkills` for every episode, None where the analyzer failed."""


class EpisodeAnalysis(ConnectorV2):
    """Puts the skills of every episode into `shared_data[EPISODE_SKILLS]`.

    An episode that the analyzer could not read has none, keeps its outcome advantage, and is
    counted by reason. A skill of more than `max_tokens` is cut from its own end, and counted.
    """

    def __init__(
        self, *, analyzer: EpisodeAnalyzer, chat: ChatFormat, max_tokens: int, **kwargs: Any
    ):
        """Keeps analyzer, tokenizer and cap."""
        super().__init__(**kwargs)
        self.analyzer = analyzer
        self.chat = chat
        self.max_tokens = max_tokens
        self.num_skills = self.num_cut = 0

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        batch: dict[str, Any],
        shared_data: Any = None,
        metrics: MetricsLogger | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Asks for the skills and caps them."""
        self.num_skills = self.num_cut = 0
        episodes = episodes_of(shared_data)
        skills = skills_of(episodes, self.analyzer, metrics)
        shared_data[EPISODE_SKILLS] = kept = [self._capped(found) for found in skills]
        if metrics is not None:
            analysed = [found for found in kept if found is not None]
            num_turns = sum(len(episode.turns) for episode in episodes)
            values = {
                "skill_available_share": len(analysed) / max(1, len(kept)),
                "step_skill_turn_share": sum(len(s.step_skills) for s in analysed)
                / max(1, num_turns),
                "skill_cut_share": self.num_cut / max(1, self.num_skills),
            }
            for name, value in values.items():
                metrics.log_value((DEFAULT_MODULE_ID, name), float(value), window=1)
        return batch

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
