"""A self-distillation loss beside GRPO's: what SDAR and Skill-SD share."""

from __future__ import annotations

from typing import Any

from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.algorithms.grpo import GRPOLearner
from stepopsd_rllib.algorithms.shared.skill_teacher import SkillTeacherConfig
from stepopsd_rllib.config_keys import key, number
from stepopsd_rllib.connectors.columns import IS_SCORED, RESPONSE_MASK, TEACHER_LOG_PROBS
from stepopsd_rllib.episodes import RowLayout
from stepopsd_rllib.objectives.reduction import weighted_sum

DISTILLATION_COEFF = key(
    0.0,
    number(0),
    "weight of the distillation loss; 0 is the method without it",
    symbol="c",
    paper="SDAR 0.01 (0.001 is weak, 0.1 collapses); Skill-SD 0.001",
)


class DistillationConfig(SkillTeacherConfig):
    """Configuration of GRPO with a distillation loss from a skill-informed teacher."""

    acts_without_advantage = True

    distillation_coeff: float = DISTILLATION_COEFF

    @override(SkillTeacherConfig)
    def uses_teacher(self) -> bool:
        """Whether there is a distillation loss."""
        return self.distillation_coeff > 0


class DistillationLearner(GRPOLearner):
    """L = L_GRPO + c · aggregate(ℓ), with ℓ a method's loss of every token that was scored.

    Requires `teacher_log_probs` and `is_scored`. At c = 0 nothing is added, not even a zero. The
    aggregation is that of the policy loss.
    """

    def token_loss(
        self,
        config: Any,
        batch: dict[str, Any],
        fwd_out: dict[str, Tensor],
        is_scored_BT: Tensor,
    ) -> Tensor:
        """ℓ, float [B, T], nats; 0 where nothing was scored. Adds the method's diagnostics."""
        raise NotImplementedError(
            f"{type(self).__name__} has no token_loss. A learner that derives from "
            "DistillationLearner implements token_loss(config, batch, fwd_out, is_scored_BT) and "
            "returns the loss of every token, [B, T]."
        )

    @override(GRPOLearner)
    def compute_loss_for_module(
        self,
        *,
        module_id: str,
        config: Any,
        batch: dict[str, Any],
        fwd_out: dict[str, Tensor],
    ) -> Tensor:
        """GRPO's loss of a micro-batch and its share of the distillation loss."""
        loss = super().compute_loss_for_module(
            module_id=module_id, config=config, batch=batch, fwd_out=fwd_out
        )
        if config.distillation_coeff == 0:
            return loss
        is_scored_BT = batch[IS_SCORED] & batch[RESPONSE_MASK]
        distillation = weighted_sum(
            self.token_loss(config, batch, fwd_out, is_scored_BT), batch["loss_weights"]
        )
        gap_BT = batch[TEACHER_LOG_PROBS] - fwd_out["policy_log_probs"].detach()
        self.sums.add_loss("distillation_loss", distillation)
        self.sums.add_mean("teacher_gap_mean", gap_BT, is_scored_BT)
        self.sums.add_mean("teacher_gap_square_mean", gap_BT.square(), is_scored_BT)
        return loss + config.distillation_coeff * distillation

    @override(GRPOLearner)
    def rows_with_gradient(self, columns: dict[str, Tensor]) -> Tensor:
        """Rows that were scored too: the distillation loss has a gradient where GRPO is silent."""
        rows = super().rows_with_gradient(columns)
        config: Any = self.config
        if config.distillation_coeff == 0:
            return rows
        has_gradient_B = RowLayout.of(columns).any(columns[IS_SCORED])
        has_gradient_B[rows] = True
        return has_gradient_B.nonzero()[:, 0]
