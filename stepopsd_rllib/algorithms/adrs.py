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

from typing import Any, Literal, get_args

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from torch import Tensor

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.shared.keys import STEP_DISCOUNT, UPDATE
from stepopsd_rllib.algorithms.shared.skill_teacher import SkillTeacherConfig
from stepopsd_rllib.config_keys import (
    FLAG,
    Check,
    key,
    number,
    one_of,
)
from stepopsd_rllib.connectors.teacher_gap import update_number
from stepopsd_rllib.connectors.token_batch import episodes_of
from stepopsd_rllib.connectors.turn_states import turn_states
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.objectives.adrs import (
    adrs_advantages,
    centred_teacher_reward,
    rewards_to_go,
    shaping_reward,
    token_gate,
    turn_gate,
    usefulness,
)
from stepopsd_rllib.objectives.advantages import group_scales
from stepopsd_rllib.objectives.reduction import masked_mean
from stepopsd_rllib.objectives.turns import spread_turns, turn_ids, turn_means

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
        """Also where the usefulness of tokens is measured against the initial model."""
        return super().uses_reference() or (self.uses_teacher() and self.usefulness == "tokens")

    @override(SkillTeacherConfig)
    def credit_connectors(self) -> list[ConnectorV2]:
        """The dense reward."""
        return [TeacherReward(config=self)]


class TeacherReward(ConnectorV2):
    """Adds the dense reward to `advantages`; keeps the outcome's as `group_advantages`.

    Requires `teacher_log_probs` on all sampled tokens, `scores`, and with "tokens"
    `reference_log_probs`.
    """

    def __init__(self, *, config: ADRSConfig, **kwargs: Any):
        """Keeps the knobs."""
        super().__init__(**kwargs)
        self.config = config

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        batch: dict[str, Any],
        shared_data: Any = None,
        metrics: MetricsLogger | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Adds the reward in the updates that have it."""
        config, columns = self.config, batch[DEFAULT_MODULE_ID]
        outcome_BT = columns["group_advantages"] = columns["advantages"]
        weight = config.teacher_weight(update_number(columns))
        values = {"teacher_reward_weight": torch.tensor(weight)}
        if weight > 0:
            episodes = episodes_of(shared_data)
            turns = turn_ids(columns["turn_index"], columns["episode_index"])
            gate_BT = self._gate(columns, episodes, *turns)
            reward_BT = self._reward(columns, gate_BT, weight, *turns)
            columns["advantages"] = self._advantages(columns, episodes, reward_BT, *turns)
            mask_BT = columns["response_mask"]
            values |= {
                "teacher_reward_magnitude": reward_BT[mask_BT].abs().mean(),
                "advantage_change_mean": (columns["advantages"] - outcome_BT)[mask_BT].abs().mean(),
            }
            if gate_BT is not None:
                values["usefulness_gate_mean"] = gate_BT[mask_BT].mean()
                # σ(0) = 1/2: above it the teacher was of use.
                values["useful_share"] = (gate_BT[mask_BT] > 0.5).double().mean()
        if metrics is not None:
            for name, value in values.items():
                metrics.log_value((DEFAULT_MODULE_ID, name), float(value), window=1)
        return batch

    def _gate(
        self,
        columns: dict[str, Tensor],
        episodes: list[AgentEpisode],
        turn_BT: Tensor,
        episode_S: Tensor,
    ) -> Tensor | None:
        """Gate of every token, float64 [B, T]; None without one."""
        config, teacher_BT = self.config, columns["teacher_log_probs"]
        if config.usefulness == "none":
            return None
        if config.usefulness == "tokens":
            reference_BT = columns["reference_log_probs"]
            return token_gate(teacher_BT, reference_BT, turn_BT, tau=config.gate_sharpness)
        alignment_S = turn_means(teacher_BT, turn_BT, len(episode_S))
        if config.usefulness == "tasks":
            score_N = torch.tensor([episode.return_ for episode in episodes])
            return_S = score_N[episode_S]
            rival_S = torch.tensor([episode.group for episode in episodes])[episode_S]
            centre = alignment_S.mean()
        else:
            states = turn_states(
                columns,
                episodes,
                penalty=config.invalid_action_penalty,
                discount=config.step_discount,
            )
            return_S, rival_S = states.return_S, states.anchor_S
            centre = masked_mean(teacher_BT, turn_BT >= 0)
        useful_S = usefulness(
            alignment_S,
            return_S,
            rival_S,
            centre=centre,
            temperature=config.usefulness_temperature,
        )
        gate_S = turn_gate(
            useful_S, tau=config.gate_sharpness, normalize=config.normalize_usefulness
        )
        return spread_turns(gate_S, turn_BT)

    def _reward(
        self,
        columns: dict[str, Tensor],
        gate_BT: Tensor | None,
        weight: float,
        turn_BT: Tensor,
        episode_S: Tensor,
    ) -> Tensor:
        reward_BT = centred_teacher_reward(
            columns["teacher_log_probs"],
            turn_BT,
            len(episode_S),
            per_turn=self.config.reward_deviation == "turn",
        )
        return shaping_reward(reward_BT, gate_BT, eta=weight)

    def _advantages(
        self,
        columns: dict[str, Tensor],
        episodes: list[AgentEpisode],
        reward_BT: Tensor,
        turn_BT: Tensor,
        episode_S: Tensor,
    ) -> Tensor:
        config, episode_B = self.config, columns["episode_index"]
        scale_B = group_scales(
            columns["scores"],
            torch.tensor([episode.group for episode in episodes])[episode_B],
            episode_B=episode_B if config.advantage_statistics == "episodes" else None,
            normalize=config.normalize_advantages,
            eps=config.advantage_eps,
        )
        return adrs_advantages(
            columns["advantages"], rewards_to_go(reward_BT, turn_BT, len(episode_S)), scale_B
        )


class ADRS(GRPO):
    """ADRS as an RLlib algorithm."""

    config_class = ADRSConfig
