"""AgentOPSD: credit from the moves of a running belief of success (arXiv:2608.05987).

The teacher is the policy with skills in front of its prompt (`skill_teacher`). With e_k = Σ_t Δ the
evidence of turn k and B_0 the mean return of its group over the largest possible one,

    c_k = γ·c_{k−1} + e_k                 B_k = σ(logit(B_0) + c_k)       q_k = B_k − B_{k−1}
    z_k = (q_k − mean q) / (std q + ε)    over the turns of the episode
    m_k = clip(1 + b·sign(a_k)·z_k, 1 − b, 1 + b)
    Ã_k = a_k · ((1 − λ) + λ·m_k)

so |Ã − a| ≤ λ·b·|a|: turns that move the belief with the outcome get more of the advantage. The
functions are in `stepopsd_rllib.objectives.agentopsd`.

Departures, and the key that restores the authors' code:

- γ = 0.95 as in the paper; their scripts run with 1: `belief_decay=1.0`;
- the prior divides by the largest return of the environment; theirs does not, so that with a reward
  of 10 one success in eight saturates it: `largest_return=1.0`;
- every turn is credited as a whole; their scripts for Search-QA and WebShop do it token by token:
  `credit_level="token"`.

The paper's ablations: `uses_belief=False` (the raw evidence), `signed_moves=False` (magnitude).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.keys import LARGEST_RETURN
from stepopsd_rllib.algorithms.shared.returns import largest_return
from stepopsd_rllib.algorithms.shared.skill_teacher import SkillTeacherConfig
from stepopsd_rllib.config_keys import FLAG, key, number, one_of
from stepopsd_rllib.connectors.advantage_shaping import AdvantageShaping
from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    EPISODE_INDEX,
    IS_SCORED,
    LOG_PROB_GAP,
    RESPONSE_MASK,
    SCORES,
    TURN_INDEX,
)
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.objectives.agentopsd import agentopsd_advantages, group_priors
from stepopsd_rllib.objectives.shaping import Shaping, gap_shaping
from stepopsd_rllib.objectives.turns import turn_ids


class AgentOPSDConfig(SkillTeacherConfig):
    """Configuration of AgentOPSD; defaults follow the paper."""

    lambda_mix: float = key(
        0.5, number(0, 1), "share of the multiplied advantage; 0 is GRPO", symbol="λ", paper="0.5"
    )
    band: float = key(
        0.2, number(0, 1), "half width of the multipliers' range", symbol="b", paper="0.2"
    )
    belief_decay: float = key(
        0.95,
        number(0, 1),
        "share of older evidence that a turn keeps",
        symbol="γ",
        paper="0.95; 1 in the scripts",
    )
    credit_level: Literal["turn", "token"] = key(
        "turn", one_of("turn", "token"), "turns as a whole, or the recursion over their tokens"
    )
    uses_belief: bool = key(
        True, FLAG, "moves of the belief; false takes the raw evidence (an ablation)"
    )
    signed_moves: bool = key(
        True, FLAG, "sign of the moves; false takes their magnitude alone (an ablation)"
    )
    largest_return: float | None = LARGEST_RETURN

    @override(SkillTeacherConfig)
    def validate(self) -> None:
        """Checks that a prior can be formed."""
        super().validate()
        if self.uses_teacher():
            largest_return(self, "AgentOPSD's prior is the mean return over the largest one")

    @override(SkillTeacherConfig)
    def uses_teacher(self) -> bool:
        """Whether the multipliers have a share in the advantage."""
        return self.lambda_mix > 0 and self.band > 0

    @override(SkillTeacherConfig)
    def teacher_weight(self, update: int) -> float:
        """λ, the same in every update."""
        del update
        return self.lambda_mix

    @override(SkillTeacherConfig)
    def credit_connectors(self) -> list[ConnectorV2]:
        """The multiplication of the advantages."""
        return [AdvantageShaping(shape=self.shape)]

    def shape(self, batch: LearnerBatch) -> Shaping:
        """Ã of a batch."""
        columns = batch.turns
        advantages_BT, gap_BT, mask_BT, is_scored_BT = (
            columns[name] for name in (ADVANTAGES, LOG_PROB_GAP, RESPONSE_MASK, IS_SCORED)
        )
        largest = largest_return(self, "AgentOPSD")
        shaped_BT = agentopsd_advantages(
            advantages_BT,
            gap_BT,
            *turn_ids(columns[TURN_INDEX], columns[EPISODE_INDEX]),
            group_priors(
                batch.first_rows(batch.columns[SCORES]), batch.group_N, max_return=largest
            ),
            level=self.credit_level,
            gamma=self.belief_decay,
            mixing=self.lambda_mix,
            band=self.band,
            uses_belief=self.uses_belief,
            signed=self.signed_moves,
        )
        shaping = gap_shaping(
            shaped_BT, advantages_BT, gap_BT, mask_BT, is_scored_BT, mixing=self.lambda_mix
        )
        return replace(shaping, advantages=columns.flat(shaped_BT))


class AgentOPSD(GRPO):
    """AgentOPSD as an RLlib algorithm."""

    config_class = AgentOPSDConfig
