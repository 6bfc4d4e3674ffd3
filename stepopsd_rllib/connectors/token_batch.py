"""Episodes to token rows: the first piece of every learner pipeline of this package."""

from __future__ import annotations

import torch
from ray.rllib.utils.annotations import override

from stepopsd_rllib.connectors.columns import EPISODE_INDEX, WEIGHTS_VERSION
from stepopsd_rllib.connectors.learner_connector import (
    AGENT_EPISODES,
    LearnerBatch,
    LearnerConnector,
)
from stepopsd_rllib.episodes import from_rllib, pack_episodes


class TokenBatch(LearnerConnector):
    """Writes the columns of `TokenRows`, and `weights_version`.

    Requires finished episodes of this package's env runner.
    """

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Packs the episodes."""
        episodes = [from_rllib(episode) for episode in batch.recorded]
        batch.shared[AGENT_EPISODES] = episodes
        batch.columns.update(pack_episodes(episodes).columns())
        versions = [episode.turns[0].weights_version for episode in episodes]
        batch.columns[WEIGHTS_VERSION] = torch.tensor(versions, dtype=torch.int64)[
            batch.columns[EPISODE_INDEX]
        ]
