"""AgentOPSD: credit from the moves of a running belief of success (arXiv:2608.05987).

    e_k = Σ_t Δ_{k,t}                               evidence of turn k, nats
    c_k = γ·c_{k−1} + e_k,  c_0 = 0
    B_k = clip(σ(logit(B_0) + c_k), 1e-6, 1 − 1e-6)   belief after turn k;  B_0 = prior of the group
    q_k = B_k − B_{k−1}
    z_k = (q_k − mean q) / (std q + ε)              over the turns of the episode
    m_k = clip(1 + b·sign(a_k)·z_k, 1 − b, 1 + b)
    Ã_k = a_k · ((1 − λ) + λ·m_k)

Departure from the authors' code: the prior divides returns by `max_return` where it is given. Their
prior is the mean of the *reward*, 10 for a success on ALFWorld, so one success in eight already
saturates the belief; `max_return=1.0` restores that.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from stepopsd_rllib.objectives.stepopsd import mix_advantages
from stepopsd_rllib.objectives.steps import sum_by
from stepopsd_rllib.objectives.turns import episode_table, spread_turns, turn_means, turn_sums

BELIEF_CLAMP = 1e-6
"""Distance that a belief keeps from 0 and 1; the authors' code."""


def group_priors(
    returns_N: Tensor, group_N: Tensor, *, max_return: float = 1.0, clamp: float = 1e-4
) -> Tensor:
    """Prior belief of success B_0: mean return of the group over the largest possible return.

    Args:
        returns_N: Float [N], return of each episode, penalties included.
        group_N: int64 [N], group of each episode.
        max_return: Return of a perfect episode; 1 follows the authors' code whatever the reward
            scale is.
        clamp: Distance that the prior keeps from 0 and 1 (authors' code: 1e-4).

    Returns:
        Float64 [N], the prior of each episode's group.
    """
    _, index_N, size_K = group_N.unique(return_inverse=True, return_counts=True)
    mean_K = sum_by(returns_N.double() / max_return, index_N, len(size_K)) / size_K
    return mean_K[index_N].clamp(clamp, 1 - clamp)


def _belief(prior: Tensor, evidence: Tensor) -> Tensor:
    return torch.sigmoid(torch.logit(prior) + evidence).clamp(BELIEF_CLAMP, 1 - BELIEF_CLAMP)


def turn_belief_moves(
    evidence_S: Tensor, prior_S: Tensor, episode_S: Tensor, *, gamma: float
) -> Tensor:
    """Change of the belief caused by each turn: q_k = B_k − B_{k−1}.

    Args:
        evidence_S: Float [S], Σ Δ of each turn, nats; turns in time order.
        prior_S: Float [S], B_0 of each turn's episode.
        episode_S: int64 [S], sorted.
        gamma: Forgetting factor γ a turn (paper: 0.95; authors' scripts: 1).

    Returns:
        Float64 [S], each in (−1, 1).
    """
    evidence_NK, row_S, column_S = episode_table(evidence_S.double(), episode_S)
    prior_NK, _, _ = episode_table(prior_S.double(), episode_S)
    belief_N = prior_N = prior_NK[:, 0] if prior_NK.shape[1] else prior_NK.sum(dim=1)
    accumulated_N = torch.zeros_like(prior_N)
    moves = []
    for evidence_N in evidence_NK.unbind(dim=1):
        accumulated_N = gamma * accumulated_N + evidence_N
        previous_N, belief_N = belief_N, _belief(prior_N, accumulated_N)
        moves.append(belief_N - previous_N)
    return torch.stack(moves, dim=1)[row_S, column_S] if moves else evidence_S.double()


