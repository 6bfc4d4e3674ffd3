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

from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.shared.keys import STEP_DISCOUNT
from stepopsd_rllib.config_keys import (
    key,
    number,
    or_none,
)
from stepopsd_rllib.connectors.token_batch import episodes_of
from stepopsd_rllib.connectors.turn_states import turn_states
from stepopsd_rllib.objectives.gigpo import anchor_advantages, gigpo_advantages


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
        return [*pieces, StepAdvantages(config=self)] if self.step_weight > 0 else pieces


class StepAdvantages(ConnectorV2):
    """Adds the step advantage to `advantages`; keeps the outcome's as `group_advantages`."""

    def __init__(self, *, config: GiGPOConfig, **kwargs: Any):
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
        """Compares every turn with its anchor group."""
        config, columns = self.config, batch[DEFAULT_MODULE_ID]
        states = turn_states(
            columns,
            episodes_of(shared_data),
            penalty=config.invalid_action_penalty,
            discount=config.step_discount,
            similarity=config.anchor_similarity,
        )
        step_S = anchor_advantages(
            states.return_S,
            states.anchor_S,
            scale=config.normalize_advantages,
            eps=config.advantage_eps,
        )
        columns["group_advantages"] = columns["advantages"]
        columns["advantages"] = gigpo_advantages(
            columns["advantages"], step_S, states.turn_BT, step_weight=config.step_weight
        )
        if metrics is not None:
            sizes_K = states.anchor_S.unique(return_counts=True)[1].double()
            values = {
                "anchor_group_size_mean": sizes_K.mean(),
                "anchor_shared_turn_share": sizes_K[sizes_K > 1].sum() / sizes_K.sum(),
                "step_advantage_magnitude": step_S.abs().mean(),
            }
            for name, value in values.items():
                metrics.log_value((DEFAULT_MODULE_ID, name), float(value), window=1)
        return batch


class GiGPO(GRPO):
    """GiGPO as an RLlib algorithm."""

    config_class = GiGPOConfig
