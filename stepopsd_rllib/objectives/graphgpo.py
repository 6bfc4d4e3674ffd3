"""GraphGPO: a turn is worth how near it leads to the goal, in the graph of all that was visited.

arXiv:2605.26684. The graph of a task joins the episodes of its group, whatever became of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepopsd_rllib.objectives.gigpo import anchor_groups
from stepopsd_rllib.objectives.shaping import Shaping
from stepopsd_rllib.objectives.state_groups import anchor_metrics, centred_in_groups
from stepopsd_rllib.objectives.turns import spread_turns

GOAL_RETURN = 10.0
"""Step return next to the goal; a constant of the authors' program, whatever the reward is."""

UNREACHED = torch.iinfo(torch.int64).max // 4


@dataclass(frozen=True, kw_only=True, slots=True)
class StateGraph:
    """The edges s → s' of a batch; nodes of different groups never meet.

    Attributes:
        state_S: int64 [S], node that each turn started from.
        next_S: int64 [S], node that it led to.
        goal_S: int64 [S], goal node of the turn's group.
    """

    state_S: Tensor
    next_S: Tensor
    goal_S: Tensor


def state_graph(
    states: Sequence[str],
    next_states: Sequence[str],
    group_S: Tensor,
    *,
    goal: str = "success",
    similarity: float | None = None,
) -> StateGraph:
    """Numbers states, successors and goals.

    Args:
        states: Text of the state before each turn, S of them.
        next_states: Text after it; `goal` where the turn won. A text that reads like the goal is
            the goal.
        group_S: int64 [S], group (task) of each turn.
        goal: Text of the goal node.
        similarity: None: nodes are equal texts. A ratio in (0, 1] joins a text to the first node
            whose first text is at least that similar; texts are taken turn by turn, each state
            before its successor, the goal last (authors' option: 0.95).

    Returns:
        The graph.
    """
    groups = group_S.unique()
    texts = [text for pair in zip(states, next_states, strict=True) for text in pair]
    owner_X = torch.cat((group_S.repeat_interleave(2), groups))
    nodes_X = anchor_groups([*texts, *[goal] * len(groups)], owner_X, similarity=similarity)
    goal_K = nodes_X[len(texts) :]
    return StateGraph(
        state_S=nodes_X[0 : len(texts) : 2],
        next_S=nodes_X[1 : len(texts) : 2],
        goal_S=goal_K[torch.searchsorted(groups, group_S)],
    )


def goal_distances(graph: StateGraph, group_S: Tensor) -> tuple[Tensor, Tensor]:
    """Length of the shortest path from each turn's state, and from its successor, to the goal.

        d(goal) = 0,   d(s) = 1 + min over edges s → s' of d(s')

    A node without a path gets the largest finite distance of its group's graph + 1 (1 if nobody
    reached the goal).

    Args:
        graph: The edges.
        group_S: int64 [S], group of each turn.

    Returns:
        d(s) and d(s'), int64 [S] each, in turns.
    """
    num_nodes = int(torch.cat((graph.state_S, graph.next_S, graph.goal_S)).max()) + 1
    distance_V = torch.full((num_nodes,), UNREACHED, device=group_S.device)
    distance_V[graph.goal_S] = 0
    while True:
        through_S = distance_V[graph.next_S] + 1
        shorter_V = distance_V.scatter_reduce(0, graph.state_S, through_S, "amin")
        shorter_V[graph.goal_S] = 0
        shorter_V = shorter_V.clamp(max=UNREACHED)
        if torch.equal(shorter_V, distance_V):
            break
        distance_V = shorter_V
    _, index_S, _ = group_S.unique(return_inverse=True, return_counts=True)
    largest_K = torch.zeros(int(index_S.max()) + 1, dtype=torch.int64, device=group_S.device)
    for nodes_S in (graph.state_S, graph.next_S):
        found_S = distance_V[nodes_S]
        finite_S = torch.where(found_S >= UNREACHED, 0, found_S)
        largest_K = largest_K.scatter_reduce(0, index_S, finite_S, "amax")
    beyond_S = largest_K[index_S] + 1

    def finite(nodes_S: Tensor) -> Tensor:
        return torch.where(distance_V[nodes_S] >= UNREACHED, beyond_S, distance_V[nodes_S])

    return finite(graph.state_S), finite(graph.next_S)


def distance_returns(
    distance_S: Tensor,
    next_distance_S: Tensor,
    *,
    gamma: float,
    normalize_distance: bool = False,
    paper_form: bool = False,
) -> Tensor:
    """Step return of a turn from where it led.

        R = 10·γ^{d(s')}                     the authors' program
        R = 10·γ^{d(s') − d(s) + 1}          normalize_distance: 10 along a shortest path
        R = γ times that                     the paper's form

    Args:
        distance_S: int64 [S], d(s).
        next_distance_S: int64 [S], d(s').
        gamma: γ, a factor a turn of distance, not a discount over time (authors: 0.1 on ALFWorld,
            0.2 on WebShop); 1 removes the step term.
        normalize_distance: Measure against d(s).
        paper_form: One more factor γ.

    Returns:
        Float64 [S] in (0, 10·γ^{-…}], before penalties.
    """
    exponent_S = next_distance_S.double()
    if normalize_distance:
        exponent_S = exponent_S - distance_S + 1
    if paper_form:
        exponent_S = exponent_S + 1
    return GOAL_RETURN * torch.tensor(gamma, dtype=torch.float64) ** exponent_S


def graphgpo_shaping(
    outcome_advantages_BT: Tensor,
    distances: tuple[Tensor, Tensor],
    returns_S: Tensor,
    alike_S: Tensor,
    turn_BT: Tensor,
    *,
    step_weight: float,
    outcome_weight: float,
    scale: bool,
    eps: float,
) -> Shaping:
    """GraphGPO's advantages on tokens, and what the graph looks like.

        A = w_S·A_step + w_E·A_outcome        A_step = R centred (and scaled) over alike turns

    Args:
        outcome_advantages_BT: Float [B, T], the GRPO advantage.
        distances: d(s) and d(s'), of `goal_distances`.
        returns_S: Float [S], R, of `distance_returns`, less each turn's own penalty.
        alike_S: int64 [S], which turns are compared.
        turn_BT: int64 [B, T], turn of each token, -1 elsewhere.
        step_weight: w_S; 0 with w_E = 1 is GRPO.
        outcome_weight: w_E.
        scale: Divide by the deviation, divisor n − 1.
        eps: Added to it.

    Returns:
        A, with `goal_distance_mean`, the mean d(s) in turns, and `nearing_turn_share`, the share of
        the turns that led nearer to the goal.
    """
    step_S = centred_in_groups(returns_S, alike_S, scale=scale, eps=eps)
    step_BT = spread_turns(step_S, turn_BT).to(outcome_advantages_BT.dtype)
    distance_S, next_distance_S = distances
    return Shaping(
        advantages=outcome_weight * outcome_advantages_BT + step_weight * step_BT,
        metrics=anchor_metrics(alike_S)
        | {
            "goal_distance_mean": distance_S.double().mean(),
            "nearing_turn_share": (next_distance_S < distance_S).double().mean(),
            "step_advantage_magnitude": step_S.abs().mean(),
        },
    )
