"""A teacher that reads skills of a library: what SDAR, Skill-SD, RLSD, AgentOPSD and ADRS share.

The teacher is the policy itself (or a snapshot of it) with skill text in front of the student's
prompt. It scores the tokens that the student sampled once a training step, before the first update
(Δ = lp_T − lp_S, detached).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPOConfig
from stepopsd_rllib.algorithms.shared.keys import (
    PACKAGED,
    REFRESH_INTERVAL,
    SKILL_RETRIEVAL,
    SKILLS,
    TEACHER,
    TEACHER_TEXT,
)
from stepopsd_rllib.config_keys import key, whole
from stepopsd_rllib.connectors.skill_context import SkillContext
from stepopsd_rllib.connectors.step_spans import StepSpans
from stepopsd_rllib.connectors.teacher_gap import TeacherGap
from stepopsd_rllib.teachers.skill_retrieval import SkillChoice, SkillRetrieval
from stepopsd_rllib.teachers.skills import environment_library, load_library
from stepopsd_rllib.teachers.text_control import TeacherText, TextControl


class SkillTeacherConfig(GRPOConfig):
    """Configuration of GRPO with a skill-informed teacher; a method adds what it does with it."""

    acts_without_advantage = False
    """Whether the teacher stands in a loss or reward of its own, so that every row is scored; where
    the gap shapes advantages, rows without one are left out."""

    skills: str = SKILLS
    skill_retrieval: SkillRetrieval = SKILL_RETRIEVAL
    skill_max_tokens: int = key(
        4096,
        whole(1, "tokens"),
        "cap of the skill text; what exceeds it is cut from its own end and counted in "
        "`skill_cut_share`",
    )
    teacher: Literal["live", "stale"] = TEACHER
    teacher_refresh_interval: int = REFRESH_INTERVAL
    teacher_text: TeacherText = TEACHER_TEXT

    @override(GRPOConfig)
    def validate(self) -> None:
        """Checks the teacher's keys, and that the skills can be read."""
        super().validate()
        if self.uses_teacher():
            skill_choice(self)
            require_room(self, "skill_max_tokens")

    def uses_teacher(self) -> bool:
        """Whether the method's weight lets the teacher matter; without it the method is GRPO."""
        return True

    def teacher_weight(self, update: int) -> float:
        """Weight of the teacher in an update, counted from 1; at 0 nothing is scored."""
        del update
        return 1.0

    @override(GRPOConfig)
    def learner_connectors(self) -> list[ConnectorV2]:
        """GRPO's pieces, then skills and teacher, then what the method makes of them."""
        if not self.uses_teacher():
            return super().learner_connectors()
        return [
            *super().learner_connectors(),
            StepSpans(mode="clean_step_no_observation", decode=self.chat_format().text),
            SkillContext(
                choice=skill_choice(self),
                max_tokens=self.skill_max_tokens,
                encode=functools.partial(encode, self.tokenizer()),
                control=text_control(self),
            ),
            TeacherGap(**self.teacher_options()),
            *self.credit_connectors(),
        ]

    def teacher_options(self) -> dict[str, Any]:
        """How the teacher scores: arguments of `TeacherGap`."""
        return {
            "position": "prefix",
            "teacher": self.teacher,
            # A loss or reward of its own takes the teacher alone: no student pass is needed.
            "student": "rollout" if self.acts_without_advantage else "recomputed",
            "effect": self.teacher_weight,
            "score_all": False,
            "every_row": self.acts_without_advantage,
            "max_tokens": self.micro_batch_tokens,
        }

    def credit_connectors(self) -> list[ConnectorV2]:
        """What the method makes of `log_prob_gap` and `teacher_log_probs` before the updates."""
        return []

    @override(GRPOConfig)
    def module_options(self) -> dict[str, Any]:
        """Adds the snapshot of a stale teacher."""
        return super().module_options() | {
            "with_teacher": self.teacher == "stale" and self.uses_teacher()
        }


def skill_choice(config: Any) -> SkillChoice:
    """Library and retrieval that the keys `skills` and `skill_retrieval` name.

    Raises:
        ValueError: There is no such library, it cannot be used, or the environment does not say
            what the retrieval needs.
    """
    env, skills = config.env_class(), config.skills
    if skills == PACKAGED:
        library = environment_library(env)
    elif Path(skills).exists():
        library = load_library(skills)
    else:
        library = environment_library(env, skills)
    return SkillChoice(library, retrieval=config.skill_retrieval, env=env)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text by itself, without special tokens."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def text_control(config: Any) -> TextControl:
    """What takes the place of the teacher's texts: the key `teacher_text`."""
    return TextControl(
        kind=config.teacher_text, encode=functools.partial(encode, config.tokenizer())
    )


def require_room(config: GRPOConfig, key: str) -> None:
    """Refuses privileged text that, with the longest context, exceeds the model's positions."""
    positions = config.model_positions()
    needed = getattr(config, key) + config.max_context_tokens
    if positions is not None and needed > positions:
        room = positions - config.max_context_tokens
        fix = f"Set {key} to {room} or less, and use skills that fit."
        if room < 1:
            fix = f"Set max_context_tokens to less than {positions}, and {key} to what is left."
        config._value_error(
            f"config.{key}={getattr(config, key)!r}: with max_context_tokens="
            f"{config.max_context_tokens} the teacher may read {needed} tokens, the model has "
            f"{positions} positions. {fix}"
        )
