"""Skill-SD: an importance-weighted k3 self-distillation loss beside GRPO (arXiv:2604.10674).

The teacher is the policy with skills in front of its prompt (`skill_teacher`). On every sampled
token, with d = lp − lp_T,

    k3 = exp(min(−d, 20)) − 1 + d
    ρ  = exp(min(lp − lp_old, 10))
    L  = L_GRPO + λ · aggregate(ρ·k3)                     λ = distillation_coeff

with a gradient through both ρ and k3. The function is in `stepopsd_rllib.objectives.skill_sd`.

Departures: the paper's skills are written by another model from the agent's own episodes and
retrieved with a UCB bandit; here, as in the published comparison, they come from a fixed library by
task type. The comparison's schedule of λ was logged and never applied, so there is none.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.distillation import DistillationConfig, DistillationLearner
from stepopsd_rllib.connectors.columns import TEACHER_LOG_PROBS
from stepopsd_rllib.objectives.skill_sd import skill_sd_token_loss


class SkillSDConfig(DistillationConfig):
    """Configuration of Skill-SD; defaults follow the paper."""

    distillation_coeff = 0.001


class SkillSDLearner(DistillationLearner):
    """GRPO's loss plus the importance-weighted k3 loss."""

    @override(DistillationLearner)
    def token_loss(
        self,
        config: SkillSDConfig,
        batch: dict[str, Any],
        fwd_out: dict[str, Tensor],
        is_scored_BT: Tensor,
    ) -> Tensor:
        """ρ·k3 of every token."""
        policy_BT = fwd_out["policy_log_probs"]
        return skill_sd_token_loss(
            policy_BT,
            self.old_log_probs(batch, policy_BT),
            batch[TEACHER_LOG_PROBS],
            is_scored_BT,
        )


class SkillSD(GRPO):
    """Skill-SD as an RLlib algorithm."""

    config_class = SkillSDConfig
    learner_class = SkillSDLearner
