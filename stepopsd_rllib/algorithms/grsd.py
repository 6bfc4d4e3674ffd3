"""GRSD's shaping: guidance from a group's own contrast moves the credit of its turns.

arXiv:2607.28076. In a group with a success and a failure, both are put into short do/avoid guidance
that conditions the teacher. With δ the teacher's mean log-prob of a turn's tokens less the
student's, and a the turn's GRPO advantage,

    s = expm1(clip(sign(a)·δ, −20, 20))          s̄ = s / (mean |s| over the group's turns + ε)
    ĝ = clip(s̄ if |s̄| > η else 0, −g_max, g_max)
    Ã = a · max(0.1, 1 + λ·ĝ)

Groups without the contrast keep their advantages. The functions are in
`stepopsd_rllib.objectives.grsd`.

Departures:

- the guidance is written by rules from what was done and refused, which costs no sampling; the
  paper's policy reflects on its own rollouts: `analyzer="policy"`, which asks it about the shortest
  success and the longest failure of every mixed group; `analyzer={"model": ...}` asks another model
  behind an endpoint;
- reflections are not trained: the paper's reflection loss needs a judge of their quality.

`credit_level="token"` takes the gap of each token in place of the turn's mean.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.analyzed_episodes import AnalyzedEpisodesConfig
from stepopsd_rllib.algorithms.shared.skill_teacher import encode, text_control
from stepopsd_rllib.config_keys import key, number, one_of, whole
from stepopsd_rllib.connectors.advantage_shaping import AdvantageShaping, gap_columns
from stepopsd_rllib.connectors.columns import EPISODE_INDEX, HAS_GUIDANCE, TURN_INDEX
from stepopsd_rllib.connectors.group_guidance import GroupGuidance, contrasted
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.connectors.step_spans import StepSpans
from stepopsd_rllib.connectors.teacher_gap import TeacherGap
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.objectives.grsd import grsd_shaped
from stepopsd_rllib.objectives.schedules import linear_decay
from stepopsd_rllib.objectives.shaping import Shaping, gap_shaping
from stepopsd_rllib.objectives.turns import turn_ids


class GRSDConfig(AnalyzedEpisodesConfig):
    """Configuration of GRSD; defaults follow the paper."""

    told_budget = "guidance_max_tokens"

    lambda_mix: float = key(
        0.5, number(0), "weight of the gain; 0 is GRPO", symbol="λ", paper="0.5"
    )
    lambda_decay_steps: int = key(0, whole(0, "updates"), "updates until λ is 0; 0 keeps it")
    gain_threshold: float = key(
        0.0, number(0), "|s̄| up to which the gain counts as 0", symbol="η", paper="0"
    )
    max_gain: float = key(3.0, number(0), "largest gain", symbol="g_max", paper="3")
    credit_level: Literal["turn", "token"] = key(
        "turn", one_of("turn", "token"), "gap of the turn's mean, or of each token"
    )
    guidance_max_tokens: int = key(
        512, whole(1, "tokens"), "cap of the guidance; what exceeds it is cut and counted"
    )

    @override(AnalyzedEpisodesConfig)
    def uses_analysis(self) -> bool:
        """Whether the gain has a weight."""
        return self.lambda_mix > 0

    def lambda_at(self, update: int) -> float:
        """λ of an update, counted from 1."""
        return linear_decay(self.lambda_mix, step=update, decay_steps=self.lambda_decay_steps)

    @staticmethod
    @override(AnalyzedEpisodesConfig)
    def analyzed_episodes(episodes: Sequence[AgentEpisode]) -> list[AgentEpisode]:
        """The success and the failure of every group that guidance is made of."""
        pairs = contrasted([episode for episode in episodes if episode.is_trainable])
        return [episode for pair in pairs.values() for episode in pair]

    @override(AnalyzedEpisodesConfig)
    def learner_connectors(self) -> list[ConnectorV2]:
        """GRPO's pieces, then guidance, teacher, shaping."""
        pieces = super().learner_connectors()
        if not self.uses_analysis():
            return pieces
        return [
            *pieces,
            StepSpans(mode="clean_step_no_observation", decode=self.chat_format().text),
            GroupGuidance(
                analyzer=self.make_analyzer(),
                max_tokens=self.guidance_max_tokens,
                encode=functools.partial(encode, self.tokenizer()),
                control=text_control(self),
            ),
            TeacherGap(
                position="prefix",
                teacher="live",
                student="recomputed",
                effect=self.lambda_at,
                score_all=False,
                max_tokens=self.micro_batch_tokens,
            ),
            AdvantageShaping(shape=self.shape),
        ]

    def shape(self, batch: LearnerBatch) -> Shaping:
        """Ã of a batch, in the updates whose λ is not 0."""
        columns, mixing = batch.tokens, self.lambda_at(batch.update)
        advantages_BT, gap_BT, mask_BT, is_scored_BT = gap_columns(batch)
        shaped_BT = advantages_BT
        if mixing != 0:
            shaped_BT = grsd_shaped(
                advantages_BT,
                gap_BT,
                *turn_ids(columns[TURN_INDEX], columns[EPISODE_INDEX]),
                batch.group_N,
                batch.first_rows(batch.columns[HAS_GUIDANCE]),
                level=self.credit_level,
                mixing=mixing,
                threshold=self.gain_threshold,
                max_gain=self.max_gain,
            )
        return gap_shaping(shaped_BT, advantages_BT, gap_BT, mask_BT, is_scored_BT, mixing=mixing)


class GRSD(GRPO):
    """GRSD as an RLlib algorithm."""

    config_class = GRSDConfig
