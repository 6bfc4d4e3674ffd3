"""The turns of a batch as states with returns: what anchor-state methods compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepopsd_rllib.connectors.columns import EPISODE_INDEX, TURN_INDEX
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.objectives.gigpo import anchor_groups, discounted_returns
from stepopsd_rllib.objectives.turns import turn_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnStates:
    """The S turns of a batch, sorted by episode and time.

    Attributes:
        turn_BT: int64 [B, T], turn of each sampled token, -1 elsewhere.
        episode_S: int64 [S], episode of each turn, position in the batch.
        group_S: int64 [S], group (task) of each turn.
        anchor_S: int64 [S], equal for turns of a group that were taken from the same state.
        return_S: Float32 [S], discounted return from the turn on, penalties included.
    """

    turn_BT: Tensor
    episode_S: Tensor
    group_S: Tensor
    anchor_S: Tensor
    return_S: Tensor


def turn_states(
    columns: dict[str, Tensor],
    episodes: Sequence[AgentEpisode],
    *,
    penalty: float,
    discount: float,
    similarity: float | None = None,
) -> TurnStates:
    """Reads states and returns off the recorded turns.

    Args:
        columns: `turn_index` [B, T] and `episode_index` [B].
        episodes: The batch's episodes.
        penalty: Taken from the reward of a turn for an invalid action.
        discount: γ a turn.
        similarity: See `anchor_groups`.

    Raises:
        ValueError: A turn has no anchor.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    if not all(turn.anchor for turn in turns):
        raise ValueError(
            "config.env: a turn has no anchor, so states cannot be compared. The environment must "
            "write the text of the state as info['anchor']."
        )
    turn_BT, episode_S = turn_ids(columns[TURN_INDEX], columns[EPISODE_INDEX])
    group_S = torch.tensor([episode.group for episode in episodes])[episode_S]
    reward_S = torch.tensor([t.reward - penalty * (not t.is_action_valid) for t in turns])
    return TurnStates(
        turn_BT=turn_BT,
        episode_S=episode_S,
        group_S=group_S,
        anchor_S=anchor_groups([turn.anchor for turn in turns], group_S, similarity=similarity),
        return_S=discounted_returns(reward_S, episode_S, gamma=discount),
    )
