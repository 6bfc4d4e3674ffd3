"""HGPO, GraphGPO and G2PO against the outputs of the published programs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stepopsd_rllib.objectives import group_advantages
from stepopsd_rllib.objectives.g2po import g2po_step_advantages, state_values
from stepopsd_rllib.objectives.gigpo import anchor_groups, discounted_returns
from stepopsd_rllib.objectives.graphgpo import distance_returns, goal_distances, state_graph
from stepopsd_rllib.objectives.hgpo import hgpo_advantages
from stepopsd_rllib.objectives.state_groups import centred_in_groups, penalised
from tests.helpers.golden_vectors import Fields, GoldenCase, golden, numbered, tensor

IS_SCALED = {"mean_norm": False, "mean_std_norm": True}


class Rows:
    """The rows of a case, sorted by episode; the golden rows are in time order within one."""

    def __init__(self, inputs: Fields):
        episode_B = numbered(list(zip(inputs["group_id"], inputs["traj_id"], strict=True)))
        self.order_B = episode_B.argsort(stable=True)
        self.episode_S = episode_B[self.order_B]
        self.group_S = numbered(inputs["group_id"])[self.order_B]
        self.mask_BT = tensor(inputs["response_mask"])
        self.is_valid_S = self.sorted(inputs["action_valid"]).bool()
        self.scale = IS_SCALED[inputs["norm"]]
        self.eps = inputs["epsilon"]
        returns_B = tensor(inputs["token_level_rewards"], torch.float64).sum(1)
        groups_B = numbered(inputs["group_id"])
        self.outcome_B = group_advantages(returns_B, groups_B, normalize=self.scale, eps=self.eps)

    def sorted(self, values: list[Any]) -> Tensor:
        return tensor(values, torch.float64)[self.order_B]

    def texts(self, values: list[str]) -> list[str]:
        return [values[i] for i in self.order_B.tolist()]

    def as_given(self, values_S: Tensor) -> Tensor:
        return torch.empty_like(values_S).scatter(0, self.order_B, values_S)

    def on_tokens(self, values_B: Tensor) -> Tensor:
        return values_B[:, None] * self.mask_BT


@golden("hgpo_advantage")
def test_hgpo(case: GoldenCase) -> None:
    inputs = case.inputs
    rows = Rows(inputs)
    returns_S = discounted_returns(
        rows.sorted(inputs["step_reward"]), rows.episode_S, gamma=inputs["gamma"]
    )
    returns_S = penalised(returns_S, rows.is_valid_S, penalty=inputs["penalty"])
    has_tokens_B = rows.mask_BT.sum(1) > 0
    outcome_S = torch.where(has_tokens_B, rows.outcome_B, 0.0)[rows.order_B]
    advantages_S = hgpo_advantages(
        returns_S,
        anchor_groups(rows.texts(inputs["anchor_obs"]), rows.group_S),
        rows.episode_S,
        past_states=inputs["history_length"],
        weight_power=inputs["length_weight_alpha"],
        scale=rows.scale,
        level_weights=inputs["level_weights"],
        outcome_advantages_S=outcome_S if inputs["base_group"] else None,
        eps=rows.eps,
    )
    case.check(rows.as_given(returns_S), case.outputs["step_returns"], "step_returns")
    advantages_BT = rows.on_tokens(rows.as_given(advantages_S))
    case.check(advantages_BT, case.outputs["advantages"], "advantages")


@golden("graphgpo_advantage")
def test_graphgpo(case: GoldenCase) -> None:
    inputs = case.inputs
    rows = Rows(inputs)
    states = rows.texts(inputs["anchor_obs"])
    threshold = inputs["similarity_threshold"]
    graph = state_graph(
        states,
        rows.texts(inputs["next_obs"]),
        rows.group_S,
        goal=inputs["goal_obs"],
        similarity=threshold if inputs["similarity"] else None,
    )
    distance_S, next_distance_S = goal_distances(graph, rows.group_S)
    returns_S = distance_returns(
        distance_S,
        next_distance_S,
        gamma=inputs["gamma"],
        normalize_distance=inputs["normalize_distance"],
        paper_form=inputs["return_form"] == "paper",
    )
    returns_S = penalised(returns_S, rows.is_valid_S, penalty=inputs["penalty"])
    by_node = inputs["step_groups"] == "node"
    alike_S = graph.state_S if by_node else anchor_groups(states, rows.group_S)
    step_S = centred_in_groups(returns_S, alike_S, scale=rows.scale, eps=rows.eps)
    total_B = (
        inputs["step_weight"] * rows.as_given(step_S) + inputs["episode_weight"] * rows.outcome_B
    )
    case.check(rows.as_given(distance_S), case.outputs["distance"], "distance")
    case.check(rows.as_given(next_distance_S), case.outputs["next_distance"], "next_distance")
    case.check(rows.as_given(returns_S), case.outputs["step_returns"], "step_returns")
    case.check(rows.on_tokens(total_B), case.outputs["advantages"], "advantages")


@golden("g2po_advantage")
def test_g2po(case: GoldenCase) -> None:
    inputs = case.inputs
    rows = Rows(inputs)
    return_S = rows.sorted(inputs["episode_reward"])
    state_S = anchor_groups(rows.texts(inputs["anchor_obs"]), rows.group_S)
    value_S, next_value_S = state_values(
        return_S,
        return_S == inputs["success_reward"],
        state_S,
        rows.episode_S,
        success_return=inputs["success_reward"],
        discount=inputs["discount"],
    )
    step_S = g2po_step_advantages(
        value_S,
        next_value_S,
        rows.is_valid_S,
        state_S,
        rows.group_S,
        penalty=inputs["penalty"],
        scale=rows.scale,
        eps=rows.eps,
    )
    step_B = rows.as_given(step_S)
    total_B = rows.outcome_B + inputs["step_weight"] * step_B
    case.check(rows.as_given(value_S), case.outputs["state_value"], "state_value")
    case.check(rows.as_given(next_value_S), case.outputs["next_value"], "next_value")
    case.check(rows.on_tokens(step_B), case.outputs["step_advantages"], "step_advantages")
    case.check(rows.on_tokens(total_B), case.outputs["advantages"], "advantages")
