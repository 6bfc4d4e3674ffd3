"""Group-relative advantages of token rows."""

from __future__ import annotations

from typing import Any, Literal

import torch
from ray.rllib.utils.annotations import override

from stepopsd_rllib.connectors.columns import ADVANTAGES, EPISODE_INDEX, SCORES
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.objectives.advantages import group_advantages, invalid_action_penalties


class GroupAdvantages(LearnerConnector):
    """Writes `advantages` float32 [R]: one number a row, on each of its sampled tokens.

    Writes also `scores` float32 [B], what was compared: the return less the penalties.

    Requires complete groups of finished episodes, and the columns of `TokenBatch`.

    With `statistics="episodes"` an episode has one score, its return minus `penalty` for each of
    its invalid actions, in both row layouts. With `statistics="rows"` every row is scored on its
    own, as the verl-agent family does: a row of one turn is penalised for its own action only, and
    long episodes count more often.
    """

    def __init__(
        self,
        *,
        statistics: Literal["episodes", "rows"],
        normalize: bool,
        eps: float,
        penalty: float,
        **kwargs: Any,
    ):
        """Keeps the settings; see `GRPOConfig.training` for their meaning."""
        super().__init__(**kwargs)
        self.statistics = statistics
        self.normalize = normalize
        self.eps = eps
        self.penalty = penalty

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Scores the rows and compares each with its group."""
        columns = batch.columns
        episodes = batch.episodes
        episode_B = columns[EPISODE_INDEX]
        returns_N = torch.tensor([episode.return_ for episode in episodes], dtype=torch.float32)
        group_N = torch.tensor([episode.group for episode in episodes], dtype=torch.int64)
        is_turn_row = len(episode_B) > len(episodes)
        if self.statistics == "rows" and is_turn_row:
            is_valid_B = torch.tensor(
                [turn.is_action_valid for episode in episodes for turn in episode.turns]
            )
            penalties_B = invalid_action_penalties(is_valid_B, coefficient=self.penalty)
        else:
            num_invalid_N = torch.tensor([episode.num_invalid_actions for episode in episodes])
            penalties_B = (-self.penalty * num_invalid_N)[episode_B]
        columns[SCORES] = returns_N[episode_B] + penalties_B
        advantages_B = group_advantages(
            columns[SCORES],
            group_N[episode_B],
            episode_B=episode_B if self.statistics == "episodes" else None,
            normalize=self.normalize,
            eps=self.eps,
        )
        columns[ADVANTAGES] = advantages_B[batch.layout.row_R]
