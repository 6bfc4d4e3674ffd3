"""Skill-GRPO and Skill-Prompt: skills in the student's own prompt, the baselines without a teacher.

Skill-GRPO is GRPO whose training prompts begin with skills of a library, chosen by the words of the
task. The published tables evaluate it twice: without skills (the default here), and with them,
marked with a star: `eval_skills=True`.

Skill-Prompt trains nothing: it is the evaluation before the first update (`eval_at_start`) with
`eval_skills=True`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.shared.skill_teacher import (
    PACKAGED,
    SKILL_KEYS,
    skill_choice,
)
from stepopsd_rllib.config_keys import KeyCheck
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest, RolloutSettings
from stepopsd_rllib.teachers.skill_retrieval import (
    SkillChoice,
    SkillRetrieval,
    student_preamble,
)
from stepopsd_rllib.training.keys import UNSET, set_given


class SkillGRPOConfig(GRPOConfig):
    """Configuration of Skill-GRPO."""

    def __init__(self, algo_class: type | None = None):
        """Sets the defaults."""
        super().__init__(algo_class=algo_class or SkillGRPO)
        self.skills = PACKAGED
        self.skill_retrieval: SkillRetrieval = "keyword"
        self.train_skills = True
        self.eval_skills = False

    @override(GRPOConfig)
    def training(
        self,
        *,
        skills: str = UNSET,
        skill_retrieval: str = UNSET,
        train_skills: bool = UNSET,
        eval_skills: bool = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Sets the skills of the prompts.

        Args:
            skills: "packaged", the first library that the environment brings; the name of
                another; or a folder of Markdown files or a JSON bank.
            skill_retrieval: "keyword" (as published), "task", "random" or "all".
            train_skills: Whether training prompts have skills. False is GRPO.
            eval_skills: Whether evaluation prompts have them (the starred rows of the tables).
            kwargs: Keys of GRPO and RLlib.

        Returns:
            This config.
        """
        set_given(self, locals())
        return super().training(**kwargs)

    @override(GRPOConfig)
    def validate(self) -> None:
        """Checks the keys, and that the skills can be read."""
        self.require(_RANGES)
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

    return dataclasses.replace(settings, preamble=preamble)


_RANGES: list[KeyCheck] = [
    *SKILL_KEYS,
    ("train_skills", lambda v: isinstance(v, bool), "true or false"),
    ("eval_skills", lambda v: isinstance(v, bool), "true or false"),
]


class SkillGRPO(GRPO):
    """Skill-GRPO as an RLlib algorithm."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> SkillGRPOConfig:
        """The default config."""
        return SkillGRPOConfig()
