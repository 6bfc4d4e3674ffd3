"""Episodes to token rows: the first piece of every learner pipeline of this package."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override

from stepopsd_rllib.episodes import AgentEpisode, from_rllib, pack_episodes

AGENT_EPISODES = "agent_episodes"
"""Key of `shared_data` for the episodes, in the order of `episode_index`."""


class TokenBatch(ConnectorV2):
    """Writes the columns of `TokenRows`.

    Requires finished episodes of this package's env runner. Writes also `weights_version` int64
    [B], the version of the weights that sampled each row's first turn.
    """

    @override(ConnectorV2)
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *, batch: dict[str, Any], episodes: list, shared_data: dict, **kwargs: Any
    ) -> dict[str, Any]:
        """Packs the episodes."""
        agent_episodes = [from_rllib(episode) for episode in episodes]
        shared_data[AGENT_EPISODES] = agent_episodes
        columns = pack_episodes(agent_episodes).columns()
        versions = [episode.turns[0].weights_version for episode in agent_episodes]
        columns["weights_version"] = torch.tensor(versions, dtype=torch.int64)[
            columns["episode_index"]
        ]
        batch[DEFAULT_MODULE_ID] = columns
        return batch


def episodes_of(shared_data: dict) -> list[AgentEpisode]:
    """The batch's episodes, in the order of the `episode_index` column."""
    return shared_data[AGENT_EPISODES]
