"""OPSD: on-policy self-distillation, without an outcome reward (arXiv:2601.18734).

The teacher is the policy with skills in front of its prompt (`skill_teacher`). At every token that
the policy sampled, with p_T and p_S the teacher's and the policy's distribution of the next token,

    L = policy_coeff · L_GRPO + c · aggregate(D(p_T, p_S))           c = distillation_coeff

with policy_coeff = 0 and c = 1. The gradient goes through p_S; the teacher's distribution is kept
from before the update. The functions are in `stepopsd_rllib.objectives.opsd`.

GRPO+OPSD adds it to GRPO's loss: `policy_coeff=1`.

Departures:

- the teacher reads skills of a library; the paper's reads the reference answer, which a task with
  an environment does not have;
- D is over the teacher's `teacher_top_tokens` most likely tokens and one for all the others; the
  paper's is over the vocabulary, which is the same where the key is the vocabulary's size;
- in the comparison that SDAR published, both baselines are SDAR's loss on the sampled token:
  `tuned_examples/sdar/*_opsd_as_coded.yaml`, `*_grpo_opsd_as_coded.yaml`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.distillation import DistillationConfig
from stepopsd_rllib.algorithms.shared.keys import TOP_TOKENS
from stepopsd_rllib.algorithms.shared.top_tokens import TopTokenLearner, require_tokens
from stepopsd_rllib.config_keys import key, one_of
from stepopsd_rllib.connectors.columns import RESPONSE_MASK, TAUGHT_TOP_LOG_PROBS
from stepopsd_rllib.objectives.opsd import DIVERGENCES, Divergence, opsd_token_loss


class OPSDConfig(DistillationConfig):
    """Configuration of OPSD; defaults follow the paper."""

    policy_coeff = 0.0
    distillation_coeff = 1.0
    divergence: Divergence = key(
        "forward_kl", one_of(*DIVERGENCES), "divergence; 'forward_kl' is KL(teacher ‖ policy)"
    )
    teacher_top_tokens: int = replace(TOP_TOKENS, default=128)

    @override(DistillationConfig)
    def validate(self) -> None:
        """Checks the divergence's keys, and that there is something to learn from."""
        super().validate()
        if self.distillation_coeff == 0 and self.policy_coeff == 0:
            self._value_error(
                "config.distillation_coeff=0 and policy_coeff=0: no loss is left. Set "
                "distillation_coeff=1 for OPSD, or policy_coeff=1 for GRPO."
            )
        require_tokens(self)

    @override(DistillationConfig)
    def teacher_options(self) -> dict[str, Any]:
        """Keeps the teacher's most likely tokens."""
        return super().teacher_options() | {"top_tokens": self.teacher_top_tokens}


class OPSDLearner(TopTokenLearner):
    """The divergence, beside as much of GRPO's loss as `policy_coeff` lets through."""

    @override(TopTokenLearner)
    def token_loss(
        self,
        config: OPSDConfig,
        batch: dict[str, Any],
        fwd_out: dict[str, Tensor],
        is_scored_BT: Tensor,
    ) -> Tensor:
        """The divergence at every taught token; logs the probability that its K tokens hold."""
        is_taught_N = is_scored_BT[batch[RESPONSE_MASK]]
        policy_PK, teacher_PK = (
            fwd_out["candidate_log_probs"][is_taught_N],
            batch[TAUGHT_TOP_LOG_PROBS],
        )
        loss_P = opsd_token_loss(policy_PK, teacher_PK, divergence=config.divergence)
        held_P = teacher_PK.exp().sum(dim=-1)
        self.sums.add_mean("teacher_top_share", held_P, torch.ones_like(held_P, dtype=torch.bool))
        zeros_BT = torch.zeros_like(fwd_out["policy_log_probs"])
        return zeros_BT.masked_scatter(is_scored_BT, loss_P)


class OPSD(GRPO):
    """OPSD as an RLlib algorithm."""

    config_class = OPSDConfig
    learner_class = OPSDLearner
