"""StepOPSD: step-aware credit from a hindsight teacher, on top of GRPO.

After the rollout, a teacher that knows how things ended scores every agent step again. With Δ the
log-prob under the teacher − that under the policy, on the sampled tokens of the step's span,

    w = clip(2σ(sign(A)·Δ), 1 − alpha_clip, 1 + alpha_clip)
    Ã = (1 − λ)·A + λ·w·A        λ = lambda_mix · max(0, 1 − t / lambda_decay_steps), t = 1, 2, ...

and the steps of an episode get an equal mean |Ã| (`step_normalization`). The sign of A never flips,
and |Ã/A − 1| ≤ λ·alpha_clip before the normalisation: with the defaults at most 4 %. The functions
are in `stepopsd_rllib.objectives.stepopsd`.

Where the paper and the released code disagree, the paper is the default; what restores the code:

- hindsight is a successful sibling's episode, told to failed episodes of a mixed group; the code's
  default knows none (`hindsight="none"`), its launch script the outcome label alone
  (`hindsight="none", hindsight_outcome=True`);
- the step normalisation is on; in the released code its options never arrive
  (`step_normalization="none"`);
- λ starts at 0.2; the code's default is 0.5 (`lambda_mix=0.5`);
- the KL reference is the initial model; in the released code it is the teacher, so that the anchor
  moves (`kl_reference="teacher"`).

`hindsight_position="prefix"` is ours: the hindsight stands once in front of the episode instead of
in front of every step, so that one pass over the episode scores all of its steps.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.shared.keys import (
    HALF_WIDTH,
    REFRESH_INTERVAL,
    TEACHER,
    TEACHER_TEXT,
)
from stepopsd_rllib.algorithms.shared.skill_teacher import encode, text_control
from stepopsd_rllib.config_keys import FLAG, key, number, one_of, whole
from stepopsd_rllib.connectors.advantage_shaping import AdvantageShaping
from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    EPISODE_INDEX,
    IS_SCORED,
    LOG_PROB_GAP,
    RESPONSE_MASK,
    STEP_INDEX,
)
from stepopsd_rllib.connectors.hindsight import HindsightContext
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.connectors.step_spans import StepSpans
from stepopsd_rllib.connectors.teacher_gap import TeacherGap
from stepopsd_rllib.episodes.segmentation import SPAN_MODES, SpanMode
from stepopsd_rllib.models.causal_lm import View
from stepopsd_rllib.objectives.schedules import linear_decay
from stepopsd_rllib.objectives.shaping import Shaping, stepopsd_shaping
from stepopsd_rllib.objectives.stepopsd import stepopsd_advantages
from stepopsd_rllib.objectives.steps import StepTokens
from stepopsd_rllib.teachers.text_control import TeacherText


class StepOPSDConfig(GRPOConfig):
    """Configuration of StepOPSD; defaults follow the paper."""

    alpha_clip: float = key(
        0.2,
        HALF_WIDTH,
        "half width of the trust region of the weights",
        symbol="α",
        paper="0.2; 0.05 in the reduced-clip runs",
    )
    lambda_mix: float = key(
        0.2, number(0, 1), "share of the weighted advantage", symbol="λ₀", paper="0.2 or 0.05"
    )
    lambda_decay_steps: int = key(
        50, whole(0, "updates"), "updates until λ is 0; 0 keeps λ₀", symbol="D", paper="50"
    )
    weight_fn: Literal["sigmoid", "exp"] = key(
        "sigmoid", one_of("sigmoid", "exp"), "function of the gap; 'exp' is of an earlier draft"
    )
    step_normalization: Literal["equal_step_mean_abs", "none"] = key(
        "equal_step_mean_abs",
        one_of("equal_step_mean_abs", "none"),
        "what the steps of an episode have in common after the shaping: their mean |Ã|, or nothing",
    )
    step_normalization_eps: float = key(
        1e-6, number(above=0), "constant added to a step's mean |Ã|"
    )
    step_normalization_clip: float = key(
        2.0, number(1), "largest factor of a step; 1 is off", symbol="C", paper="2"
    )
    span_mode: SpanMode = key(
        "action_only",
        one_of(*SPAN_MODES),
        "tokens of a turn that are scored",
        paper="action_only on ALFWorld, clean_step_no_observation on Search-QA",
    )
    hindsight: Literal["peer", "golden", "none"] = key(
        "peer",
        one_of("peer", "golden", "none"),
        "episode that the teacher is told: a successful sibling's, the environment's, or none",
    )
    hindsight_outcome: bool = key(
        False, FLAG, "success or failure of the episode told to the teacher too"
    )
    hindsight_position: Literal["suffix", "prefix"] = key(
        "suffix",
        one_of("suffix", "prefix"),
        "place of the hindsight: after the causal prefix of each span (the paper), or once in "
        "front of the row",
    )
    hindsight_max_tokens: int = key(
        1024,
        whole(1, "tokens"),
        "cap of the hindsight; what exceeds it, or the positions of the model, is cut from its end",
    )
    teacher: Literal["stale", "live"] = replace(TEACHER, default="stale")
    teacher_refresh_interval: int = REFRESH_INTERVAL
    teacher_text: TeacherText = TEACHER_TEXT
    student_log_probs: Literal["recomputed", "rollout"] = key(
        "recomputed",
        one_of("recomputed", "rollout"),
        "log-probs that the teacher's are compared with: the learner's, or the rollout's own",
    )
    kl_reference: Literal["initial", "teacher"] = key(
        "initial",
        one_of("initial", "teacher"),
        "anchor of the KL: the initial model, or the teacher, as in the released code",
    )
    score_all: bool = key(
        False, FLAG, "scores also where the result cannot matter, for diagnostics"
    )

    @override(GRPOConfig)
    def validate(self) -> None:
        """Checks the shaping's keys."""
        super().validate()
        if self.kl_reference == "teacher" and self.teacher != "stale":
            self._value_error(
                "config.kl_reference='teacher' needs teacher='stale': a live teacher is the policy "
                "itself, so its KL is 0. Set teacher='stale' or kl_reference='initial'."
            )
        if self.student_log_probs == "rollout" and self.top_p < 1:
            self._value_error(
                f"config.student_log_probs='rollout' with top_p={self.top_p}: the sampler's "
                "log-probs are those of the truncated distribution, the teacher's are not. Set "
                "student_log_probs='recomputed' or top_p=1.0."
            )
        if self.off_policy_steps and self.student_log_probs == "rollout" and self.teacher == "live":
            self._value_error(
                "config.off_policy_steps=1 with student_log_probs='rollout' and teacher='live': "
                "the teacher's weights would be an update ahead of the student's, and their gap "
                "would hold the update. Set student_log_probs='recomputed', teacher='stale' or "
                "off_policy_steps=0."
            )
        self._check_span_mode()

    def _check_span_mode(self) -> None:
        """Refuses spans that the environment's turns do not have."""
        env = self.env_class()
        hook = "answer_tags" if self.span_mode.endswith("answer_only") else "action_tags"
        if self.span_mode != "clean_step_no_observation" and not getattr(env, hook):
            tags = ", ".join(f"<{tag}>" for tag in env.action_tags) or "no tags"
            self._value_error(
                f"config.span_mode={self.span_mode!r}: {env.__name__} names no {hook}; its turns "
                f"have {tags}. Set {env.__name__}.{hook}, or use 'action_only' where turns have an "
                "action tag, or 'clean_step_no_observation'."
            )

    @override(GRPOConfig)
    def check_first_task(self, info: Mapping[str, Any]) -> None:
        """Refuses golden hindsight where the environment has none."""
        if self.hindsight == "golden" and not info.get("golden_rollout"):
            raise ValueError(
                f"config.hindsight='golden': {self.env} gives no golden rollout with this "
                "env_config (no info['golden_rollout'] at reset). Use hindsight='peer', or data "
                "that has golden rollouts."
            )

    def lambda_at(self, update: int) -> float:
        """λ of an update, counted from 1."""
        return linear_decay(self.lambda_mix, step=update, decay_steps=self.lambda_decay_steps)

    def largest_effect(self, update: int) -> float:
        """Bound λ·α of |Ã/A − 1| before the step normalisation."""
        return self.lambda_at(update) * self.alpha_clip

    @override(GRPOConfig)
    def scores_branches(self) -> bool:
        """In a growing chat, where each turn is told something of its own."""
        return self.context == "append" and self.hindsight_position == "suffix"

    @override(GRPOConfig)
    def learner_connectors(self) -> list[ConnectorV2]:
        """GRPO's pieces, then spans, hindsight, teacher, shaping."""
        return [
            *super().learner_connectors(),
            StepSpans(
                mode=self.span_mode,
                decode=self.chat_format().text,
                action_tags=self.env_class().action_tags,
                answer_tags=self.env_class().answer_tags,
            ),
            HindsightContext(
                source=self.hindsight,
                include_outcome=self.hindsight_outcome,
                max_tokens=self.hindsight_max_tokens,
                encode=functools.partial(encode, self.tokenizer()),
                control=text_control(self),
            ),
            TeacherGap(
                position=self.hindsight_position,
                teacher=self.teacher,
                student=self.student_log_probs,
                effect=self.largest_effect,
                score_all=self.score_all,
                max_tokens=self.micro_batch_tokens,
            ),
            AdvantageShaping(shape=self.shape),
        ]

    def shape(self, batch: LearnerBatch) -> Shaping:
        """Ã of a batch, from the gap on the tokens of the spans."""
        columns, mixing = batch.tokens, self.lambda_at(batch.update)
        tokens = (columns[ADVANTAGES], columns[LOG_PROB_GAP], columns[RESPONSE_MASK])
        steps = StepTokens.from_index(columns[STEP_INDEX], columns[EPISODE_INDEX])
        shaped = stepopsd_advantages(
            *tokens,
            steps,
            alpha_clip=self.alpha_clip,
            lambda_mix=mixing,
            weight_fn=self.weight_fn,
            step_normalization=self.step_normalization,
            eps=self.step_normalization_eps,
            coefficient_clip=self.step_normalization_clip,
        )
        won_N = torch.tensor([float(episode.won) for episode in batch.episodes])
        types = [episode.task_type for episode in batch.episodes]
        return stepopsd_shaping(
            shaped,
            *tokens,
            columns[IS_SCORED],
            steps=steps,
            won_B=won_N[columns[EPISODE_INDEX]],
            task_types=[types[n] for n in columns[EPISODE_INDEX].tolist()],
            lambda_mix=mixing,
            alpha_clip=self.alpha_clip,
        )

    @override(GRPOConfig)
    def reference_view(self) -> View:
        """The KL anchor: the initial model's, or the teacher's."""
        return "teacher" if self.kl_reference == "teacher" else "reference"

    @override(GRPOConfig)
    def module_options(self) -> dict[str, Any]:
        """Adds the teacher; it also serves as KL reference where that is asked for."""
        options = super().module_options() | {"with_teacher": self.teacher == "stale"}
        if self.kl_reference == "teacher":
            options["with_reference"] = False
        return options


class StepOPSD(GRPO):
    """StepOPSD as an RLlib algorithm."""

    config_class = StepOPSDConfig
