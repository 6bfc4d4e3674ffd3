"""ADRS: the skill-informed teacher's log-prob as a dense reward, scaled by how useful it proved.

The teacher is the policy with skills in front of its prompt (`skill_teacher`). With lp_T its
log-prob of each sampled token,

    r      = (lp_T − mean over the turn) / std over the turn
    U      = weighted mean return of turns that the teacher finds likely − of those it does not
    A      = A_outcome + (η · σ(τ·U) · r, summed from the token to the end of its turn) / (σ_g + ε)

in the updates from `first_update` to `last_update`; before and after, and with η = 0, it is GRPO.
It acts in groups without an outcome signal too, and can flip the sign of an advantage. The
functions are in `stepopsd_rllib.objectives.adrs`.

The usefulness U compares turns of one anchor state by their discounted returns (`usefulness:
states`, the authors' L3), episodes of one task by their returns (`tasks`, L2), or asks of each
token whether the teacher likes it better than the frozen initial model does (`tokens`, L1).

Departures:

- r is centred on each turn, so the sum over a row, which GRPO scores, does not change by it unless
  the gate differs from token to token. Here each token is credited with the reward that is still
  to come in its turn, divided by what the outcome is divided by;
- in a group whose returns are all equal nothing says how large a difference is: the reward is taken
  as it stands there, not divided by a deviation of 0;
- η, and 1/τ, are in the unit of the return. The authors' environments pay 10 for a success:
  `env_config.reward_scale: 10` restores their proportion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.shared.keys import STEP_DISCOUNT, UPDATE
from stepopsd_rllib.algorithms.shared.skill_teacher import SkillTeacherConfig
from stepopsd_rllib.config_keys import FLAG, Check, key, number, one_of
from stepopsd_rllib.connectors.advantage_shaping import AdvantageShaping
from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    EPISODE_INDEX,
    REFERENCE_LOG_PROBS,
    RESPONSE_MASK,
    SCORES,
    TEACHER_LOG_PROBS,
    TURN_INDEX,
)
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.connectors.turn_states import require_anchor, turn_states
from stepopsd_rllib.objectives.adrs import adrs_shaping, token_gate, usefulness_gate
from stepopsd_rllib.objectives.advantages import group_scales
from stepopsd_rllib.objectives.shaping import Shaping
from stepopsd_rllib.objectives.turns import turn_ids

Usefulness = Literal["states", "tasks", "tokens", "none"]


class ADRSConfig(SkillTeacherConfig):
    """Configuration of ADRS; defaults follow the authors' script."""

    acts_without_advantage = True

    teacher_reward_weight: float = key(
        0.02,
        number(0),
        "weight of the dense reward, unit of the return; 0 is GRPO",
        symbol="η",
        paper="0.02",
    )
    usefulness: Usefulness = key(
        "states",
        Check(lambda v: v in get_args(Usefulness), "'states', 'tasks', 'tokens' or 'none'"),
        "what the gate compares: states (the authors' L3), tasks (L2), tokens (L1), or no gate",
    )
    usefulness_temperature: float = key(
        1.0,
        number(above=0),
        "softness of the split into likely and unlikely turns, nats",
        paper="1",
    )
    normalize_usefulness: bool = key(
        False, FLAG, "division of U by its standard deviation over the turns"
    )
    gate_sharpness: float = key(
        2.0,
        number(0),
        "sharpness of the gate per unit of return; at 'tokens' per standard deviation",
        symbol="τ",
        paper="2",
    )
    reward_deviation: Literal["turn", "batch"] = key(
        "turn", one_of("turn", "batch"), "what the deviation that divides r is taken over"
    )
    step_discount: float = STEP_DISCOUNT
    first_update: int = key(21, UPDATE, "first update with the reward", paper="21")
    last_update: int = key(70, UPDATE, "last update with the reward", paper="70")

    @override(SkillTeacherConfig)
    def validate(self) -> None:
        """Checks the reward's keys."""
        if self.last_update < self.first_update:
            self._value_error(
                f"config.last_update={self.last_update} lies before first_update="
                f"{self.first_update}: the reward would never act. Raise last_update, or set "
                "teacher_reward_weight=0 for GRPO."
            )
        super().validate()

    @override(SkillTeacherConfig)
    def check_first_task(self, info: Mapping[str, Any]) -> None:
        """Refuses an environment that does not name the states that the gate compares."""
        super().check_first_task(info)
        if self.uses_teacher() and self.usefulness == "states":
            require_anchor(info, method="ADRS", env=self.env_class().__name__)

    @override(SkillTeacherConfig)
    def uses_teacher(self) -> bool:
        """Whether the reward has a weight."""
        return self.teacher_reward_weight > 0

    @override(SkillTeacherConfig)
    def teacher_weight(self, update: int) -> float:
        """η in the updates that have the reward, 0 elsewhere."""
        is_active = self.first_update <= update <= self.last_update
        return self.teacher_reward_weight if is_active else 0.0

    @override(GRPOConfig)
    def uses_reference(self) -> bool:
        """Whether the initial model is needed: for the KL, or for the usefulness of tokens."""
        return super().uses_reference() or (self.uses_teacher() and self.usefulness == "tokens")

    @override(SkillTeacherConfig)
    def credit_connectors(self) -> list[ConnectorV2]:
        """The dense reward."""
        return [AdvantageShaping(shape=self.shape)]

    def shape(self, batch: LearnerBatch) -> Shaping:
        """Adds the reward to the outcome advantage in the updates that have it."""
        columns, weight = batch.turns, self.teacher_weight(batch.update)
        if weight == 0:
            metrics = {"teacher_reward_weight": weight}
            return Shaping(advantages=batch.columns[ADVANTAGES], metrics=metrics)
        turn_BT, episode_S = turn_ids(columns[TURN_INDEX], columns[EPISODE_INDEX])
        episode_B = batch.columns[EPISODE_INDEX]
        scale_B = group_scales(
            batch.columns[SCORES],
            batch.group_N[episode_B],
            episode_B=episode_B if self.advantage_statistics == "episodes" else None,
            normalize=self.normalize_advantages,
            eps=self.advantage_eps,
        )
        shaping = adrs_shaping(
            columns[ADVANTAGES],
            columns[TEACHER_LOG_PROBS],
            turn_BT,
            scale_B[columns.batch_row],
            columns[RESPONSE_MASK],
            gate_BT=self._gate(batch, turn_BT, episode_S),
            num_turns=len(episode_S),
            per_turn=self.reward_deviation == "turn",
            eta=weight,
        )
        return replace(shaping, advantages=columns.flat(shaping.advantages))

    def _gate(self, batch: LearnerBatch, turn_BT: Tensor, episode_S: Tensor) -> Tensor | None:
        """Gate of every token, float64 [B, T]; None without one."""
        teacher_BT = batch.turns[TEACHER_LOG_PROBS]
        if self.usefulness == "none":
            return None
        if self.usefulness == "tokens":
            reference_BT = batch.turns[REFERENCE_LOG_PROBS]
            return token_gate(teacher_BT, reference_BT, turn_BT, tau=self.gate_sharpness)
        if self.usefulness == "tasks":
            return_N = torch.tensor([episode.return_ for episode in batch.episodes])
            judged = (return_N[episode_S], batch.group_N[episode_S])
        else:
            states = turn_states(
                batch.tokens,
                batch.episodes,
                penalty=self.invalid_action_penalty,
                discount=self.step_discount,
            )
            judged = (states.return_S, states.anchor_S)
        return usefulness_gate(
            teacher_BT,
            turn_BT,
            *judged,
            over_tokens=self.usefulness == "states",
            temperature=self.usefulness_temperature,
            tau=self.gate_sharpness,
            normalize=self.normalize_usefulness,
        )


class ADRS(GRPO):
    """ADRS as an RLlib algorithm."""

    config_class = ADRSConfig
