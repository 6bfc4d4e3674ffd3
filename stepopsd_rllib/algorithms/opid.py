"""OPID: hindsight skills of each finished episode shift the outcome advantage.

An analyzer reads every finished episode and writes a skill for the episode and a few for its
decisive turns. The old policy scores each response again with a skill in the prompt; with lp_X
under the skill and r_X whether the turn was scored (X: episode skill E, step skill Z),

    S_X = sg(lp_X − lp_old) · r_X        optionally standardised, then clipped to ±c
    A   = A_outcome + w_E · S_E + w_Z · S_Z

At θ = θ_old the added term is an unbiased estimate of the gradient of KL(policy‖skilled policy). It
acts in groups without an outcome signal too, and can flip the sign of an advantage. The functions
are in `stepopsd_rllib.objectives.opid`.

Departures, and the key that restores each:

- the analyzer is rule-based by default, so that a run needs no network; the authors ask a model
  behind an endpoint: `analyzer={"model": ..., "base_url": ...}`. With `analyzer="policy"` the
  policy reads its own episodes, between rollout and update, in the engine that played them. An
  episode that the analyzer fails on keeps its outcome advantage;
- w_E = w_Z = 0.001 as in the authors' scripts; their code defaults to 1 and 0;
- with a growing chat (`context="append"`) the episode's skill stands in the first message and is
  read by all turns; the authors rebuild every prompt: `context="window"`;
- a skill beyond its budget is cut from its own end and counted; the authors cut the prompt's front.

The authors' protocol on ALFWorld is 30 turns with a window of 5. Their auxiliary loss is off in all
scripts and not part of this file.
"""

from __future__ import annotations

from typing import Literal

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.analyzed_episodes import AnalyzedEpisodesConfig
from stepopsd_rllib.config_keys import FLAG, key, number, one_of, or_none, whole
from stepopsd_rllib.connectors.advantage_shaping import AdvantageShaping
from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    EPISODE_SKILL_LOG_PROBS,
    HAS_EPISODE_SKILL,
    HAS_STEP_SKILL,
    PLAIN_LOG_PROBS,
    RESPONSE_MASK,
    STEP_SKILL_LOG_PROBS,
)
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.connectors.skill_log_probs import SkillLogProbs
from stepopsd_rllib.objectives.opid import SkillRoute, opid_shaping, route_skills, skill_shift
from stepopsd_rllib.objectives.shaping import Shaping


class OPIDConfig(AnalyzedEpisodesConfig):
    """Configuration of OPID; defaults follow the authors' scripts."""

    episode_skill_weight: float = key(
        0.001,
        number(0),
        "weight of the episode's skill; 0 for both weights is GRPO",
        symbol="w_E",
        paper="0.001 in the scripts",
    )
    step_skill_weight: float = key(
        0.001, number(0), "weight of a step's skill", symbol="w_Z", paper="0.001 in the scripts"
    )
    skill_routing: Literal["step_priority", "additive"] = key(
        "step_priority",
        one_of("step_priority", "additive"),
        "skill of a turn: the step's where there is one, else the episode's; or the sum of both",
    )
    normalize_skill_advantages: bool = key(
        False, FLAG, "standardisation of S_X over the scored tokens"
    )
    skill_advantage_clip: float | None = key(
        None,
        or_none(number(above=0)),
        "largest |S_X|, nats (standard deviations if normalised)",
        symbol="c",
    )
    max_step_skills: int = key(
        5, whole(0), "most step skills of an episode", symbol="K", paper="5; 2 on Search-QA"
    )
    skill_max_tokens: int = key(
        256, whole(1, "tokens"), "cap of one skill; what exceeds it is cut from its end and counted"
    )

    @override(AnalyzedEpisodesConfig)
    def uses_analysis(self) -> bool:
        """Whether a skill has a weight."""
        return self.episode_skill_weight > 0 or self.step_skill_weight > 0

    def route(self, step_skill: str) -> SkillRoute:
        """Which skills a turn of an analysed episode is scored under."""
        return route_skills(
            step_skill,
            episode_weight=self.episode_skill_weight,
            step_weight=self.step_skill_weight,
            routing=self.skill_routing,
        )

    @override(AnalyzedEpisodesConfig)
    def num_step_skills(self) -> int:
        """The key `max_step_skills`."""
        return self.max_step_skills

    @override(AnalyzedEpisodesConfig)
    def scores_branches(self) -> bool:
        """In a growing chat, where each turn is told something of its own."""
        return self.context == "append"

    @override(AnalyzedEpisodesConfig)
    def learner_connectors(self) -> list[ConnectorV2]:
        """GRPO's pieces, then analysis, rescoring, skill advantages."""
        pieces = super().learner_connectors()
        if not self.uses_analysis():
            return pieces
        chat = self.chat_format()
        return [
            *pieces,
            self.episode_analysis(chat),
            SkillLogProbs(
                route=self.route,
                chat=chat,
                insert=self.insertion(),
                max_tokens=self.micro_batch_tokens,
            ),
            AdvantageShaping(shape=self.shape),
        ]

    def shape(self, batch: LearnerBatch) -> Shaping:
        """Adds the weighted shifts of both kinds of skills to the outcome advantage."""
        columns = batch.tokens

        def shift(skill_log_probs: str, has_skill: str) -> Tensor:
            return skill_shift(
                columns[skill_log_probs],
                columns[PLAIN_LOG_PROBS],
                columns[has_skill],
                normalize=self.normalize_skill_advantages,
                clip=self.skill_advantage_clip,
            )

        return opid_shaping(
            columns[ADVANTAGES],
            shift(EPISODE_SKILL_LOG_PROBS, HAS_EPISODE_SKILL),
            shift(STEP_SKILL_LOG_PROBS, HAS_STEP_SKILL),
            columns[RESPONSE_MASK],
            episode_weight=self.episode_skill_weight,
            step_weight=self.step_skill_weight,
        )


class OPID(GRPO):
    """OPID as an RLlib algorithm."""

    config_class = OPIDConfig
