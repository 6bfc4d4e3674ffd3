"""The turns of a batch as states with returns: what anchor-state methods compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepopsd_rllib.connectors.columns import EPISODE_INDEX, TURN_INDEX
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.objectives.gigpo import anchor_groups, discounted_returns
from stepopsd_rllib.objectives.state_groups import penalised
from stepopsd_rllib.objectives.turns import turn_ids

GOAL = "\ufdd4"
"""Stands for the end of a won episode: a noncharacter, which no state's text holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnStates:
    """The S turns of a batch, sorted by episode and time.

    Attributes:
        turn_R1: int64 [R, 1], turn of each sampled token.
        episode_S: int64 [S], episode of each turn, position in the batch.
        group_S: int64 [S], group (task) of each turn.
        anchor_S: int64 [S], equal for turns of a group that were taken from the same state.
        return_S: Float32 [S], discounted return from the turn on, less the turn's own penalty.
        is_valid_S: Bool [S], whether the turn's response followed the action format.
    """

    turn_R1: Tensor
    episode_S: Tensor
    group_S: Tensor
    anchor_S: Tensor
    return_S: Tensor
    is_valid_S: Tensor


def turn_states(
    tokens: Mapping[str, Tensor],
    episodes: Sequence[AgentEpisode],
    *,
    penalty: float,
    discount: float,
    similarity: float | None = None,
) -> TurnStates:
    """Reads states and returns off the recorded turns.

    Args:
        tokens: `turn_index` [R, 1] and `episode_index` [R], of `LearnerBatch.tokens`.
        episodes: The batch's episodes.
        penalty: Taken from the return of a turn for its own invalid action alone.
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
    turn_R1, episode_S = turn_ids(tokens[TURN_INDEX], tokens[EPISODE_INDEX])
    group_S = torch.tensor([episode.group for episode in episodes])[episode_S]
    return_S = discounted_returns(
        torch.tensor([turn.reward for turn in turns]), episode_S, gamma=discount
    )
    is_valid_S = torch.tensor([turn.is_action_valid for turn in turns], dtype=torch.bool)
    return TurnStates(
        turn_R1=turn_R1,
        episode_S=episode_S,
        group_S=group_S,
        anchor_S=anchor_groups([turn.anchor for turn in turns], group_S, similarity=similarity),
        return_S=penalised(return_S, is_valid_S, penalty=penalty),
        is_valid_S=is_valid_S,
    )


def successors(episodes: Sequence[AgentEpisode]) -> list[str]:
    """Text of the state that each turn led to, S of them, in the order of `TurnStates`.

    The next turn's anchor; `GOAL` after the last turn of a won episode, and after that of another
    the state in which it ended, "" where the environment does not name it.
    """
    texts: list[str] = []
    for episode in episodes:
        texts += [turn.anchor for turn in episode.turns[1:]]
        texts.append(GOAL if episode.won else episode.final_anchor)
    return texts


def require_anchor(info: Mapping[str, Any], *, method: str, env: str) -> None:
    """Refuses an environment whose first info does not name the state.

    Raises:
        ValueError: There is no `info["anchor"]`.
    """
    if not info.get("anchor"):
        raise ValueError(
            f"config.env: {method} compares turns taken from one state, and {env} does not name "
            "its states. It must write the text of the state as info['anchor'], in reset and step."
        )
