"""An analyzer that reads finished episodes: what OPID, SEED and GRSD share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPOConfig
from stepopsd_rllib.algorithms.shared.keys import ANALYZER, TEACHER_TEXT
from stepopsd_rllib.algorithms.shared.skill_teacher import require_room, text_control
from stepopsd_rllib.connectors.episode_analysis import EpisodeAnalysis
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.rollout.policy_analysis import PolicyAnalysis
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeAnalyzer
from stepopsd_rllib.teachers.analysis.analyzer_setting import AnalyzerSetting, make_analyzer
from stepopsd_rllib.teachers.analysis.policy_analyzer import LONGEST_DEFAULT_CONTEXT, PolicyAnalyzer
from stepopsd_rllib.teachers.skill_insertion import insert_skills
from stepopsd_rllib.teachers.text_control import TeacherText


class AnalyzedEpisodesConfig(GRPOConfig):
    """Configuration of GRPO with an analyzer; a method adds what it does with what that writes."""

    told_budget: ClassVar[str] = "skill_max_tokens"
    """The key that caps what the teacher is told, in tokens."""

    analyzer: AnalyzerSetting = ANALYZER
    teacher_text: TeacherText = TEACHER_TEXT

    @override(GRPOConfig)
    def validate(self) -> None:
        """Checks that the analyzer can be made, and that what it writes fits the model."""
        super().validate()
        self.make_analyzer()
        if self.uses_analysis():
            self.policy_analysis()
            require_room(self, self.told_budget)

    def uses_analysis(self) -> bool:
        """Whether the method's weights let an analysis matter; without one the method is GRPO."""
        return True

    def num_step_skills(self) -> int:
        """Most skills of single turns that the analyzer writes about an episode."""
        return 0

    @staticmethod
    def analyzed_episodes(episodes: Sequence[AgentEpisode]) -> list[AgentEpisode]:
        """The episodes that the policy, as analyzer, is asked about: all that are trained on."""
        return [episode for episode in episodes if episode.is_trainable]

    def make_analyzer(self) -> EpisodeAnalyzer:
        """The analyzer that the key `analyzer` names."""
        return make_analyzer(
            self.analyzer, max_step_skills=self.num_step_skills(), env=self.env_class()
        )

    @override(GRPOConfig)
    def policy_analysis(self) -> PolicyAnalysis | None:
        """What env runners ask the policy; None for an analyzer that asks elsewhere.

        Raises:
            ValueError: The question does not fit the model.
        """
        analyzer = self.make_analyzer()
        if not (self.uses_analysis() and isinstance(analyzer, PolicyAnalyzer)):
            return None
        positions = self.model_positions()
        wanted = analyzer.settings.max_context_tokens
        if wanted is None:
            longest = min(positions or LONGEST_DEFAULT_CONTEXT, LONGEST_DEFAULT_CONTEXT)
            wanted = max(self.max_context_tokens, longest)
        if positions is not None and wanted > positions:
            raise ValueError(
                f"config.analyzer.max_context_tokens={wanted}: the model has {positions} "
                f"positions. Set it to {positions} or less."
            )
        return PolicyAnalysis(
            settings=analyzer.settings, max_context_tokens=wanted, choose=self.analyzed_episodes
        )

    def episode_analysis(self, chat: ChatFormat) -> EpisodeAnalysis:
        """The piece of the pipeline that writes the skills of every episode."""
        return EpisodeAnalysis(
            analyzer=self.make_analyzer(),
            chat=chat,
            max_tokens=getattr(self, self.told_budget),
            control=text_control(self),
        )

    def insertion(self) -> Callable[..., str]:
        """`insert_skills` at the places that the environment's messages have for it."""
        env = self.env_class()
        return functools.partial(
            insert_skills, task_phrases=env.task_phrases, turn_phrases=env.turn_phrases
        )
