"""GiGPO: turns taken from the same state are compared with one another (arXiv:2505.10978).

No teacher. With G_k = r_k + γ·G_{k+1} the discounted return of the environment's rewards from turn
k on, then less the penalty of the turn's own invalid action, and anchor groups of the turns of a
task's rollouts that saw the same state,

    A_step = G − mean(G of the anchor group)
    A      = A_outcome + ω·A_step                         ω = step_weight

A turn alone in its state gets no step advantage. The functions are in
`stepopsd_rllib.objectives.gigpo`.

The anchor is the environment's own text of the state (`info["anchor"]`), without history or list of
actions. Both advantages are centred only, the paper's default; `normalize_advantages=True` divides
both by their group's standard deviation. The authors' code takes group statistics over the rows of
turns: `advantage_statistics="rows"`. The paper writes the penalty into r_k; as in the authors' code
it is not discounted back to earlier turns.
"""

from __future__ import annotations

from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.keys import STEP_DISCOUNT
from stepopsd_rllib.algorithms.shared.states import StatesConfig
from stepopsd_rllib.config_keys import key, number, or_none
from stepopsd_rllib.connectors.columns import ADVANTAGES
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.objectives.gigpo import gigpo_shaping
from stepopsd_rllib.objectives.shaping import Shaping


class GiGPOConfig(StatesConfig):
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

    @override(StatesConfig)
    def compares_states(self) -> bool:
        """Whether the step advantage has a weight."""
        return self.step_weight > 0

    @override(StatesConfig)
    def shape(self, batch: LearnerBatch) -> Shaping:
        """Compares every turn of a batch with its anchor group."""
        states = self.turn_states(
            batch, discount=self.step_discount, similarity=self.anchor_similarity
        )
        return gigpo_shaping(
            batch.tokens[ADVANTAGES],
            states.return_S,
            states.anchor_S,
            states.turn_R1,
            step_weight=self.step_weight,
            scale=self.normalize_advantages,
            eps=self.advantage_eps,
        )


class GiGPO(GRPO):
    """GiGPO as an RLlib algorithm."""

    config_class = GiGPOConfig