def turn_multipliers(
    moves_S: Tensor,
    signs_S: Tensor,
    episode_S: Tensor,
    *,
    band: float,
    signed: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """Multiplier of each turn's advantage: how its move compares with the episode's others.

        z_k = (q_k − mean q) / (std q + ε)             population std over the episode's turns
        m_k = clip(1 + b·sign(a_k)·z_k, 1 − b, 1 + b)

    Args:
        moves_S: Float [S], q_k (or the raw evidence e_k for the ablation without a belief).
        signs_S: Float [S], sign of each turn's advantage.
        episode_S: int64 [S], sorted.
        band: b in [0, 1] (paper: 0.2).
        signed: False is the ablation by magnitude: |q_k| in place of q_k, and no sign.
        eps: ε.

    Returns:
        Float64 [S] in [1 − b, 1 + b]; 1 for the only turn of an episode.
    """
    moves_S = moves_S.double() if signed else moves_S.double().abs()
    _, index_S, size_N = episode_S.unique_consecutive(return_inverse=True, return_counts=True)
    centred_S = moves_S - (sum_by(moves_S, index_S, len(size_N)) / size_N)[index_S]
    std_N = (sum_by(centred_S.square(), index_S, len(size_N)) / size_N).sqrt()
    scaled_S = centred_S / (std_N[index_S] + eps)
    signs_S = signs_S.double() if signed else torch.ones_like(scaled_S)
    return (1 + band * signs_S * scaled_S).clamp(1 - band, 1 + band)


def agentopsd_turn_advantages(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    turn_BT: Tensor,
    prior_S: Tensor,
    episode_S: Tensor,
    *,
    gamma: float = 0.95,
    mixing: float = 0.5,
    band: float = 0.2,
    uses_belief: bool = True,
    signed: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """AgentOPSD at turn granularity.

    Args:
        advantages_BT: Float [B, T], GRPO advantage, constant over the tokens of a turn.
        gap_BT: Float [B, T], Δ = teacher − student log-prob, nats; detached here.
        turn_BT: int64 [B, T], turn of each sampled token, -1 elsewhere (`turns.turn_ids`).
        prior_S: Float [S], B_0 of each turn's episode, from `group_priors`.
        episode_S: int64 [S], sorted.
        gamma: γ.
        mixing: λ in [0, 1] (paper: 0.5); 0 is GRPO.
        band: b in [0, 1] (paper: 0.2).
        uses_belief: False replaces q_k by the raw evidence e_k (an ablation).
        signed: See `turn_multipliers`.
        eps: ε.

    Returns:
        Float [B, T], 0 outside every turn. |Ã − a| ≤ λ·b·|a|.
    """
    num_turns = len(episode_S)
    moves_S = turn_sums(gap_BT.detach(), turn_BT, num_turns)
    if uses_belief:
        moves_S = turn_belief_moves(moves_S, prior_S, episode_S, gamma=gamma)
    signs_S = turn_means(advantages_BT, turn_BT, num_turns).sign()
    multiplier_S = turn_multipliers(moves_S, signs_S, episode_S, band=band, signed=signed, eps=eps)
    multiplier_BT = spread_turns(multiplier_S.to(advantages_BT.dtype), turn_BT)
    return mix_advantages(advantages_BT, multiplier_BT, turn_BT >= 0, lambda_mix=mixing)


def agentopsd_token_advantages(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    turn_BT: Tensor,
    prior_S: Tensor,
    *,
    gamma: float = 1.0,
    mixing: float = 0.5,
    band: float = 0.2,
    uses_belief: bool = True,
    signed: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """AgentOPSD at token granularity: the recursion over the tokens of each turn.

    The divisor is sqrt(var q + ε) + ε over the tokens of the turn. The authors' scripts use it for
    Search-QA and WebShop.

    Args:
        advantages_BT: Float [B, T].
        gap_BT: Float [B, T]; detached here.
        turn_BT: int64 [B, T], -1 outside the turns.
        prior_S: Float [S].
        gamma: γ a token (authors' scripts: 1).
        mixing: λ in [0, 1].
        band: b in [0, 1].
        uses_belief: False replaces q_t by Δ_t.
        signed: False is the ablation by magnitude.
        eps: ε.

    Returns:
        Float [B, T], 0 outside every turn.
    """
    sampled_BT = turn_BT >= 0
    gap_BT = torch.where(sampled_BT, gap_BT.detach(), torch.zeros_like(gap_BT)).double()
    moves_BT = (
        _token_belief_moves(gap_BT, turn_BT, prior_S.double(), gamma) if uses_belief else gap_BT
    )
    moves_BT = moves_BT if signed else moves_BT.abs()
    num_turns = len(prior_S)
    centred_BT = moves_BT - spread_turns(turn_means(moves_BT, turn_BT, num_turns), turn_BT)
    variance_BT = spread_turns(turn_means(centred_BT.square(), turn_BT, num_turns), turn_BT)
    scaled_BT = centred_BT / ((variance_BT + eps).sqrt() + eps)
    signs_BT = advantages_BT.sign().double() if signed else torch.ones_like(scaled_BT)
    multiplier_BT = (
        (1 + band * signs_BT * scaled_BT).clamp(1 - band, 1 + band).to(advantages_BT.dtype)
    )
    return mix_advantages(advantages_BT, multiplier_BT, sampled_BT, lambda_mix=mixing)


def agentopsd_advantages(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    turn_BT: Tensor,
    episode_S: Tensor,
    prior_N: Tensor,
    *,
    level: Literal["turn", "token"],
    **knobs: Any,
) -> Tensor:
    """AgentOPSD's advantages at one granularity.

    Args:
        advantages_BT: Float [B, T], the GRPO advantage.
        gap_BT: Δ, float [B, T], nats.
        turn_BT: int64 [B, T], turn of each sampled token, -1 elsewhere.
        episode_S: int64 [S], episode of each turn.
        prior_N: Float [N], B_0 of each episode, from `group_priors`.
        level: "turn", or "token".
        **knobs: Keywords of `agentopsd_turn_advantages` and `agentopsd_token_advantages`.

    Returns:
        Float [B, T].
    """
    inputs = (advantages_BT, gap_BT, turn_BT, prior_N[episode_S])
    if level == "token":
        return agentopsd_token_advantages(*inputs, **knobs)
    return agentopsd_turn_advantages(*inputs, episode_S, **knobs)


def _token_belief_moves(gap_BT: Tensor, turn_BT: Tensor, prior_S: Tensor, gamma: float) -> Tensor:
    # A token that does not count brings no evidence, but the turn goes on behind it.
    turn_BT = _latest_turn(turn_BT)
    # Before the first turn any prior does, as long as its logit is finite.
    prior_BT = torch.where(turn_BT >= 0, spread_turns(prior_S, turn_BT), 0.5)
    moves_BT = torch.zeros_like(gap_BT)
    accumulated_B = torch.zeros_like(gap_BT[:, 0])
    belief_B = prior_BT[:, 0]
    for t in range(gap_BT.shape[1]):
        prior_B = prior_BT[:, t]
        continues_B = (
            turn_BT[:, t] == turn_BT[:, t - 1]
            if t
            else torch.zeros_like(belief_B, dtype=torch.bool)
        )
        accumulated_B = torch.where(continues_B, gamma * accumulated_B, 0.0) + gap_BT[:, t]
        previous_B = torch.where(continues_B, belief_B, prior_B)
        belief_B = _belief(prior_B, accumulated_B)
        moves_BT[:, t] = belief_B - previous_B
    return moves_BT


def _latest_turn(turn_BT: Tensor) -> Tensor:
    """Turn of the last token of a turn at or before each position, -1 before the first."""
    position_T = torch.arange(turn_BT.shape[1], device=turn_BT.device)
    latest_BT = torch.where(turn_BT >= 0, position_T, -1).cummax(1).values
    return torch.where(latest_BT >= 0, turn_BT.gather(1, latest_BT.clamp(min=0)), -1)
