"""G2PO: a value for every visited state, and two advantages of the edge that a turn is.

arXiv:2606.22995. No teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepopsd_rllib.objectives.shaping import Shaping
from stepopsd_rllib.objectives.state_groups import anchor_metrics, centred_in_groups, penalised
from stepopsd_rllib.objectives.steps import sum_by
from stepopsd_rllib.objectives.turns import spread_turns

VALUE_DISCOUNT = 0.95
"""Discount a turn inside V; a constant of the authors' program, whatever its γ is."""


def state_values(
    returns_S: Tensor,
    is_success_S: Tensor,
    state_S: Tensor,
    episode_S: Tensor,
    *,
    success_return: float,
    discount: float = VALUE_DISCOUNT,
) -> tuple[Tensor, Tensor]:
    """Mean discounted return of all visits of a state, and the value of what follows a turn.

        V(s) = mean over all visits of s of  discount^{T − t}·R          t = 0 … T − 1
        V'   = success_return at the end of a success, 0 at another end, else V(next state)

    Args:
        returns_S: Float [S], episode return R before penalties, the same on every turn.
        is_success_S: Bool [S], whether the turn's episode succeeded. The authors' program asks
            whether R is exactly 10, so that a reward of 1 counts as lost at its end.
        state_S: int64 [S], state of each turn.
        episode_S: int64 [S], sorted; the turns of an episode in time order.
        success_return: Value of a won end (authors: 10).
        discount: Factor a turn.

    Returns:
        V(s) and V', float64 [S] each, unit of the return.
    """
    _, row_S, count_N = episode_S.unique_consecutive(return_inverse=True, return_counts=True)
    first_N = count_N.cumsum(0) - count_N
    time_S = torch.arange(len(episode_S), device=episode_S.device) - first_N[row_S]
    left_S = count_N[row_S] - time_S
    worth_S = returns_S.double() * torch.tensor(discount, dtype=torch.float64) ** left_S
    _, index_S, size_K = state_S.unique(return_inverse=True, return_counts=True)
    value_S = (sum_by(worth_S, index_S, len(size_K)) / size_K)[index_S]
    end_S = torch.where(is_success_S.bool(), success_return, 0.0).double()
    is_last_S = left_S == 1
    return value_S, torch.where(is_last_S, end_S, value_S.roll(-1))


def g2po_step_advantages(
    value_S: Tensor,
    next_value_S: Tensor,
    is_valid_S: Tensor,
    state_S: Tensor,
    group_S: Tensor,
    *,
    penalty: float,
    scale: bool,
    eps: float = 1e-6,
) -> Tensor:
    """Compares a turn with the other turns out of its state, and with all of its task.

        x = V' − penalty·(1 − v)      a₁ = x centred (and scaled) over the turns in the same state
        δ = V' − V(s)                 a₂ = δ centred (and scaled) over the turns of the task
        A_step = a₁ + a₂

    Args:
        value_S: Float [S], V(s).
        next_value_S: Float [S], V'.
        is_valid_S: Bool [S].
        state_S: int64 [S].
        group_S: int64 [S], group (task) of each turn.
        penalty: Taken for an invalid action, in a₁ alone (authors: 0.1).
        scale: Divide by the deviation, divisor n − 1.
        eps: Added to it.

    Returns:
        Float64 [S]. The only turn of a task gets 0, where the authors' program gives NaN.
    """
    after_S = penalised(next_value_S, is_valid_S, penalty=penalty)
    in_state_S = centred_in_groups(after_S, state_S, scale=scale, eps=eps)
    in_task_S = centred_in_groups(next_value_S - value_S, group_S, scale=scale, eps=eps)
    return in_state_S + in_task_S


def g2po_shaping(
    outcome_advantages_BT: Tensor,
    step_advantages_S: Tensor,
    values: tuple[Tensor, Tensor],
    state_S: Tensor,
    turn_BT: Tensor,
    *,
    step_weight: float,
) -> Shaping:
    """G2PO's advantages on tokens, and what the values look like: A = A_outcome + ω·A_step.

    Args:
        outcome_advantages_BT: Float [B, T], the GRPO advantage.
        step_advantages_S: Float [S], of `g2po_step_advantages`.
        values: V(s) and V', of `state_values`.
        state_S: int64 [S], state of each turn.
        turn_BT: int64 [B, T], turn of each token, -1 elsewhere.
        step_weight: ω; 0 is GRPO.
    """
    value_S, next_value_S = values
    step_BT = spread_turns(step_advantages_S, turn_BT).to(outcome_advantages_BT.dtype)
    return Shaping(
        advantages=outcome_advantages_BT + step_weight * step_BT,
        metrics=anchor_metrics(state_S)
        | {
            "state_value_mean": value_S.mean(),
            "value_step_magnitude": (next_value_S - value_S).abs().mean(),
            "step_advantage_magnitude": step_advantages_S.abs().mean(),
        },
    )
