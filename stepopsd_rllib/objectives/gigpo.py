"""GiGPO: compare turns that siblings took from the same state (arXiv:2505.10978)."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor

from stepopsd_rllib.objectives.shaping import Shaping
from stepopsd_rllib.objectives.state_groups import anchor_metrics, centred_in_groups
from stepopsd_rllib.objectives.turns import episode_table, spread_turns


def discounted_returns(reward_S: Tensor, episode_S: Tensor, *, gamma: float) -> Tensor:
    """Discounted return from each turn to the end of its episode: Gₖ = rₖ + γ·Gₖ₊₁.

    Args:
        reward_S: Float [S], reward of each turn, in time order.
        episode_S: int64 [S], sorted.
        gamma: Discount a turn (paper: 0.95).

    Returns:
        Float [S], in the unit of the reward.
    """
    table_NK, row_S, column_S = episode_table(reward_S.double(), episode_S)
    for k in range(table_NK.shape[1] - 2, -1, -1):
        table_NK[:, k] += gamma * table_NK[:, k + 1]
    return table_NK[row_S, column_S].to(reward_S.dtype)


def anchor_groups(
    anchors: Sequence[str], group_S: Tensor, *, similarity: float | None = None
) -> Tensor:
    """Puts the turns of a group that were taken from the same state together.

    Args:
        anchors: Text that identifies the state before each turn, S of them, without history or
            action list.
        group_S: int64 [S], group (task) of each turn. Turns of different groups never meet.
        similarity: None compares texts exactly. A ratio in (0, 1] clusters greedily: a text joins
            the first cluster whose first member is at least that similar to it (authors' option:
            0.95), and opens a new one otherwise.

    Returns:
        int64 [S], numbered by first appearance.
    """
    if len(anchors) != len(group_S):
        raise ValueError(
            f"anchors: {len(anchors)} texts for {len(group_S)} turns. Give one anchor a turn."
        )
    number_of: dict[tuple[int, str], int] = {}
    matchers: dict[int, list[tuple[SequenceMatcher[str], int]]] = {}
    numbers: list[int] = []
    created = 0
    for group, anchor in zip(group_S.tolist(), anchors, strict=True):
        key = (group, anchor)
        if key not in number_of:
            similar = (
                None
                if similarity is None
                else _similar_cluster(matchers.get(group, []), anchor, similarity)
            )
            if similar is None:
                similar, created = created, created + 1
                # The matcher keeps an index of its second text, so the cluster's first member
                # stands there.
                matchers.setdefault(group, []).append((SequenceMatcher(None, "", anchor), similar))
            number_of[key] = similar
        numbers.append(number_of[key])
    return torch.tensor(numbers, dtype=torch.int64, device=group_S.device)


def _similar_cluster(
    matchers: list[tuple[SequenceMatcher[str], int]], anchor: str, similarity: float
) -> int | None:
    for matcher, number in matchers:
        matcher.set_seq1(anchor)
        # The two quick ratios are upper bounds of the exact, slow one.
        if (
            matcher.real_quick_ratio() >= similarity
            and matcher.quick_ratio() >= similarity
            and matcher.ratio() >= similarity
        ):
            return number
    return None


def gigpo_advantages(
    outcome_advantages_BT: Tensor, step_advantages_S: Tensor, turn_BT: Tensor, *, step_weight: float
) -> Tensor:
    """Adds the step advantage of each turn to the outcome advantage: A = A_outcome + ω·A_step.

    Args:
        outcome_advantages_BT: Float [B, T], the GRPO advantage.
        step_advantages_S: Float [S], from `centred_in_groups`.
        turn_BT: int64 [B, T], turn of each token, -1 elsewhere.
        step_weight: ω (paper: 1); 0 is GRPO.

    Returns:
        Float [B, T].
    """
    return outcome_advantages_BT + step_weight * spread_turns(step_advantages_S, turn_BT).to(
        outcome_advantages_BT.dtype
    )


def gigpo_shaping(
    outcome_advantages_BT: Tensor,
    returns_S: Tensor,
    anchor_S: Tensor,
    turn_BT: Tensor,
    *,
    step_weight: float,
    scale: bool,
    eps: float,
) -> Shaping:
    """GiGPO's advantages, and how many turns have others to be compared with.

    Args:
        outcome_advantages_BT: Float [B, T], the GRPO advantage.
        returns_S: Float [S], discounted return of each turn, penalties taken afterwards.
        anchor_S: int64 [S], anchor group of each turn.
        turn_BT: int64 [B, T], turn of each token, -1 elsewhere.
        step_weight: ω.
        scale: Whether to divide by the deviation, with `eps`, as in `centred_in_groups`.
        eps: ε.
    """
    step_S = centred_in_groups(returns_S, anchor_S, scale=scale, eps=eps)
    return Shaping(
        advantages=gigpo_advantages(
            outcome_advantages_BT, step_S, turn_BT, step_weight=step_weight
        ),
        metrics=anchor_metrics(anchor_S) | {"step_advantage_magnitude": step_S.abs().mean()},
    )
