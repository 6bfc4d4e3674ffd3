"""ICSD: SDAR's loss with its gate moved to the tokens that also serve the reward.

arXiv:2608.14945. The teacher is the policy with skills in front of its prompt (`skill_teacher`),
and the base is GRPO, or GiGPO (`step_weight=1`). With ρ = exp(lp − lp_old), Δ = lp_T − lp and
SDAR's gate g = σ(β·Δ), all detached, u = A·ρ·Δ says what a step towards the teacher does to A·ρ.
Within each turn, with μ the median of u and b∓ its mean deviations below and above,

    m = η·exp((u − μ)/b⁻) below the median,   1 − (1 − η)·exp(−(u − μ)/b⁺) from it on
    c = g where A < 0 and Δ < 0,   α·g·m elsewhere        α keeps the sum of g over the turn
    L = L_base + λ · aggregate(c · (lp_T − lp))           λ = distillation_coeff

so a turn weighs as much as in SDAR, and inside it the weight goes where the teacher's wish and the
advantage agree. No further pass is needed. The function is in `stepopsd_rllib.objectives.icsd`.

No program is public. What the paper leaves open is settled as the function's docstring says; the
group that median and deviations are taken over is one turn of one episode.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.algorithms.gigpo import GiGPOConfig
from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.distillation import DistillationConfig, DistillationLearner
from stepopsd_rllib.config_keys import key, number
from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    EPISODE_INDEX,
    TEACHER_LOG_PROBS,
    TURN_INDEX,
)
from stepopsd_rllib.objectives.icsd import influence_gate
from stepopsd_rllib.objectives.sdar import gated_token_loss
from stepopsd_rllib.objectives.turns import turn_ids


class ICSDConfig(DistillationConfig, GiGPOConfig):
    """Configuration of ICSD; defaults follow the paper, on GRPO."""

    normalize_advantages = True
    step_weight: float = key(
        0.0,
        number(0),
        "weight of GiGPO's step advantage in the base; 0: the base is GRPO",
        symbol="ω",
        paper="GRPO and GiGPO",
    )
    distillation_coeff = 0.01
    gate_beta: float = key(
        5.0, number(0), "sharpness of SDAR's gate per nat", symbol="β", paper="5"
    )
    gate_split: float = key(
        0.5,
        number(above=0, below=1),
        "modulation of the gate at the median influence of a turn",
        symbol="η",
        paper="0.5",
    )


class ICSDLearner(DistillationLearner):
    """The base's loss plus the influence-gated distillation loss."""

    @override(DistillationLearner)
    def token_loss(
        self,
        config: ICSDConfig,
        batch: dict[str, Any],
        fwd_out: dict[str, Tensor],
        is_scored_BT: Tensor,
    ) -> Tensor:
        """The gated loss of every token; logs what the gate lets through.

        `conflicting_gate_share`: of the gate on tokens that the teacher likes better, the part on
        tokens with a negative advantage.
        """
        policy_BT, teacher_BT = fwd_out["policy_log_probs"], batch[TEACHER_LOG_PROBS]
        turn_BT, _ = turn_ids(batch[TURN_INDEX], batch[EPISODE_INDEX])
        gate = influence_gate(
            batch[ADVANTAGES],
            policy_BT,
            self.old_log_probs(batch, policy_BT),
            teacher_BT,
            torch.where(is_scored_BT, turn_BT, -1),
            beta=config.gate_beta,
            split=config.gate_split,
        )
        weight_BT = gate.coefficient_BT.to(policy_BT.dtype)
        self.sums.add_mean("gate_mean", weight_BT, is_scored_BT)
        liked_BT = weight_BT * (is_scored_BT & (teacher_BT > policy_BT.detach()))
        opposed_BT = liked_BT * (batch[ADVANTAGES] < 0)
        self.sums.add("conflicting_gate_share", opposed_BT.sum(), liked_BT.sum())
        return gated_token_loss(policy_BT, teacher_BT, weight_BT, is_scored_BT)


class ICSD(GRPO):
    """ICSD as an RLlib algorithm."""

    config_class = ICSDConfig
    learner_class = ICSDLearner
