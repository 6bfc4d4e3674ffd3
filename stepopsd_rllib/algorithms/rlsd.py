"""RLSD: the teacher's log-prob shift redistributes a row's advantage over its tokens.

arXiv:2604.03128. With Δ = lp_T − lp_S on the sampled token and a the row's GRPO advantage,

    w = clip(exp(sign(a)·Δ), 1 − ε, 1 + ε)
    Ã = a · ((1 − λ) + λ·w)            λ_t = λ₀ · (1 − t/W) for t < W, else 0

which is StepOPSD with the exponential weight, all tokens as one span, and no normalisation. The
functions are in `stepopsd_rllib.objectives.rlsd`.

Departures from the paper, and the key that restores each where there is one:

- the teacher reads skills (as in the published comparison) where the paper shows the reference
  answer, which an interactive task does not have;
- the comparison's code scores with the live policy and W = 100: `teacher="live",
  lambda_decay_steps=100`; the defaults are the paper's snapshot every 10 updates and W = 50.
"""

from __future__ import annotations

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.keys import HALF_WIDTH
from stepopsd_rllib.algorithms.shared.skill_teacher import SkillTeacherConfig
from stepopsd_rllib.config_keys import key, number, whole
from stepopsd_rllib.connectors.advantage_shaping import AdvantageShaping, gap_columns
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.objectives.rlsd import rlsd_advantages
from stepopsd_rllib.objectives.schedules import linear_warm_down
from stepopsd_rllib.objectives.shaping import Shaping, gap_shaping


class RLSDConfig(SkillTeacherConfig):
    """Configuration of RLSD; defaults follow the paper."""

    teacher = "stale"
    lambda_mix: float = key(
        0.5, number(0, 1), "share of the weighted advantage; 0 is GRPO", symbol="λ₀", paper="0.5"
    )
    lambda_decay_steps: int = key(
        50, whole(1, "updates"), "updates until λ is 0", symbol="W", paper="50"
    )
    weight_clip: float = key(
        0.2, HALF_WIDTH, "half width of the weights' range", symbol="ε", paper="0.2"
    )

    @override(SkillTeacherConfig)
    def uses_teacher(self) -> bool:
        """Whether the weights have a share in the advantage."""
        return self.lambda_mix > 0

    @override(SkillTeacherConfig)
    def teacher_weight(self, update: int) -> float:
        """λ of an update."""
        return linear_warm_down(self.lambda_mix, step=update, window=self.lambda_decay_steps)

    @override(SkillTeacherConfig)
    def credit_connectors(self) -> list[ConnectorV2]:
        """The weighting of the advantages."""
        return [AdvantageShaping(shape=self.shape)]

    def shape(self, batch: LearnerBatch) -> Shaping:
        """Ã of a batch, in the updates whose λ is not 0."""
        mixing = self.teacher_weight(batch.update)
        advantages_BT, gap_BT, mask_BT, is_scored_BT = gap_columns(batch)
        shaped_BT = advantages_BT
        if mixing != 0:
            shaped_BT = rlsd_advantages(
                advantages_BT, gap_BT, mask_BT, mixing=mixing, clip_range=self.weight_clip
            )
        return gap_shaping(shaped_BT, advantages_BT, gap_BT, mask_BT, is_scored_BT, mixing=mixing)


class RLSD(GRPO):
    """RLSD as an RLlib algorithm."""

    config_class = RLSDConfig
