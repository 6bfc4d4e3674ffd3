"""UCOB: rollouts with and without skills teach each other where they meet (arXiv:2606.29502).

The base is GiGPO. In each group some rollouts have the skills of a library in their prompts (the
informed branch), the others do not (the plain one); both are trained, and compared as one group. In
a state (anchor) of the task that both branches visited, with Ḡ the mean discounted return over a
branch's visits and d = |Ḡ_informed − Ḡ_plain|, the branch that fared better teaches every visit of
the other, in either direction:

    w = min(max(d / return_gap_scale, 0), max_branch_weight)  where d > min_return_gap, else 0
    g = σ(gate_beta · (lp_T − sg(lp)))
    ℓ = w · g · Σ_v p_T(v) · (ln p_T(v) − ln p(v))
    L = L_GiGPO + distillation_coeff · aggregate(ℓ)

v runs over the teacher's `teacher_top_tokens` most likely tokens, over which both distributions are
renormalised. The teacher is the policy before the update, detached. It reads the context of the
better branch in that state (of its visit with the highest return) and then the student's own
response; the student reads its own context. The functions are in `stepopsd_rllib.objectives.ucob`.

Evaluation prompts have no skills (`eval_skills=True` puts them there).

Departures, and the key that restores each:

- the paper's skills are written by the policy, chosen by their utility and trained with reflection
  rewards; here they come from a fixed library, and nothing of that is part of this file;
- the thresholds of d are the authors' numbers, in the unit of the return. The authors'
  environments pay 10 for a success, so that almost every difference gets the largest weight:
  `env_config.reward_scale: 10`;
- with a growing chat (`context="append"`) the teacher reads the better branch's whole chat up to
  the state; the authors rebuild every prompt: `context="window"`.

As in GiGPO a state is known by its text alone: all refusals with one wording are one state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.algorithms.gigpo import GiGPOConfig
from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.keys import EVAL_SKILLS, SKILL_RETRIEVAL, SKILLS, TOP_TOKENS
from stepopsd_rllib.algorithms.shared.skill_teacher import skill_choice
from stepopsd_rllib.algorithms.shared.top_tokens import TopTokenLearner, require_tokens
from stepopsd_rllib.algorithms.skill_grpo import with_skills
from stepopsd_rllib.config_keys import FLAG, key, number, whole
from stepopsd_rllib.connectors.branch_teacher import BranchTeacher
from stepopsd_rllib.connectors.columns import (
    RESPONSE_MASK,
    TAUGHT_TOP_LOG_PROBS,
    TAUGHT_WEIGHTS,
    TEACHER_LOG_PROBS,
)
from stepopsd_rllib.connectors.turn_states import require_anchor
from stepopsd_rllib.objectives.sdar import gap_gate
from stepopsd_rllib.objectives.ucob import (
    LARGEST_WEIGHT,
    RETURN_GAP_SCALE,
    SMALLEST_RETURN_GAP,
    top_k_log_probs,
    ucob_token_loss,
)
from stepopsd_rllib.rollout.turn_loop import RolloutSettings
from stepopsd_rllib.teachers.skill_retrieval import SkillRetrieval


class UCOBConfig(GiGPOConfig):
    """Configuration of UCOB; defaults follow the paper."""

    distillation_coeff: float = key(
        0.1,
        number(0),
        "weight of the distillation loss; 0 is GiGPO, with skills in the prompts of the informed "
        "rollouts",
        paper="0.1",
    )
    informed_share: float = key(
        0.5,
        number(0, 1),
        "share of a group's rollouts whose prompts have skills, rounded to whole rollouts",
        paper="0.5",
    )
    min_return_gap: float = key(
        SMALLEST_RETURN_GAP,
        number(0),
        "d up to which nobody teaches, unit of the discounted return",
        paper="0.05",
    )
    return_gap_scale: float = key(
        RETURN_GAP_SCALE,
        number(above=0),
        "d of weight 1, unit of the discounted return",
        paper="0.2",
    )
    max_branch_weight: float = key(LARGEST_WEIGHT, number(above=0), "cap of the weight", paper="2")
    gate_beta: float = key(
        5.0, number(0), "sharpness of the gate per nat; 0 makes it the constant 1/2", paper="5"
    )
    teacher_top_tokens: int = replace(TOP_TOKENS, default=32, check=whole(2, "tokens"))
    renormalize_top_tokens: bool = key(
        True, FLAG, "renormalisation of both distributions over these tokens"
    )
    skills: str = SKILLS
    skill_retrieval: SkillRetrieval = SKILL_RETRIEVAL
    eval_skills: bool = EVAL_SKILLS

    @override(GiGPOConfig)
    def validate(self) -> None:
        """Checks the keys, that the skills can be read, and that two branches can be compared."""
        super().validate()
        if self.num_informed_rollouts() or self.eval_skills:
            skill_choice(self)
        if self.distillation_coeff > 0:
            self._require_branches()
            self._require_model()

    @override(GiGPOConfig)
    def check_first_task(self, info: Mapping[str, Any]) -> None:
        """Refuses an environment that does not name the states where branches meet."""
        super().check_first_task(info)
        if self.distillation_coeff > 0:
            require_anchor(info, method="UCOB", env=self.env_class().__name__)

    def num_informed_rollouts(self) -> int:
        """Rollouts of a group with skills in their prompts: the first ones."""
        return round(self.informed_share * self.group_size)

    @override(GiGPOConfig)
    def rollout_settings(self, *, explore: bool) -> RolloutSettings:
        """Adds the skills to the prompts of the informed branch."""
        settings = super().rollout_settings(explore=explore)
        num_informed = self.num_informed_rollouts() if explore else int(self.eval_skills)
        if num_informed == 0:
            return settings
        return with_skills(settings, skill_choice(self), num_rollouts=num_informed)

    @override(GiGPOConfig)
    def scores_branches(self) -> bool:
        """Always: responses are judged behind the states of other episodes."""
        return True

    @override(GiGPOConfig)
    def learner_connectors(self) -> list[ConnectorV2]:
        """GiGPO's pieces, then what the branches teach each other."""
        pieces = super().learner_connectors()
        if self.distillation_coeff > 0:
            pieces.append(
                BranchTeacher(
                    num_informed=self.num_informed_rollouts(),
                    states={
                        "penalty": self.invalid_action_penalty,
                        "discount": self.step_discount,
                        "similarity": self.anchor_similarity,
                    },
                    smallest_gap=self.min_return_gap,
                    gap_scale=self.return_gap_scale,
                    largest_weight=self.max_branch_weight,
                    top_tokens=self.teacher_top_tokens,
                    max_tokens=self.micro_batch_tokens,
                )
            )
        return pieces

    def _require_branches(self) -> None:
        num_informed = self.num_informed_rollouts()
        if not 0 < num_informed < self.group_size:
            self._value_error(
                f"config.informed_share={self.informed_share!r}: of group_size={self.group_size} "
                f"rollouts {num_informed} would have skills, so there are no two branches to "
                "compare. Set informed_share=0.5, or distillation_coeff=0 for GiGPO."
            )

    def _require_model(self) -> None:
        """Refuses teacher contexts and token counts beyond what the model has."""
        positions = self.model_positions()
        if positions is not None and self.max_context_tokens + self.max_response_tokens > positions:
            room = positions - self.max_response_tokens
            fix = f"Set max_context_tokens to {room} or less."
            if room <= self.max_response_tokens:  # a context has to hold a prompt and a response
                fix = (
                    f"Set max_response_tokens to less than {max(2, positions // 2)}, and "
                    "max_context_tokens to what is left."
                )
            self._value_error(
                f"config.max_context_tokens={self.max_context_tokens}: the teacher reads up to so "
                "many tokens of one branch and then a response of the other, up to "
                f"{self.max_response_tokens} more, and the model has {positions} positions. {fix}"
            )
        require_tokens(self)


