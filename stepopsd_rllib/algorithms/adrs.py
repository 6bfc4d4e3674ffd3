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

from typing import Any, Literal, Self

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from torch import Tensor

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.shared.skill_teacher import SkillTeacherConfig
from stepopsd_rllib.config_keys import KeyCheck, is_int, is_number
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
from stepopsd_rllib.training.keys import UNSET, set_given

Usefulness = Literal["states", "tasks", "tokens", "none"]


class ADRSConfig(SkillTeacherConfig):
    """Configuration of ADRS; defaults follow the authors' script."""

    acts_without_advantage = True

    def __init__(self, algo_class: type | None = None):
        """Sets the defaults."""
        super().__init__(algo_class=algo_class or ADRS)
        self.teacher_reward_weight = 0.02
        self.usefulness: Usefulness = "states"
        self.usefulness_temperature = 1.0
        self.normalize_usefulness = False
        self.gate_sharpness = 2.0
        self.reward_deviation: Literal["turn", "batch"] = "turn"
        self.step_discount = 0.95
        self.first_update = 21
        self.last_update = 70

    @override(SkillTeacherConfig)
    def training(
        self,
        *,
        teacher_reward_weight: float = UNSET,
        usefulness: str = UNSET,
        usefulness_temperature: float = UNSET,
        normalize_usefulness: bool = UNSET,
        gate_sharpness: float = UNSET,
        reward_deviation: str = UNSET,
        step_discount: float = UNSET,
        first_update: int = UNSET,
        last_update: int = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Sets the dense reward.

        Args:
            teacher_reward_weight: η, unit of the return (0.02). 0 is GRPO.
            usefulness: "states" (the authors' L3), "tasks" (L2), "tokens" (L1), or "none": no gate.
            usefulness_temperature: Softness of the split into likely and unlikely turns, nats (1).
            normalize_usefulness: Divide U by its standard deviation over the turns.
            gate_sharpness: τ, per unit of return; at "tokens" per standard deviation (2).
            reward_deviation: Divide r by its deviation over the "turn", or over the "batch".
            step_discount: γ a turn of the returns that "states" compares (0.95).
            first_update: First update with the reward (21).
            last_update: Last update with it (70).
            kwargs: Keys of the skill teacher, GRPO and RLlib.

        Returns:
            This config.
        """
        set_given(self, locals())
        return super().training(**kwargs)

    @override(SkillTeacherConfig)
    def validate(self) -> None:
        """Checks the reward's keys."""
        self.require(_RANGES)
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


_RANGES: list[KeyCheck] = [
    ("teacher_reward_weight", lambda v: is_number(v, 0), "a number, at least 0"),
    (
        "usefulness",
        lambda v: v in ("states", "tasks", "tokens", "none"),
        "'states', 'tasks', 'tokens' or 'none'",
    ),
    ("usefulness_temperature", lambda v: is_number(v, 0) and v > 0, "a number above 0"),
    ("normalize_usefulness", lambda v: isinstance(v, bool), "true or false"),
    ("gate_sharpness", lambda v: is_number(v, 0), "a number, at least 0"),
    ("reward_deviation", lambda v: v in ("turn", "batch"), "'turn' or 'batch'"),
    ("step_discount", lambda v: is_number(v, 0, 1), "a number in [0, 1]"),
    ("first_update", lambda v: is_int(v, 1), "the number of an update, at least 1"),
    ("last_update", lambda v: is_int(v, 1), "the number of an update, at least 1"),
]


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

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ADRSConfig:
        """The default config."""
        return ADRSConfig()
