"""An analyzer without a model or a network: skills by the rules of the environment."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stepopsd_envs.text_env import TextEnv

from stepopsd_rllib.config_keys import is_int
from stepopsd_rllib.teachers.analysis.analyzer import (
    AnalyzerCounts,
    AnalyzerFailure,
    EpisodeRecord,
    EpisodeSkills,
)

logger = logging.getLogger(__name__)


class RuleAnalyzer:
    """Writes skills from what happened, as `TextEnv.skill_rules` of the environment has it.

    Args:
        env: Class of the environment.
        max_step_skills: Most step skills an episode (authors' scripts: 5 in long episodes, 2 in
            episodes of a few turns).

    Raises:
        ValueError: A number out of range, or an environment that says nothing of refusals.
    """

    def __init__(self, env: type[TextEnv], *, max_step_skills: int = 5) -> None:
        if not is_int(max_step_skills, 0):
            raise ValueError(
                f"config.analyzer.max_step_skills={max_step_skills!r}: must be a whole number, at "
                "least 0."
            )
        if env.refusals is None and not env.says("skill_rules"):
            raise ValueError(
                f"config.analyzer='rules': the rules must know when {env.__name__} refused a "
                f"command, and the class does not say. Set {env.__name__}.refusals, such as "
                "('nothing happens',), () if it never refuses, or use analyzer='policy'."
            )
        self.env = env
        self.max_step_skills = max_step_skills
        self.counts = AnalyzerCounts()

    def analyze(self, record: EpisodeRecord) -> EpisodeSkills | None:
        """Skills of one episode; None, counted, where there are none."""
        self.counts.episodes += 1
        failure, skills = AnalyzerFailure.NOTHING_RECORDED, None
        if record.turns and record.outcome != "unknown":
            try:
                skills = self._skills(record)
            except Exception:  # The episode boundary: what an environment does costs one episode.
                logger.warning("%s.skill_rules failed.", self.env.__name__, exc_info=True)
                failure = AnalyzerFailure.RULES_FAILED
        if skills is None:
            self.counts.failures[failure] += 1
        else:
            self.counts.successes += 1
        return skills

    def _skills(self, record: EpisodeRecord) -> EpisodeSkills | None:
        limit = self.max_step_skills
        won = record.outcome == "success"
        skills = self.env.skill_rules(record.task, record.turns, won=won, max_step_skills=limit)
        return skills and skills.limited_to(range(len(record.turns)), max_step_skills=limit)

    def analyze_many(self, records: Sequence[EpisodeRecord]) -> list[EpisodeSkills | None]:
        """Skills of several episodes, in order."""
        return [self.analyze(record) for record in records]
