"""Turns compared by the state they were taken in: what GiGPO, HGPO, GraphGPO and G2PO share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPOConfig
from stepopsd_rllib.connectors.advantage_shaping import AdvantageShaping
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.connectors.turn_states import TurnStates, require_anchor, turn_states
from stepopsd_rllib.objectives.shaping import Shaping


class StatesConfig(GRPOConfig):
    """Configuration of GRPO with a credit of turns by their states; a method adds which."""

    def compares_states(self) -> bool:
        """Whether the states of turns matter; without them the method is GRPO."""
        return True

    def shape(self, batch: LearnerBatch) -> Shaping:
        """The method: Ã of a batch."""
        raise NotImplementedError(f"{type(self).__name__} has no shape(batch).")

    @override(GRPOConfig)
    def check_first_task(self, info: Mapping[str, Any]) -> None:
        """Refuses an environment that does not name its states."""
        super().check_first_task(info)
        if self.compares_states():
            method = type(self).__name__.removesuffix("Config")
            require_anchor(info, method=method, env=self.env_class().__name__)

    @override(GRPOConfig)
    def learner_connectors(self) -> list[ConnectorV2]:
        """GRPO's pieces, then the credit of the turns."""
        pieces = super().learner_connectors()
        return [*pieces, AdvantageShaping(shape=self.shape)] if self.compares_states() else pieces

    def turn_states(
        self, batch: LearnerBatch, *, discount: float = 1.0, similarity: float | None = None
    ) -> TurnStates:
        """States and returns of the turns of a batch; see `connectors.turn_states`."""
        return turn_states(
            batch.tokens,
            batch.episodes,
            penalty=self.invalid_action_penalty,
            discount=discount,
            similarity=similarity,
        )
