"""What every connector of the learner's pipeline shares: how it is called, and how it is saved."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from torch import Tensor

from stepopsd_rllib.connectors.columns import EPISODE_INDEX, WEIGHTS_VERSION
from stepopsd_rllib.connectors.token_columns import TokenColumns
from stepopsd_rllib.episodes import AgentEpisode, RowLayout
from stepopsd_rllib.models.causal_lm import CausalLMModule

AGENT_EPISODES = "agent_episodes"
"""Key of `shared_data` for the episodes, in the order of `episode_index`."""


def episodes_of(shared_data: dict) -> list[AgentEpisode]:
    """The batch's episodes, in the order of the `episode_index` column."""
    return shared_data[AGENT_EPISODES]


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerBatch:
    """The batch on its way through the pipeline.

    Attributes:
        columns: Tensors by the names of `connectors.columns`.
        recorded: RLlib's episodes, as the runners sent them.
        shared: RLlib's `shared_data`: what connectors tell each other beside columns.
        rl_module: The learner's modules.
        metrics: The learner's logger; None where nobody listens.
    """

    columns: dict[str, Tensor]
    recorded: list[Any]
    shared: dict[str, Any]
    rl_module: Any
    metrics: MetricsLogger | None

    @property
    def episodes(self) -> list[AgentEpisode]:
        """The episodes, in the order of `episode_index`; after `TokenBatch`."""
        return episodes_of(self.shared)

    @property
    def module(self) -> CausalLMModule:
        """The language model."""
        return self.rl_module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def update(self) -> int:
        """Number of the update in preparation, from 1: the sampling weights' version plus one."""
        version_B = self.columns[WEIGHTS_VERSION]
        return int(version_B.max()) + 1 if len(version_B) else 1

    @property
    def group_N(self) -> Tensor:
        """Group (task) of each episode, int64 [N]."""
        return torch.tensor([episode.group for episode in self.episodes], dtype=torch.int64)

    @property
    def layout(self) -> RowLayout:
        """Where the tokens of the rows stand; found anew by every call."""
        return RowLayout.of(self.columns)

    @property
    def tokens(self) -> TokenColumns:
        """What `objectives` take: every sampled token as a row of its own, [R, 1]."""
        return TokenColumns(self.columns)

    @property
    def turns(self) -> TokenColumns:
        """The same for functions that walk along a turn: every turn as a padded row, [S, K]."""
        return TokenColumns(self.columns, by_turn=True)

    def first_rows(self, column_B: Tensor) -> Tensor:
        """What a column has in the first row of each episode, [N]."""
        first_N = torch.searchsorted(self.columns[EPISODE_INDEX], torch.arange(len(self.episodes)))
        return column_B[first_N]

    def log(self, values: Mapping[str, Any], *group: str) -> None:
        """Logs this learner's numbers of the update by name, under the names of a group."""
        if self.metrics is None:
            return
        for name, value in values.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, *group, name), float(value), window=1)


class LearnerConnector(ConnectorV2):
    """A piece of the learner's pipeline: reads columns or episodes, and writes columns.

    A subclass implements `fill`. Its constructor arguments are recorded however deep it derives,
    so that RLlib restores it from a checkpoint with the arguments that it was made with; RLlib by
    itself records those of direct subclasses of `ConnectorV2` alone.
    """

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Records the arguments."""
        piece = super().__new__(cls)
        piece._made_with = (args, kwargs)
        return piece

    @override(ConnectorV2)
    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that it was made with."""
        return self._made_with

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        rl_module: Any,
        batch: dict[str, Any],
        episodes: Any = None,
        shared_data: dict[str, Any] | None = None,
        metrics: MetricsLogger | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Fills the columns of the language model in."""
        del kwargs
        self.fill(
            LearnerBatch(
                columns=batch.setdefault(DEFAULT_MODULE_ID, {}),
                recorded=[] if episodes is None else episodes,
                shared={} if shared_data is None else shared_data,
                rl_module=rl_module,
                metrics=metrics,
            )
        )
        return batch

    @abc.abstractmethod
    def fill(self, batch: LearnerBatch) -> None:
        """Writes this piece's columns, and logs what it has to say."""
