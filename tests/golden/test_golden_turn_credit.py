"""OPID, GiGPO, AgentOPSD, GRSD and ADRS against the outputs of the published programs.

The golden rows are single turns in any order; ours are numbered by episode and time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stepopsd_rllib.objectives import group_advantages, masked_mean
from stepopsd_rllib.objectives.adrs import (
    centred_teacher_reward,
    shaping_reward,
    token_gate,
    turn_gate,
    usefulness,
)
from stepopsd_rllib.objectives.agentopsd import (
    agentopsd_token_advantages,
    agentopsd_turn_advantages,
    group_priors,
)
from stepopsd_rllib.objectives.gigpo import anchor_groups, discounted_returns, gigpo_advantages
from stepopsd_rllib.objectives.grsd import grsd_advantages, grsd_token_factors, grsd_turn_factors
from stepopsd_rllib.objectives.opid import (
    opid_advantages,
    opid_diagnostics,
    route_skills,
    skill_shift,
)
from stepopsd_rllib.objectives.state_groups import centred_in_groups
from stepopsd_rllib.objectives.turns import spread_turns, turn_means
from tests.helpers.golden_vectors import GoldenCase, golden, numbered, tensor

IS_SCALED = {"mean_norm": False, "mean_std_norm": True}
IS_PER_TURN = {"global": False, "per_seq": True}
ADRS_LEVELS = ("none", "L1", "L2", "L3")
ADRS_FIELDS_OF_ONE_LEVEL = (
    *("ref_logprob", "tau", "temperature", "gate_norm"),
    *("group_id", "token_level_rewards", "step_group", "step_reward"),
)


def outcome_advantages(inputs: dict[str, Any], *, normalize: bool) -> Tensor:
    """GRPO's advantage of every row, statistics over rows, written on its tokens."""
    returns_B = tensor(inputs["token_level_rewards"]).sum(1)
    advantage_B = group_advantages(
        returns_B, numbered(inputs["group_id"]), normalize=normalize, eps=inputs["epsilon"]
    )
    return advantage_B[:, None] * tensor(inputs["response_mask"])


def rows_as_turns(mask_BT: Tensor, turn_B: Tensor | None = None) -> Tensor:
    """Turn ids where every row is a turn of its own, numbered as the rows are if not told."""
    turn_B = torch.arange(len(mask_BT)) if turn_B is None else turn_B
    return torch.where(mask_BT != 0, turn_B[:, None], -1)


def episodes(inputs: dict[str, Any]) -> Tensor:
    """Episode of each row; two groups may name theirs alike."""
    return numbered(list(zip(inputs["group_id"], inputs["traj_id"], strict=True)))


def rank(order_B: Tensor) -> Tensor:
    """Place of each row in an order given as a list of rows."""
    return order_B.argsort()


# The outcome advantage counts every row, so the episodes do not matter.
@golden("opid_advantage", leaves=("traj_id",))
def test_opid(case: GoldenCase) -> None:
    inputs = case.inputs
    mask_BT = tensor(inputs["response_mask"])
    outcome_BT = outcome_advantages(inputs, normalize=IS_SCALED[inputs["episode_norm"]])

    def shift(kind: str) -> Tensor:
        return skill_shift(
            tensor(inputs[f"{kind}_skill_logprob"]),
            tensor(inputs["old_logprob"]),
            mask_BT * tensor(inputs[f"{kind}_skill_row_mask"])[:, None],
            normalize=inputs["normalize_skill_adv"],
            clip=inputs["clip_skill_adv"],
            eps=inputs["epsilon"],
        )

    weights = {
        "episode_weight": inputs["weight_episode_skill"],
        "step_weight": inputs["weight_step_skill"],
    }
    shifts = shift("episode"), shift("step")
    skill_BT = opid_advantages(torch.zeros_like(outcome_BT), *shifts, **weights)
    case.check(outcome_BT, case.outputs["episode_advantage"], "episode_advantage")
    case.check(skill_BT, case.outputs["skill_advantage"], "skill_advantage")
    case.check(
        opid_advantages(outcome_BT, *shifts, **weights), case.outputs["advantages"], "advantages"
    )
    for name, value in opid_diagnostics(outcome_BT, skill_BT, mask_BT).items():
        case.check(value, case.outputs[name], name)


@golden("opid_routing")
def test_opid_routing(case: GoldenCase) -> None:
    route = route_skills(
        case.inputs["step_skill"],
        episode_weight=0.001 if case.inputs["episode_weight_positive"] else 0.0,
        step_weight=0.001 if case.inputs["step_weight_positive"] else 0.0,
        routing=case.inputs["mode"],
    )
    assert route.episode_skill == case.outputs["score_episode_prompt"]
    assert route.step_skill == case.outputs["score_step_prompt"]


@golden("gigpo_advantage")
def test_gigpo(case: GoldenCase) -> None:
    inputs = case.inputs
    scale = IS_SCALED[inputs["norm"]]
    episode_B, group_B = episodes(inputs), numbered(inputs["group_id"])
    order_B = episode_B.argsort(stable=True)
    turn_B = rank(order_B)
    returns_S = discounted_returns(
        tensor(inputs["step_reward"])[order_B], episode_B[order_B], gamma=inputs["gamma"]
    )
    threshold = inputs["similarity_threshold"]
    anchor_B = anchor_groups(
        inputs["anchor_obs"], group_B, similarity=threshold if inputs["similarity"] else None
    )
    step_S = centred_in_groups(returns_S, anchor_B[order_B], scale=scale, eps=inputs["epsilon"])
    advantages_BT = gigpo_advantages(
        outcome_advantages(inputs, normalize=scale),
        step_S,
        rows_as_turns(tensor(inputs["response_mask"]), turn_B),
        step_weight=inputs["step_weight"],
    )
    case.check(returns_S[turn_B], case.outputs["step_returns"], "step_returns")
    assert anchor_B.tolist() == numbered(case.outputs["anchor_group"]).tolist()
    case.check(advantages_BT, case.outputs["advantages"], "advantages")


