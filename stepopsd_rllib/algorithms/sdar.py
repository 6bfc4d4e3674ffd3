"""SDAR: gated self-distillation beside an untouched GRPO.

The teacher is the current policy with skills in front of its prompt (`skill_teacher`). On every
sampled token, with the gap δ = lp_T − sg(lp),

    g = σ(β·δ)                          the gate: detached, without parameters, not learnt
    ℓ = g · (lp_T − lp)
    L = policy_coeff · L_GRPO + λ · aggregate(ℓ)          λ = distillation_coeff

so the gradient is g-weighted likelihood ascent on tokens that the skill-informed teacher likes
better, whatever the sign of the advantage: also in groups that all failed or all succeeded. The
functions are in `stepopsd_rllib.objectives.sdar`.

Where paper and code disagree, the paper is the default:

- λ = 0.01 (as in the authors' scripts); the code defaults to `distillation_coeff=0.1`;
- skill text beyond its budget is cut from its own end and counted; the code cuts the front of the
  joined prompt, where the skills are, in silence;
- the paper's other gates and divergences: `gate="entropy"` or `"soft_or"`,
  `divergence="jensen_shannon"` or `"forward_kl"`.

Two baselines of the authors' comparison are settings of this loss: OPSD with `policy_coeff=0`, and
GRPO+OPSD with `gate_beta=0`, a constant gate of 1/2, whose on-policy expectation is zero: all of
SDAR's signal is the covariance of gate and score. As in its paper, OPSD is `algorithms/opsd.py`.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.distillation import DistillationConfig, DistillationLearner
from stepopsd_rllib.config_keys import key, number, one_of
from stepopsd_rllib.connectors.columns import TEACHER_LOG_PROBS
from stepopsd_rllib.objectives import sdar


class SDARConfig(DistillationConfig):
    """Configuration of SDAR; defaults follow the paper."""

    distillation_coeff = 0.01
    gate: sdar.GateName = key(
        "gap",
        one_of(*get_args(sdar.GateName)),
        "gate of the loss: the paper's gap, its other two, or none (constant 1)",
    )
    gate_beta: float = key(
        5.0,
        number(0),
        "sharpness of the gate per nat; 0 makes it the constant 1/2",
        symbol="β",
        paper="5",
    )
    divergence: sdar.Divergence = key(
        "reverse_kl", one_of(*sdar.TOKEN_LOSSES), "divergence of each token", paper="reverse_kl"
    )


class SDARLearner(DistillationLearner):
    """GRPO's loss plus the gated distillation loss."""

    @override(DistillationLearner)
    def token_loss(
        self,
        config: SDARConfig,
        batch: dict[str, Any],
        fwd_out: dict[str, Tensor],
        is_scored_BT: Tensor,
    ) -> Tensor:
        """The gated loss of every token; logs what the gate lets through."""
        policy_BT, teacher_BT = fwd_out["policy_log_probs"], batch[TEACHER_LOG_PROBS]
        gate_BT = self._gate(config, policy_BT, teacher_BT, fwd_out["entropy"])
        self.sums.add_mean("gate_mean", gate_BT, is_scored_BT)
        self.sums.add_mean("gate_active_share", gate_BT > 0.5, is_scored_BT)
        return sdar.gated_token_loss(
            policy_BT, teacher_BT, gate_BT, is_scored_BT, divergence=config.divergence
        )

    def _gate(
        self, config: SDARConfig, policy_BT: Tensor, teacher_BT: Tensor, entropy_BT: Tensor
    ) -> Tensor:
        if config.gate == "none":
            return torch.ones_like(policy_BT)
        if config.gate == "gap":
            return sdar.gap_gate(policy_BT, teacher_BT, beta=config.gate_beta)
        model: Any = self.language_module.language_model
        share_BT = sdar.normalized_entropy(entropy_BT, vocabulary_size=model.config.vocab_size)
        if config.gate == "entropy":
            return sdar.entropy_gate(share_BT, beta=config.gate_beta)
        return sdar.soft_or_gate(policy_BT, teacher_BT, share_BT, beta=config.gate_beta)


class SDAR(GRPO):
    """SDAR as an RLlib algorithm."""

    config_class = SDARConfig
    learner_class = SDARLearner
