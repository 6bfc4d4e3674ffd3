"""SEED: SDAR's loss towards the policy told a skill that it wrote about the very episode.

arXiv:2607.14777. Between rollout and update the policy reads each of its finished episodes and
writes one skill, a workflow after a success, a rule of avoidance after a failure. The same tokens
are scored by the policy before the update with the skill in the prompt. With Δ = sg(lp_skill − lp),

    g = σ(β·Δ)
    L = L_GRPO + λ · aggregate(g · (sg(lp_skill) − lp))          λ = distillation_coeff

An episode whose analysis cannot be read keeps GRPO's loss alone, and is counted. Evaluation has no
skills. The functions are in `stepopsd_rllib.objectives.sdar`.

The paper's policy first learns to write such analyses, by supervised learning on those of a larger
model: a recipe in `docs/methods.md`. Without it most models write nothing that can be read, and the
method is GRPO.

Departures, and the key that restores each:

- `analyzer` takes others' skills too: rules, or a model behind an endpoint;
- with a growing chat (`context="append"`) the skill stands in the first message and is read by all
  turns; the authors rebuild every prompt: `context="window"`. Their ALFWorld has 30 turns and a
  window of 5;
- the teacher is fixed before the update.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.analyzed_episodes import AnalyzedEpisodesConfig
from stepopsd_rllib.algorithms.shared.distillation import DISTILLATION_COEFF, DistillationLearner
from stepopsd_rllib.algorithms.shared.keys import ANALYZER
from stepopsd_rllib.config_keys import key, number, whole
from stepopsd_rllib.connectors.columns import TEACHER_LOG_PROBS
from stepopsd_rllib.connectors.told_turns import ToldTurns
from stepopsd_rllib.objectives.sdar import gap_gate, gated_token_loss
from stepopsd_rllib.teachers.analysis.analyzer_setting import AnalyzerSetting


class SEEDConfig(AnalyzedEpisodesConfig):
    """Configuration of SEED; defaults follow the paper."""

    distillation_coeff: float = replace(DISTILLATION_COEFF, default=0.01, paper="0.01")
    gate_beta: float = key(
        5.0,
        number(0),
        "sharpness of the gate per nat; 0 makes it the constant 1/2",
        symbol="β",
        paper="5",
    )
    analyzer: AnalyzerSetting = replace(ANALYZER, default="policy", paper="policy")
    skill_max_tokens: int = key(
        256, whole(1, "tokens"), "cap of a skill; what exceeds it is cut from its end and counted"
    )

    @override(AnalyzedEpisodesConfig)
    def uses_analysis(self) -> bool:
        """Whether there is a distillation loss."""
        return self.distillation_coeff > 0

    def teacher_weight(self, update: int) -> float:
        """Weight of the loss, the same in every update."""
        del update
        return self.distillation_coeff

    @override(AnalyzedEpisodesConfig)
    def learner_connectors(self) -> list[ConnectorV2]:
        """GRPO's pieces, then analysis and rescoring."""
        pieces = super().learner_connectors()
        if not self.uses_analysis():
            return pieces
        chat = self.chat_format()
        return [
            *pieces,
            self.episode_analysis(chat),
            ToldTurns(
                told="episode",
                chat=chat,
                insert=self.insertion(),
                view="policy",
                effect=self.teacher_weight,
                shapes=False,
                max_tokens=self.micro_batch_tokens,
            ),
        ]


class SEEDLearner(DistillationLearner):
    """GRPO's loss plus the gated loss towards the told policy."""

    @override(DistillationLearner)
    def token_loss(
        self,
        config: SEEDConfig,
        batch: dict[str, Any],
        fwd_out: dict[str, Tensor],
        is_scored_BT: Tensor,
    ) -> Tensor:
        """The gated loss of every token; logs what the gate lets through."""
        policy_BT, teacher_BT = fwd_out["policy_log_probs"], batch[TEACHER_LOG_PROBS]
        gate_BT = gap_gate(policy_BT, teacher_BT, beta=config.gate_beta)
        self.sums.add_mean("gate_mean", gate_BT, is_scored_BT)
        self.sums.add_mean("gate_active_share", gate_BT > 0.5, is_scored_BT)
        return gated_token_loss(policy_BT, teacher_BT, gate_BT, is_scored_BT)


class SEED(GRPO):
    """SEED as an RLlib algorithm."""

    config_class = SEEDConfig
    learner_class = SEEDLearner
