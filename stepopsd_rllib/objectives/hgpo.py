"""HGPO: turns in the same state are compared the more, the longer the history they share.

arXiv:2602.22817. No teacher and no episode term of its own.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stepopsd_rllib.objectives.advantages import EQUAL_RETURNS_SPREAD
from stepopsd_rllib.objectives.shaping import Shaping
from stepopsd_rllib.objectives.state_groups import anchor_metrics, centred_in_groups
from stepopsd_rllib.objectives.turns import spread_turns, turn_spans

LevelWeights = Literal["code", "paper"]
NO_HISTORY = -1
"""Key of a turn at a level that its episode is too short for."""


def history_keys(state_S: Tensor, episode_S: Tensor, *, past_states: int) -> Tensor:
    """Names the last states of each turn, the current one last, at every level.

    Args:
        state_S: int64 [S], state of each turn; equal numbers are equal states of one task.
        episode_S: int64 [S], sorted; the turns of an episode in time order.
        past_states: K, the largest number of states before the current one.

    Returns:
        int64 [K + 1, S]. Equal keys at level ℓ (row ℓ − 1) mean equal last ℓ states; -1 where fewer
        than ℓ − 1 turns precede.
    """
    keys_S = state_S.unique(return_inverse=True)[1]
    levels = [keys_S]
    follows_S = torch.zeros_like(state_S, dtype=torch.bool)
    follows_S[1:] = episode_S[1:] == episode_S[:-1]
    for _ in range(past_states):
        previous_S = torch.full_like(keys_S, NO_HISTORY)
        previous_S[1:] = levels[-1][:-1]
        exists_S = follows_S & (previous_S != NO_HISTORY)
        pairs_S = previous_S * (int(keys_S.max()) + 1 if len(keys_S) else 1) + keys_S
        level_S = torch.full_like(keys_S, NO_HISTORY)
        level_S[exists_S] = pairs_S[exists_S].unique(return_inverse=True)[1]
        levels.append(level_S)
    return torch.stack(levels)


def hgpo_advantages(
    returns_S: Tensor,
    state_S: Tensor,
    episode_S: Tensor,
    *,
    past_states: int,
    weight_power: float,
    scale: bool,
    level_weights: LevelWeights = "code",
    outcome_advantages_S: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Mixes the comparisons of a turn over the levels of shared history.

        a_ℓ = G − mean(G of the turns with the same last ℓ states)       ℓ = 1 … K + 1
        A   = Σ w_ℓ·a_ℓ / (Σ w_ℓ + ε),   w_ℓ = (ℓ + 1)^α                 over levels with a_ℓ ≠ 0

    With `scale`, a_ℓ is divided by the population deviation + ε. A level at which a turn is alone,
    or sits exactly on the mean, is missing, not zero: the other levels count undiluted.

    Args:
        returns_S: Float [S], discounted return from each turn on, own penalty taken afterwards.
        state_S: int64 [S], see `history_keys`.
        episode_S: int64 [S], see `history_keys`.
        past_states: K (authors: 2, the prompt's history window).
        weight_power: α (authors: 1).
        scale: Divide by the deviation (authors: on ALFWorld; not on WebShop).
        level_weights: "code": (ℓ + 1)^α, that is 2, 3, 4 for K = 2, as the authors' program;
            "paper": ℓ^α, that is 1, 2, 3.
        outcome_advantages_S: Float [S] or none: one more level of weight 1, the turn's GRPO
            advantage (authors: off); also missing where it is 0.
        eps: ε, unit of the return.

    Returns:
        Float [S]; 0 where no level speaks.
    """
    total_S = torch.zeros(len(returns_S), dtype=torch.float64, device=returns_S.device)
    weights_S = torch.zeros_like(total_S)

    def add(advantage_S: Tensor, weight: float) -> None:
        speaks_S = advantage_S.abs() >= EQUAL_RETURNS_SPREAD
        total_S.add_(torch.where(speaks_S, weight * advantage_S, 0.0))
        weights_S.add_(torch.where(speaks_S, weight, 0.0))

    if outcome_advantages_S is not None:
        add(outcome_advantages_S.double(), 1.0)
    alone_S = -2 - torch.arange(len(state_S), device=state_S.device)
    keys_LS = history_keys(state_S, episode_S, past_states=past_states)
    for level, keys_S in enumerate(keys_LS, start=1):
        group_S = torch.where(keys_S == NO_HISTORY, alone_S, keys_S)
        advantage_S = centred_in_groups(returns_S, group_S, scale=scale, eps=eps, divisor_less=0)
        weight = level + 1 if level_weights == "code" else level
        add(advantage_S, float(weight) ** weight_power)
    return (total_S / (weights_S + eps)).to(returns_S.dtype)


def hgpo_shaping(
    outcome_advantages_BT: Tensor,
    returns_S: Tensor,
    state_S: Tensor,
    episode_S: Tensor,
    turn_BT: Tensor,
    *,
    mixing: float,
    past_states: int,
    weight_power: float,
    level_weights: LevelWeights,
    outcome_level: bool,
    scale: bool,
    eps: float,
) -> Shaping:
    """HGPO's advantages on tokens, and how much history is shared.

        Ã = (1 − λ)·A_outcome + λ·A

    Args:
        outcome_advantages_BT: Float [B, T], the GRPO advantage.
        returns_S: Returns as in `hgpo_advantages`.
        state_S: States as there, and so are `past_states`, `weight_power`, `level_weights`,
            `scale` and `eps`.
        episode_S: Episodes as there.
        turn_BT: int64 [B, T], turn of each token, -1 elsewhere.
        mixing: λ in [0, 1]; 1 is HGPO, 0 is GRPO.
        past_states: K.
        weight_power: α.
        level_weights: Weights of the levels.
        outcome_level: Whether the GRPO advantage is one more level.
        scale: Divide by the deviation.
        eps: ε.
    """
    first_S, _ = turn_spans(turn_BT, len(episode_S))
    advantages_S = hgpo_advantages(
        returns_S,
        state_S,
        episode_S,
        past_states=past_states,
        weight_power=weight_power,
        scale=scale,
        level_weights=level_weights,
        outcome_advantages_S=outcome_advantages_BT.flatten()[first_S] if outcome_level else None,
        eps=eps,
    )
    deepest_S = history_keys(state_S, episode_S, past_states=past_states)[-1]
    _, number_S, size_K = deepest_S.unique(return_inverse=True, return_counts=True)
    is_shared_S = (size_K[number_S] > 1) & (deepest_S != NO_HISTORY)
    step_BT = spread_turns(advantages_S, turn_BT).to(outcome_advantages_BT.dtype)
    return Shaping(
        advantages=(1 - mixing) * outcome_advantages_BT + mixing * step_BT,
        metrics=anchor_metrics(state_S)
        | {
            "history_shared_turn_share": is_shared_S.double().mean(),
            "step_advantage_magnitude": advantages_S.abs().mean(),
        },
    )
