"""SERL: what the environment answered to an action weights the action's tokens.

arXiv:2605.19447. The teacher, a snapshot of the policy, reads each turn's prompt with a text at the
end of the user message that the student did not have: by default what the environment answered to
this very response. With Δ = lp_T − lp_S and A the GRPO advantage at the token,

    w = clip(exp(clip(sign(A)·Δ, −20, 20)), 1 − ε, 1 + ε)
    Ã = A · ((1 − λ) + λ·w)        on the tokens of the action, in turns that were told something
    Ã = A                          on all others
    λ = λ₀ · max(0, 1 − n / W)     n = updates done so far

which is RLSD's weight on the action alone: the thoughts and the format keep GRPO's advantage. The
functions are in `stepopsd_rllib.objectives.serl`.

Action tokens are those that overlap the contents of the environment's action tags, by the sampled
tokens' own offsets (`episodes.action_spans`); the authors encode the decoded text again, which
shifts the mask where ids do not survive that.

Departures, and the key that restores each where there is one:

- lp_S is the policy's before the update; the authors' is the current one of each mini-batch, which
  is the same at the first;
- the teacher's snapshot is its own, so a KL loss keeps its anchor (theirs is off: `kl_coeff=0`, the
  default here too);
- the told text is cut from its own end at `feedback_max_tokens` and counted in `told_cut_share`;
  the authors cut the context at the right, which takes what opens the response first;
- their contexts of a judge are not here, and of those that gather the actions of one state only the
  three that need no other attempt's text (`anchor_*`); the others are values of `teacher_context`;
- equal states have equal texts (their option for similar ones is not here);
- the authors' rules know `<action>` and WebShop's calls; here the tags are the environment's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.shared.keys import (
    HALF_WIDTH,
    REFRESH_INTERVAL,
    TEACHER,
    TEACHER_TEXT,
)
from stepopsd_rllib.algorithms.shared.skill_teacher import require_room, text_control
from stepopsd_rllib.config_keys import key, number, one_of, whole
from stepopsd_rllib.connectors.action_tokens import ActionTokens
from stepopsd_rllib.connectors.advantage_shaping import AdvantageShaping, gap_columns
from stepopsd_rllib.connectors.columns import IS_SCORED, STEP_INDEX
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.connectors.told_turns import ToldTurns
from stepopsd_rllib.connectors.turn_feedback import TurnFeedback
from stepopsd_rllib.connectors.turn_states import require_anchor
from stepopsd_rllib.objectives.schedules import linear_decay
from stepopsd_rllib.objectives.serl import serl_shaping
from stepopsd_rllib.objectives.shaping import Shaping
from stepopsd_rllib.teachers.feedback import (
    SOURCES,
    FeedbackSource,
    needs_anchor,
    with_told_text,
)
from stepopsd_rllib.teachers.text_control import TeacherText


class SERLConfig(GRPOConfig):
    """Configuration of SERL; defaults follow the authors' scripts."""

    kl_coeff = 0.0
    lambda_mix: float = key(
        0.5, number(0, 1), "share of the weighted advantage; 0 is GRPO", symbol="λ₀", paper="0.5"
    )
    lambda_decay_steps: int = key(
        50, whole(0, "updates"), "updates until λ is 0; 0 keeps λ₀", symbol="W", paper="50"
    )
    weight_clip: float = key(
        0.2, HALF_WIDTH, "half width of the weights' range", symbol="ε", paper="0.2"
    )
    teacher_context: FeedbackSource = key(
        "feedback",
        one_of(*SOURCES),
        "what the teacher is told of a turn: the answer to it, the next message, the later "
        "actions, another attempt that won, two of these, or what all attempts did in its state",
        paper="feedback",
    )
    feedback_max_tokens: int = key(
        512,
        whole(1, "tokens"),
        "cap of the told text; what exceeds it is cut from its own end and counted",
    )
    teacher: Literal["live", "stale"] = replace(TEACHER, default="stale")
    teacher_refresh_interval: int = REFRESH_INTERVAL
    teacher_text: TeacherText = TEACHER_TEXT

    @override(GRPOConfig)
    def validate(self) -> None:
        """Checks the keys, and that actions can be told apart."""
        super().validate()
        env = self.env_class()
        if self.uses_teacher() and not env.action_tags:
            self._value_error(
                f"config.env: SERL weights the tokens of the action, and {env.__name__} names no "
                f"action_tags that its responses act in. Set {env.__name__}.action_tags, or use "
                "RLSD, which weights all tokens."
            )
        if self.uses_teacher():
            require_room(self, "feedback_max_tokens")

    @override(GRPOConfig)
    def check_first_task(self, info: Mapping[str, Any]) -> None:
        """Refuses an environment that does not name its states, where the context needs them."""
        super().check_first_task(info)
        if self.uses_teacher() and needs_anchor(self.teacher_context):
            require_anchor(info, method="SERL", env=self.env_class().__name__)

    def uses_teacher(self) -> bool:
        """Whether the weights have a share in the advantage."""
        return self.lambda_mix > 0 and self.weight_clip > 0

    def lambda_at(self, update: int) -> float:
        """λ of an update, counted from 1."""
        return linear_decay(self.lambda_mix, step=update - 1, decay_steps=self.lambda_decay_steps)

    @override(GRPOConfig)
    def scores_branches(self) -> bool:
        """In a growing chat, where each turn is told something of its own."""
        return self.context == "append"

    @override(GRPOConfig)
    def learner_connectors(self) -> list[ConnectorV2]:
        """GRPO's pieces, then action tokens, told texts, teacher, shaping."""
        pieces = super().learner_connectors()
        if not self.uses_teacher():
            return pieces
        chat = self.chat_format()
        return [
            *pieces,
            ActionTokens(
                decode=chat.text,
                action_tags=self.env_class().action_tags,
                action_calls=self.env_class().action_calls,
            ),
            TurnFeedback(
                source=self.teacher_context,
                chat=chat,
                max_tokens=self.feedback_max_tokens,
                control=text_control(self),
            ),
            ToldTurns(
                told="turns",
                chat=chat,
                insert=with_told_text,
                view="policy" if self.teacher == "live" else "teacher",
                effect=self.lambda_at,
                shapes=True,
                max_tokens=self.micro_batch_tokens,
            ),
            AdvantageShaping(shape=self.shape),
        ]

    def shape(self, batch: LearnerBatch) -> Shaping:
        """Ã of a batch."""
        advantages_BT, gap_BT, mask_BT, is_scored_BT = gap_columns(batch)
        layout = batch.layout
        return serl_shaping(
            advantages_BT,
            gap_BT,
            mask_BT,
            batch.tokens[STEP_INDEX] >= 0,
            is_scored_BT,
            layout.any(batch.columns[IS_SCORED])[layout.row_R],
            mixing=self.lambda_at(batch.update),
            clip_range=self.weight_clip,
        )

    @override(GRPOConfig)
    def module_options(self) -> dict[str, Any]:
        """Adds the snapshot of a stale teacher."""
        return super().module_options() | {
            "with_teacher": self.teacher == "stale" and self.uses_teacher()
        }


class SERL(GRPO):
    """SERL as an RLlib algorithm."""

    config_class = SERLConfig
