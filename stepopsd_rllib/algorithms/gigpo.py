"""GiGPO: turns taken from the same state are compared with one another (arXiv:2505.10978).

No teacher. With G_k = r_k + γ·G_{k+1} the discounted return from turn k on (invalid-action
penalties included), and anchor groups of the turns of a task's rollouts that saw the same state,

    A_step = G − mean(G of the anchor group)
    A      = A_outcome + ω·A_step                         ω = step_weight

A turn alone in its state gets no step advantage. The functions are in
`stepopsd_rllib.objectives.gigpo`.

The anchor is the environment's own text of the state (`info["anchor"]`), without history or list of
actions. Both advantages are centred only, the paper's default; `normalize_advantages=True` divides
both by their group's standard deviation. The authors' code takes group statistics over the rows of
turns: `advantage_statistics="rows"`.
"""

from __future__ import annotations

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.shared.keys import STEP_DISCOUNT
from stepopsd_rllib.config_keys import key, number, or_none
from stepopsd_rllib.connectors.advantage_shaping import AdvantageShaping
from stepopsd_rllib.connectors.columns import ADVANTAGES
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.connectors.turn_states import TurnStates, turn_states
from stepopsd_rllib.objectives.gigpo import gigpo_shaping
from stepopsd_rllib.objectives.shaping import Shaping


class GiGPOConfig(GRPOConfig):
    """Configuration of GiGPO; defaults follow the paper."""

    normalize_advantages = False
    step_weight: float = key(
        1.0, number(0), "weight of the step advantage; 0 is GRPO", symbol="ω", paper="1"
    )
    step_discount: float = STEP_DISCOUNT
    anchor_similarity: float | None = key(
        None,
        or_none(number(above=0, high=1)),
        "ratio from which two states are the same; none asks for equal texts",
        paper="0.95 in the authors' option",
    )

    @override(GRPOConfig)
    def learner_connectors(self) -> list[ConnectorV2]:
        """GRPO's pieces, then the step advantage."""
        pieces = super().learner_connectors()
        return [*pieces, AdvantageShaping(shape=self.shape)] if self.step_weight > 0 else pieces

    def turn_states(self, batch: LearnerBatch) -> TurnStates:
        """States and returns of the turns of a batch."""
        return turn_states(
            batch.columns,
            batch.episodes,
            penalty=self.invalid_action_penalty,
            discount=self.step_discount,
            similarity=self.anchor_similarity,
        )

    def shape(self, batch: LearnerBatch) -> Shaping:
        """Compares every turn of a batch with its anchor group."""
        states = self.turn_states(batch)
        return gigpo_shaping(
            batch.columns[ADVANTAGES],
            states.return_S,
            states.anchor_S,
            states.turn_BT,
            step_weight=self.step_weight,
            scale=self.normalize_advantages,
            eps=self.advantage_eps,
        )


class GiGPO(GRPO):
    """GiGPO as an RLlib algorithm."""

    config_class = GiGPOConfig
