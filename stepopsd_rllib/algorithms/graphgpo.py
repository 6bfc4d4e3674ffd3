"""GraphGPO: a turn is worth how near it leads to the goal, in the graph of all that was visited.

arXiv:2605.26684. No teacher. The nodes are the states of a task's rollouts, every turn is an edge
s → s' to the state that it led to, and the last turn of a won episode leads to the goal. With d(s)
the number of turns on a shortest path to the goal (one more than the largest in the graph where
there is none),

    R      = 10·γ^{d(s')}, less the penalty of the turn's own invalid action
    A_step = (R − mean(R)) / (std(R) + ε)         over the turns taken from the same state
    A      = w_S·A_step + w_E·A_outcome           w_S = step_weight, w_E = outcome_weight

so an episode that failed is credited for the turns that led nearer. The functions are in
`stepopsd_rllib.objectives.graphgpo`. γ = `distance_discount` is no discount over time; 10 is the
authors' constant, whatever the reward is: the penalty of 0.1 outweighs every distance above 1 at
the default γ.

Departures, and the key that restores each:

- a state is the environment's own text of it (`info["anchor"]`). The authors' ALFWorld keeps a
  record of location, hand and moved objects beside it, and shows that to the policy too; with raw
  texts all states that answered "Nothing happens." are one;
- the goal is the end of an episode that the environment calls won; theirs of one with a return
  above 0, which is the same where only success is rewarded;
- the paper's R has one more factor γ: `return_form="paper"`; their README compares turns of one
  node where similar texts are merged: `node_similarity=0.95, step_groups="node"`.
"""

from __future__ import annotations

from typing import Literal

from ray.rllib.utils.annotations import override

from stepopsd_rllib.algorithms.grpo import GRPO
from stepopsd_rllib.algorithms.shared.states import StatesConfig
from stepopsd_rllib.config_keys import FLAG, key, number, one_of, or_none
from stepopsd_rllib.connectors.columns import ADVANTAGES
from stepopsd_rllib.connectors.learner_connector import LearnerBatch
from stepopsd_rllib.connectors.turn_states import GOAL, successors
from stepopsd_rllib.objectives.graphgpo import (
    distance_returns,
    goal_distances,
    graphgpo_shaping,
    state_graph,
)
from stepopsd_rllib.objectives.shaping import Shaping
from stepopsd_rllib.objectives.state_groups import penalised


class GraphGPOConfig(StatesConfig):
    """Configuration of GraphGPO; defaults follow the authors' code and ALFWorld script."""

    step_weight: float = key(
        1.0,
        number(0),
        "weight of the step advantage; 0 is GRPO where outcome_weight is 1",
        symbol="w_S",
        paper="1",
    )
    outcome_weight: float = key(
        1.0, number(0), "weight of the outcome advantage", symbol="w_E", paper="1"
    )
    distance_discount: float = key(
        0.1,
        number(above=0, high=1),
        "factor of the return a turn of distance; 1 removes the step advantage",
        symbol="γ",
        paper="0.1; 0.2 on WebShop, 0.8 on Sokoban",
    )
    normalize_distance: bool = key(
        False, FLAG, "distance of the successor measured against the state's own", paper="false"
    )
    return_form: Literal["code", "paper"] = key(
        "code", one_of("code", "paper"), "step return: 10·γ^d, or one more factor γ"
    )
    node_similarity: float | None = key(
        None,
        or_none(number(above=0, high=1)),
        "ratio from which two texts are one node; none asks for equal texts",
        paper="off; 0.95 in the authors' option",
    )
    step_groups: Literal["state", "node"] = key(
        "state", one_of("state", "node"), "turns that are compared: of equal texts, or of one node"
    )

    @override(StatesConfig)
    def compares_states(self) -> bool:
        """Whether the advantage is another than GRPO's."""
        return self.step_weight > 0 or self.outcome_weight != 1

    @override(StatesConfig)
    def shape(self, batch: LearnerBatch) -> Shaping:
        """Builds the graph of a batch and compares every turn by its distance to the goal."""
        states = self.turn_states(batch)
        graph = state_graph(
            [turn.anchor for episode in batch.episodes for turn in episode.turns],
            successors(batch.episodes),
            states.group_S,
            goal=GOAL,
            similarity=self.node_similarity,
        )
        distances = goal_distances(graph, states.group_S)
        return_S = distance_returns(
            *distances,
            gamma=self.distance_discount,
            normalize_distance=self.normalize_distance,
            paper_form=self.return_form == "paper",
        )
        return graphgpo_shaping(
            batch.tokens[ADVANTAGES],
            distances,
            penalised(return_S, states.is_valid_S, penalty=self.invalid_action_penalty),
            graph.state_S if self.step_groups == "node" else states.anchor_S,
            states.turn_R1,
            step_weight=self.step_weight,
            outcome_weight=self.outcome_weight,
            scale=self.normalize_advantages,
            eps=self.advantage_eps,
        )


class GraphGPO(GRPO):
    """GraphGPO as an RLlib algorithm."""

    config_class = GraphGPOConfig
