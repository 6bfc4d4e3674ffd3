"""HGPO: turns in the same state are compared the more, the longer the history they share.

arXiv:2602.22817. No teacher. With G_k the discounted return of the environment's rewards from turn
k on, less the penalty of the turn's own invalid action, and at level ℓ = 1 … K + 1 the turns of a
task's rollouts that saw the same last ℓ states (the current one last),

    a_ℓ = (G − mean(G of the group)) / (std(G of the group) + ε)
    A   = Σ w_ℓ·a_ℓ / (Σ w_ℓ + ε),   w_ℓ = (ℓ + 1)^α          over the levels with a_ℓ ≠ 0

A turn whose last states nobody shares gets 0: there is no episode term. `outcome_level=True` makes
GRPO's advantage one more level, of weight 1. The functions are in `stepopsd_rllib.objectives.hgpo`.

A level at which a turn sits on the mean is missing, not zero. Departures, and the key that restores
each:

- w_ℓ is the authors' program's, 2, 3, 4 for K = 2; the paper's is 1, 2, 3: `level_weights="paper"`;
- ALFWorld's scripts divide by the deviation (the default), WebShop's do not:
  `normalize_advantages=False`;
- in the authors' program K is the number of past turns that the prompt shows: `past_states` equal
  to `window_turns` with `context="window"`;
- `lambda_mix` is ours: (1 − λ)·A_outcome + λ·A, so that 0 is GRPO.
"""

from __future__ import annotations

from typing import get_args

from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.keys import STEP_DISCOUNT
from stepopsd_rllib.algorithms.shared.states import StatesConfig
from stepopsd_rllib.config_keys import FLAG, key, number, one_of, whole
from stepopsd_rllib.connectors.columns import ADVANTAGES
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.objectives.hgpo import LevelWeights, hgpo_shaping
from stepopsd_rllib.objectives.shaping import Shaping


class HGPOConfig(StatesConfig):
    """Configuration of HGPO; defaults follow the authors' ALFWorld script."""

    past_states: int = key(
        2,
        whole(0, "states"),
        "most states before the current one that count",
        symbol="K",
        paper="2",
    )
    weight_power: float = key(1.0, number(0), "exponent of a level's weight", symbol="α", paper="1")
    level_weights: LevelWeights = key(
        "code", one_of(*get_args(LevelWeights)), "weights of the levels: (ℓ + 1)^α or ℓ^α"
    )
    outcome_level: bool = key(
        False, FLAG, "GRPO's advantage as one more level, of weight 1", paper="false"
    )
    step_discount: float = STEP_DISCOUNT
    lambda_mix: float = key(
        1.0, number(0, 1), "share of HGPO's advantage; the rest is GRPO's, 0 is GRPO", symbol="λ"
    )

    @override(StatesConfig)
    def compares_states(self) -> bool:
        """Whether HGPO's advantage has a share."""
        return self.lambda_mix > 0

    @override(StatesConfig)
    def shape(self, batch: LearnerBatch) -> Shaping:
        """Compares every turn of a batch at every level of shared history."""
        states = self.turn_states(batch, discount=self.step_discount)
        return hgpo_shaping(
            batch.tokens[ADVANTAGES],
            states.return_S,
            states.anchor_S,
            states.episode_S,
            states.turn_R1,
            mixing=self.lambda_mix,
            past_states=self.past_states,
            weight_power=self.weight_power,
            level_weights=self.level_weights,
            outcome_level=self.outcome_level,
            scale=self.normalize_advantages,
            eps=self.advantage_eps,
        )


class HGPO(GRPO):
    """HGPO as an RLlib algorithm."""

    config_class = HGPOConfig