class UCOBLearner(TopTokenLearner):
    """GiGPO's loss plus what the branches teach each other."""

    @override(TopTokenLearner)
    def token_loss(
        self,
        config: UCOBConfig,
        batch: dict[str, Any],
        fwd_out: dict[str, Tensor],
        is_scored_BT: Tensor,
    ) -> Tensor:
        """The weighted and gated forward KL of every taught token; logs gate and KL."""
        policy_BT, teacher_BT = fwd_out["policy_log_probs"], batch[TEACHER_LOG_PROBS]
        gate_BT = gap_gate(policy_BT, teacher_BT, beta=config.gate_beta)
        self.sums.add_mean("gate_mean", gate_BT, is_scored_BT)
        is_taught_N = is_scored_BT[batch[RESPONSE_MASK]]

        def distribution(log_probs_PK: Tensor) -> Tensor:
            """[P, 1, K]: every taught token as a row of one position; log-probs as logits."""
            log_z_P1 = log_probs_PK.new_zeros(len(log_probs_PK), 1)
            return top_k_log_probs(
                log_probs_PK[:, None], log_z_P1, renormalize=config.renormalize_top_tokens
            )

        student_P1K = distribution(fwd_out["candidate_log_probs"][is_taught_N])
        teacher_P1K = distribution(batch[TAUGHT_TOP_LOG_PROBS])
        weight_P, mask_P1 = batch[TAUGHT_WEIGHTS], torch.ones_like(teacher_P1K[..., 0])
        loss_P1 = ucob_token_loss(
            student_P1K, teacher_P1K, weight_P, gate_BT[is_scored_BT][:, None], mask_P1
        )
        kl_P1 = ucob_token_loss(
            student_P1K.detach(), teacher_P1K, torch.ones_like(weight_P), None, mask_P1
        )
        self.sums.add_mean("top_token_kl_mean", kl_P1, mask_P1.bool())
        return torch.zeros_like(policy_BT).masked_scatter(is_scored_BT, loss_P1)


class UCOB(GRPO):
    """UCOB as an RLlib algorithm."""

    config_class = UCOBConfig
    learner_class = UCOBLearner