@golden("agentopsd_advantage")
def test_agentopsd(case: GoldenCase) -> None:
    inputs = case.inputs
    mask_BT = tensor(inputs["mask"])
    episode_B, group_B = episodes(inputs), numbered(inputs["group_id"])
    # Every row is a turn: also a row without tokens, and rows that share their turn index.
    order_B = torch.tensor(inputs["turn_index"]).argsort(stable=True)
    order_B = order_B[episode_B[order_B].argsort(stable=True)]
    turn_B = rank(order_B)
    turn_BT = rows_as_turns(mask_BT, turn_B)
    # The prior counts each episode once, by its first row.
    first_N = torch.tensor([episode_B.tolist().index(n) for n in episode_B.unique()])
    prior_N = group_priors(
        tensor(inputs["token_level_rewards"]).sum(1)[first_N],
        group_B[first_N],
        clamp=inputs["prior_clamp"],
    )
    prior_S = prior_N[episode_B[order_B]]
    advantages_BT = tensor(inputs["row_advantage"])[:, None] * mask_BT
    gap_BT = tensor(inputs["teacher_logprob"]) - tensor(inputs["student_logprob"])
    settings = {
        "gamma": inputs["gamma"],
        "mixing": inputs["lambda"],
        "band": inputs["band"],
        "uses_belief": inputs["belief_gate"],
        "signed": inputs["signed"],
        "eps": inputs["eps"],
    }
    by_turn_BT = agentopsd_turn_advantages(
        advantages_BT, gap_BT, turn_BT, prior_S, episode_B[order_B], **settings
    )
    by_token_BT = agentopsd_token_advantages(advantages_BT, gap_BT, turn_BT, prior_S, **settings)
    case.check(prior_S[turn_B], case.outputs["prior"], "prior")
    case.check(by_turn_BT, case.outputs["turn_level_advantages"], "turn level")
    case.check(by_token_BT, case.outputs["token_level_advantages"], "token level")


@golden("grsd_advantage", tags=("turn", "token", "token_none"))
def test_grsd(case: GoldenCase) -> None:
    inputs = case.inputs
    turn_BT = rows_as_turns(tensor(inputs["mask"]))
    arguments = (
        tensor(inputs["advantages"]),
        tensor(inputs["teacher_logprob"]) - tensor(inputs["student_logprob"]),
        turn_BT,
        numbered(inputs["group_id"]),
        torch.tensor(inputs["row_valid"]),
    )
    settings = {
        "mixing": inputs["lambda"],
        "threshold": inputs["eta"],
        "max_gain": inputs["g_max"],
        "eps": inputs["epsilon"],
    }
    gap_BT, usable_S = arguments[1], arguments[-1].double()
    if case.tag == "turn":
        factor_S = grsd_turn_factors(*arguments, **settings)
        factor_BT = spread_turns(factor_S, turn_BT)
        modulation = (factor_S * usable_S).sum() / usable_S.sum()
        gap = turn_means(gap_BT, turn_BT, len(usable_S)).mean()
    else:
        normalization = "group" if case.tag == "token" else "none"
        factor_BT = grsd_token_factors(*arguments, normalization=normalization, **settings)
        modulation = masked_mean(factor_BT, spread_turns(usable_S, turn_BT))
        gap = masked_mean(gap_BT, turn_BT >= 0)
    shaped_BT = grsd_advantages(arguments[0], factor_BT, turn_BT)
    case.check(shaped_BT, case.outputs["advantages"], "advantages")
    case.check(modulation, case.outputs["modulation_mean"], "modulation_mean")
    case.check(gap, case.outputs["skill_gap_mean"], "skill_gap_mean")


@golden("adrs_reward", leaves=ADRS_FIELDS_OF_ONE_LEVEL)
def test_adrs(case: GoldenCase) -> None:
    inputs = case.inputs
    level = inputs["level"]
    assert level in ADRS_LEVELS
    teacher_BT = tensor(inputs["teacher_logprob"])
    turn_BT = rows_as_turns(tensor(inputs["mask"]))
    num_turns = len(turn_BT)
    reward_BT = centred_teacher_reward(
        teacher_BT, turn_BT, num_turns, per_turn=IS_PER_TURN[inputs["normalize_mode"]]
    )
    alignment_S = turn_means(teacher_BT, turn_BT, num_turns)
    if level == "L1":
        gate_BT = token_gate(teacher_BT, tensor(inputs["ref_logprob"]), turn_BT, tau=inputs["tau"])
    elif level in ("L2", "L3"):
        by_task = level == "L2"
        useful_S = usefulness(
            alignment_S,
            tensor(inputs["token_level_rewards"]).sum(1)
            if by_task
            else tensor(inputs["step_reward"]),
            numbered(inputs["group_id"] if by_task else inputs["step_group"]),
            centre=alignment_S.mean() if by_task else masked_mean(teacher_BT, turn_BT >= 0),
            temperature=inputs["temperature"],
        )
        gate_S = turn_gate(useful_S, tau=inputs["tau"], normalize=inputs["gate_norm"])
        gate_BT = spread_turns(gate_S, turn_BT)
    else:  # the reference reports an unused gate of one half here
        gate_BT = 0.5 * (turn_BT >= 0)
    ungated = level == "none"
    shaped_BT = shaping_reward(reward_BT, None if ungated else gate_BT, eta=inputs["eta"])
    case.check(shaped_BT, case.outputs["shaping_reward"], "shaping_reward")
    case.check(gate_BT, case.outputs["gate"], "gate")
