"""G2PO: a value for every visited state, and two advantages of the edge that a turn is.

arXiv:2606.22995. No teacher. Over the rollouts of a task, with R the return of an episode of T
turns before penalties and p the penalty of the turn's own invalid action,

    V(s) = mean over all visits of s of β^{T − t}·R                 β = value_discount
    V'   = R_max at the end of a success, 0 at another end, else V(next state)
    a₁   = V' − p, centred over the turns taken from the same state
    a₂   = V' − V(s), centred over the turns of the task
    A    = A_outcome + ω·(a₁ + a₂)                                  ω = step_weight

The functions are in `stepopsd_rllib.objectives.g2po`. A state is the environment's own text of it
(`info["anchor"]`). Centring alone is the authors' default and WebShop's; on ALFWorld their script
divides all three by the deviation: `normalize_advantages=True`.

Departures, and the key that restores each:

- success is what the environment calls won, and R_max its largest return; the authors' program asks
  whether R is exactly 10, so that a reward of 1 counts as lost. `env_config.reward_scale: 10` gives
  their numbers;
- a task with a single turn gets a₂ = 0, where the program gives NaN.
"""

from __future__ import annotations

import torch
from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.keys import LARGEST_RETURN
from stepopsd_rllib.algorithms.shared.returns import largest_return
from stepopsd_rllib.algorithms.shared.states import StatesConfig
from stepopsd_rllib.config_keys import key, number
from stepopsd_rllib.connectors.columns import ADVANTAGES
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.objectives.g2po import (
    VALUE_DISCOUNT,
    g2po_shaping,
    g2po_step_advantages,
    state_values,
)
from stepopsd_rllib.objectives.shaping import Shaping


class G2POConfig(StatesConfig):
    """Configuration of G2PO; defaults follow the authors' code."""

    normalize_advantages = False
    step_weight: float = key(
        1.0, number(0), "weight of the two step advantages; 0 is GRPO", symbol="ω", paper="1"
    )
    value_discount: float = key(
        VALUE_DISCOUNT,
        number(0, 1),
        "discount a turn of the states' values",
        symbol="β",
        paper="0.95",
    )
    largest_return: float | None = LARGEST_RETURN

    @override(StatesConfig)
    def validate(self) -> None:
        """Checks that the end of a success has a value."""
        super().validate()
        if self.compares_states():
            self._largest_return()

    @override(StatesConfig)
    def compares_states(self) -> bool:
        """Whether the step advantages have a weight."""
        return self.step_weight > 0

    def _largest_return(self) -> float:
        return largest_return(self, "G2PO gives the end of a success the largest return")

    @override(StatesConfig)
    def shape(self, batch: LearnerBatch) -> Shaping:
        """Values the states of a batch and compares every turn by where it led."""
        states = self.turn_states(batch)
        return_N = torch.tensor([episode.return_ for episode in batch.episodes])
        won_N = torch.tensor([episode.won for episode in batch.episodes], dtype=torch.bool)
        values = state_values(
            return_N[states.episode_S],
            won_N[states.episode_S],
            states.anchor_S,
            states.episode_S,
            success_return=self._largest_return(),
            discount=self.value_discount,
        )
        step_S = g2po_step_advantages(
            *values,
            states.is_valid_S,
            states.anchor_S,
            states.group_S,
            penalty=self.invalid_action_penalty,
            scale=self.normalize_advantages,
            eps=self.advantage_eps,
        )
        return g2po_shaping(
            batch.tokens[ADVANTAGES],
            step_S,
            values,
            states.anchor_S,
            states.turn_R1,
            step_weight=self.step_weight,
        )


class G2PO(GRPO):
    """G2PO as an RLlib algorithm."""

    config_class = G2POConfig
