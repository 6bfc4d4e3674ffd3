"""ICSD: SDAR's gate moved, inside each turn, to tokens that also serve the reward.

arXiv:2608.14945. No program is public: these are the paper's equations, with what they leave open
settled as the docstrings say. The total weight of a turn is SDAR's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepopsd_rllib.objectives.reduction import same_shape
from stepopsd_rllib.objectives.sdar import gap_gate
from stepopsd_rllib.objectives.steps import sum_by


@dataclass(frozen=True, kw_only=True, slots=True)
class InfluenceGate:
    """The gate and what it was made of; float64 [B, T], detached, 0 on tokens of no turn.

    Attributes:
        influence_BT: u = A·ρ·Δ, first-order response of A·ρ to a step towards the teacher.
        modulation_BT: m̃ in (0, 1).
        coefficient_BT: c, what multiplies the token loss; sums to SDAR's gate over each turn.
    """

    influence_BT: Tensor
    modulation_BT: Tensor
    coefficient_BT: Tensor


def influence_gate(
    advantages_BT: Tensor,
    policy_log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    teacher_log_probs_BT: Tensor,
    turn_BT: Tensor,
    *,
    beta: float,
    split: float,
) -> InfluenceGate:
    """The gate of every token, calibrated within its turn.

        ρ = exp(lp − lp_old),   Δ = lp_T − lp,   g = σ(β·Δ),   u = A·ρ·Δ
        μ = median(u),  b⁻ = mean(μ − u over u < μ),  b⁺ = mean(u − μ over u ≥ μ)     of the turn
        m̃ = η·exp((u − μ)/b⁻)              where u < μ
        m̃ = 1 − (1 − η)·exp(−(u − μ)/b⁺)   where u ≥ μ
        c  = g on tokens with A < 0 and Δ < 0;  α·g·m̃ on the others, α keeping their sum of g

    The median of an even number is the mean of the two middle values; b⁺ = 0 gives m̃ = η; a sum of
    g·m̃ of 0 gives α = 1; ρ is not clipped. A turn of one token, equal influences, or A = 0 give
    SDAR's gate.

    Args:
        advantages_BT: Float [B, T].
        policy_log_probs_BT: Float [B, T], current policy, nats.
        old_log_probs_BT: Float [B, T], policy before the step, nats.
        teacher_log_probs_BT: Float [B, T], nats.
        turn_BT: int64 [B, T], turn of each sampled token; -1 elsewhere.
        beta: β, sharpness per nat (5).
        split: η in (0, 1), modulation at the median (0.5).

    Returns:
        Gate, modulation and influence.
    """
    same_shape(
        advantages=advantages_BT,
        policy=policy_log_probs_BT,
        old=old_log_probs_BT,
        teacher=teacher_log_probs_BT,
        turn=turn_BT,
    )
    counted_BT = turn_BT >= 0
    policy_P = policy_log_probs_BT.detach()[counted_BT].double()
    teacher_P = teacher_log_probs_BT.detach()[counted_BT].double()
    advantage_P = advantages_BT.detach()[counted_BT].double()
    ratio_P = (policy_P - old_log_probs_BT.detach()[counted_BT].double()).exp()
    gap_P = teacher_P - policy_P
    gate_P = gap_gate(policy_P, teacher_P, beta=beta)
    influence_P = advantage_P * ratio_P * gap_P
    _, index_P = turn_BT[counted_BT].unique(return_inverse=True)
    modulation_P = _modulation(influence_P, index_P, split)
    keeps_P = (advantage_P < 0) & (gap_P < 0)
    num_turns = int(index_P.max()) + 1 if len(index_P) else 0
    shared_P = torch.where(keeps_P, 0.0, gate_P)
    modulated_P = shared_P * modulation_P
    sum_Q, modulated_Q = (
        sum_by(values_P, index_P, num_turns) for values_P in (shared_P, modulated_P)
    )
    factor_Q = torch.where(modulated_Q > 0, sum_Q / modulated_Q, torch.ones_like(sum_Q))
    coefficient_P = torch.where(keeps_P, gate_P, factor_Q[index_P] * modulated_P)

    def spread(values_P: Tensor) -> Tensor:
        out_BT = torch.zeros(turn_BT.shape, dtype=torch.float64, device=turn_BT.device)
        out_BT[counted_BT] = values_P
        return out_BT

    return InfluenceGate(
        influence_BT=spread(influence_P),
        modulation_BT=spread(modulation_P),
        coefficient_BT=spread(coefficient_P),
    )


def _modulation(influence_P: Tensor, index_P: Tensor, split: float) -> Tensor:
    """m̃ of every token, from the median and the mean deviations of its turn."""
    num_turns = int(index_P.max()) + 1 if len(index_P) else 0
    if num_turns == 0:
        return torch.zeros_like(influence_P)
    distance_P = influence_P - _medians(influence_P, index_P, num_turns)[index_P]
    is_below_P = distance_P < 0

    def mean_deviation(among_P: Tensor) -> Tensor:
        """Mean |u − μ| over some tokens of each turn; [Q]."""
        sum_Q = sum_by(torch.where(among_P, distance_P.abs(), 0.0), index_P, num_turns)
        return sum_Q / sum_by(among_P.double(), index_P, num_turns).clamp(min=1)

    below_P = mean_deviation(is_below_P)[index_P]
    above_P = mean_deviation(~is_below_P)[index_P]
    # A deviation of 0 divides nothing: below the median there is none, above it m̃ is η.
    below_P, safe_P = (torch.where(b > 0, b, torch.ones_like(b)) for b in (below_P, above_P))
    upper_P = 1 - (1 - split) * (-distance_P.clamp(min=0) / safe_P).exp()
    lower_P = split * (distance_P.clamp(max=0) / below_P).exp()
    upper_P = torch.where(above_P > 0, upper_P, torch.full_like(upper_P, split))
    return torch.where(is_below_P, lower_P, upper_P)


def _medians(values_P: Tensor, index_P: Tensor, num_groups: int) -> Tensor:
    """Median of each group, mean of the middle two where their number is even; [Q]."""
    by_value_P = values_P.argsort(stable=True)
    order_P = by_value_P[index_P[by_value_P].argsort(stable=True)]
    size_Q = index_P.bincount(minlength=num_groups)
    first_Q = size_Q.cumsum(0) - size_Q
    sorted_P = values_P[order_P]
    low_Q, high_Q = sorted_P[first_Q + (size_Q - 1) // 2], sorted_P[first_Q + size_Q // 2]
    return (low_Q + high_Q) / 2
