"""GRSD's shaping: how the reflection-informed teacher moves a turn in its group (arXiv:2607.28076).

    δ = mean lp_T − mean lp_S                        over the tokens of a turn
    s = expm1(clip(sign(a)·δ, −20, 20))
    s̄ = s / (mean |s| over the group's usable turns + ε)
    ĝ = clip(s̄ if |s̄| > η else 0, −g_max, g_max)
    Ã = a · max(0.1, 1 + λ·ĝ)

A turn is usable where its group has a success and a failure and guidance was written from their
contrast; the others keep their advantage.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from stepopsd_rllib.objectives.steps import sum_by
from stepopsd_rllib.objectives.turns import spread_turns, turn_means

MAX_SIGNED_GAP = 20.0
"""Clamp of sign(a)·δ, nats, before the exponential; the authors' code."""

SMALLEST_FACTOR = 0.1
"""Floor of the factor on the advantage, so that no sign flips; the authors' code."""


def grsd_turn_factors(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    turn_BT: Tensor,
    group_S: Tensor,
    usable_S: Tensor,
    *,
    mixing: float = 0.5,
    threshold: float = 0.0,
    max_gain: float = 3.0,
    eps: float = 1e-6,
) -> Tensor:
    """Factor on the advantage of each turn: GRSD at turn granularity.

    Args:
        advantages_BT: Float [B, T], GRPO advantage, constant over the tokens of a turn.
        gap_BT: Float [B, T], Δ = teacher − student log-prob, nats; detached here.
        turn_BT: int64 [B, T], turn of each sampled token, -1 elsewhere.
        group_S: int64 [S], group of each turn.
        usable_S: Bool [S], v.
        mixing: λ ≥ 0 (paper: 0.5); 0 is GRPO.
        threshold: η; smaller |s̄| count as 0.
        max_gain: g_max (authors' code: 3).
        eps: ε.

    Returns:
        Float64 [S] in [0.1, 1 + λ·g_max]; 1 for turns that are not usable.
    """
    num_turns = len(group_S)
    signs_S = turn_means(advantages_BT, turn_BT, num_turns).sign()
    signal_S = _signal(signs_S, turn_means(gap_BT.detach(), turn_BT, num_turns))
    magnitude_S = _group_mean(signal_S.abs(), usable_S.double(), group_S)
    return _factor(signal_S / (magnitude_S + eps), usable_S, mixing, threshold, max_gain)


def grsd_token_factors(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    turn_BT: Tensor,
    group_S: Tensor,
    usable_S: Tensor,
    *,
    normalization: Literal["group", "none"] = "group",
    mixing: float = 0.5,
    threshold: float = 0.0,
    max_gain: float = 3.0,
    eps: float = 1e-6,
) -> Tensor:
    """Factor on the advantage of each token: GRSD with δ the gap of the token itself.

    Args:
        advantages_BT: Float [B, T].
        gap_BT: Float [B, T], nats; detached here.
        turn_BT: int64 [B, T], -1 outside the turns.
        group_S: int64 [S].
        usable_S: Bool [S].
        normalization: "group" divides by the mean |s| over the tokens of the group's usable turns;
            "none" does not.
        mixing: λ.
        threshold: η.
        max_gain: g_max.
        eps: ε.

    Returns:
        Float64 [B, T] in [0.1, 1 + λ·g_max]; 1 outside usable turns.
    """
    sampled_BT = turn_BT >= 0
    signal_BT = _signal(advantages_BT.sign().double(), gap_BT.detach().double())
    signal_BT = torch.where(sampled_BT, signal_BT, torch.zeros_like(signal_BT))
    usable_BT = spread_turns(usable_S.bool(), turn_BT)
    if normalization == "group":
        magnitude_BT = torch.zeros_like(signal_BT)
        magnitude_BT[sampled_BT] = _group_mean(
            signal_BT[sampled_BT].abs(),
            usable_BT[sampled_BT].double(),
            spread_turns(group_S, turn_BT)[sampled_BT],
        )
        signal_BT = signal_BT / (magnitude_BT + eps)
    return _factor(signal_BT, usable_BT, mixing, threshold, max_gain)


def grsd_advantages(advantages_BT: Tensor, factor_BT: Tensor, turn_BT: Tensor) -> Tensor:
    """Applies the factors: Ã = a · factor; the sign of every advantage is kept.

    Args:
        advantages_BT: Float [B, T].
        factor_BT: Float [B, T], from `grsd_token_factors`, or `grsd_turn_factors` spread by
            `turns.spread_turns`.
        turn_BT: int64 [B, T], -1 outside the turns.

    Returns:
        Float [B, T], 0 outside every turn.
    """
    shaped_BT = advantages_BT * factor_BT.to(advantages_BT.dtype)
    return torch.where(turn_BT >= 0, shaped_BT, torch.zeros_like(shaped_BT))


def grsd_shaped(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    turn_BT: Tensor,
    episode_S: Tensor,
    group_N: Tensor,
    usable_N: Tensor,
    *,
    level: Literal["turn", "token"],
    mixing: float,
    threshold: float,
    max_gain: float,
) -> Tensor:
    """GRSD's advantages at one granularity; see `grsd_turn_factors`, `grsd_token_factors`.

    Args:
        advantages_BT: Float [B, T].
        gap_BT: Float [B, T], nats.
        turn_BT: int64 [B, T], turn of each sampled token, -1 elsewhere.
        episode_S: int64 [S], episode of each turn.
        group_N: int64 [N], group of each episode.
        usable_N: Bool [N], whether there is guidance for the episode.
        level: "turn", or "token".
        mixing: λ.
        threshold: η.
        max_gain: g_max.

    Returns:
        Float [B, T], 0 outside every turn.
    """
    inputs = (advantages_BT, gap_BT, turn_BT, group_N[episode_S], usable_N[episode_S])
    knobs: dict[str, Any] = {"mixing": mixing, "threshold": threshold, "max_gain": max_gain}
    if level == "token":
        factor_BT = grsd_token_factors(*inputs, **knobs)
    else:
        factor_BT = spread_turns(grsd_turn_factors(*inputs, **knobs), turn_BT)
    return grsd_advantages(advantages_BT, factor_BT, turn_BT)


def _signal(signs: Tensor, gaps: Tensor) -> Tensor:
    return torch.expm1((signs * gaps).clamp(-MAX_SIGNED_GAP, MAX_SIGNED_GAP))


def _group_mean(values: Tensor, weights: Tensor, group: Tensor) -> Tensor:
    groups_K, index = group.unique(return_inverse=True)
    total_K = sum_by(values * weights, index, len(groups_K))
    return (total_K / sum_by(weights, index, len(groups_K)).clamp(min=1))[index]


def _factor(
    signal: Tensor, usable: Tensor, mixing: float, threshold: float, max_gain: float
) -> Tensor:
    gain = torch.where((signal.abs() > threshold) & usable.bool(), signal, 0.0).clamp(
        -max_gain, max_gain
    )
    return (1 + mixing * gain).clamp(min=SMALLEST_FACTOR)
