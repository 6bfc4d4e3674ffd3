"""Skill-GRPO and Skill-Prompt: skills in the student's own prompt, the baselines without a teacher.

Skill-GRPO is GRPO whose training prompts begin with skills of a library, chosen by the words of the
task. The published tables evaluate it twice: without skills (the default here), and with them,
marked with a star: `eval_skills=True`.

Skill-Prompt trains nothing: it is the evaluation before the first update (`eval_at_start`) with
`eval_skills=True`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.shared.keys import EVAL_SKILLS, SKILL_RETRIEVAL, SKILLS
from stepopsd_rllib.algorithms.shared.skill_teacher import skill_choice
from stepopsd_rllib.config_keys import FLAG, key
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest, RolloutSettings
from stepopsd_rllib.teachers.skill_retrieval import SkillChoice, SkillRetrieval, student_preamble


class SkillGRPOConfig(GRPOConfig):
    """Configuration of Skill-GRPO."""

    skills: str = SKILLS
    skill_retrieval: SkillRetrieval = replace(SKILL_RETRIEVAL, default="keyword")
    train_skills: bool = key(True, FLAG, "skills in the training prompts; false is GRPO")
    eval_skills: bool = EVAL_SKILLS

    @override(GRPOConfig)
    def validate(self) -> None:
        """Checks the keys, and that the skills can be read."""
        super().validate()
        skill_choice(self)

    @override(GRPOConfig)
    def rollout_settings(self, *, explore: bool) -> RolloutSettings:
        """Adds the skills where they belong."""
        settings = super().rollout_settings(explore=explore)
        if not (self.train_skills if explore else self.eval_skills):
            return settings
        return with_skills(settings, skill_choice(self))


def with_skills(
    settings: RolloutSettings, choice: SkillChoice, *, num_rollouts: int | None = None
) -> RolloutSettings:
    """Puts the skills of each task in front of its prompts.

    Args:
        settings: How episodes are sampled.
        choice: Library and retrieval.
        num_rollouts: For the first so many rollouts of a group; None for all.
    """

    def preamble(request: EpisodeRequest, info: Mapping[str, Any], observation: str) -> str:
        if num_rollouts is not None and request.rollout >= num_rollouts:
            return ""
        text = choice.text(
            task_id=info["task_id"], task_type=info["task_type"], first_observation=observation
        )
        return student_preamble(text)

    return replace(settings, preamble=preamble)


class SkillGRPO(GRPO):
    """Skill-GRPO as an RLlib algorithm."""

    config_class = SkillGRPOConfig
