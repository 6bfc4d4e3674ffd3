"""OPID, GiGPO, AgentOPSD, GRSD and ADRS against the outputs of the published programs.

The golden rows are single turns in any order; ours are numbered by episode and time.
"""

from __future__ import annotations

from typing import Any

import pytest
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
from stepopsd_rllib.objectives.gigpo import (
    anchor_advantages,
    anchor_groups,
    discounted_returns,
    gigpo_advantages,
)
from stepopsd_rllib.objectives.grsd import (
    grsd_advantages,
    grsd_token_factors,
    grsd_turn_factors,
)
from stepopsd_rllib.objectives.opid import (
    opid_advantages,
    opid_diagnostics,
    route_skills,
    skill_shift,
)
from stepopsd_rllib.objectives.turns import spread_turns, turn_ids, turn_means
from tests.golden_vectors import GoldenCase, case_id, load_cases, numbered, tensor

golden = pytest.mark.parametrize


def outcome_advantages(inputs: dict[str, Any], *, normalize: bool) -> Tensor:
    """GRPO's advantage of every row, statistics over rows, written on its tokens."""
    returns_B = tensor(inputs["token_level_rewards"]).sum(1)
    advantage_B = group_advantages(
        returns_B, numbered(inputs["group_id"]), normalize=normalize, eps=inputs["epsilon"]
    )
    return advantage_B[:, None] * tensor(inputs["response_mask"])


def rows_as_turns(mask_BT: Tensor) -> Tensor:
    """Turn ids where every row is a turn of its own."""
    rows_B = torch.arange(len(mask_BT))
    return torch.where(mask_BT != 0, rows_B[:, None], -1)


@golden("case", load_cases("opid_advantage"), ids=case_id)
def test_opid(case: GoldenCase) -> None:
    inputs = case.inputs
    mask_BT = tensor(inputs["response_mask"])
    outcome_BT = outcome_advantages(inputs, normalize=inputs["episode_norm"] == "mean_std_norm")

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


@golden("case", load_cases("opid_routing"), ids=case_id)
def test_opid_routing(case: GoldenCase) -> None:
    route = route_skills(
        case.inputs["step_skill"],
        episode_weight=0.001 if case.inputs["episode_weight_positive"] else 0.0,
        step_weight=0.001 if case.inputs["step_weight_positive"] else 0.0,
        routing=case.inputs["mode"],
    )
    assert route.episode_skill == case.outputs["score_episode_prompt"]
    assert route.step_skill == case.outputs["score_step_prompt"]


@golden("case", load_cases("gigpo_advantage"), ids=case_id)
def test_gigpo(case: GoldenCase) -> None:
    inputs = case.inputs
    scale = inputs["norm"] == "mean_std_norm"
    turn_BT = rows_as_turns(tensor(inputs["response_mask"]))
    episode_S = numbered(inputs["traj_id"])
    assert bool((episode_S.diff() >= 0).all()), "the golden rows of an episode are neighbours"
    returns_S = discounted_returns(tensor(inputs["step_reward"]), episode_S, gamma=inputs["gamma"])
    anchor_S = anchor_groups(
        inputs["anchor_obs"],
        numbered(inputs["group_id"]),
        similarity=inputs["similarity_threshold"] if inputs["similarity"] else None,
    )
    step_S = anchor_advantages(returns_S, anchor_S, scale=scale, eps=inputs["epsilon"])
    advantages_BT = gigpo_advantages(
        outcome_advantages(inputs, normalize=scale),
        step_S,
        turn_BT,
        step_weight=inputs["step_weight"],
    )
    case.check(returns_S, case.outputs["step_returns"], "step_returns")
    assert anchor_S.tolist() == numbered(case.outputs["anchor_group"]).tolist()
    case.check(advantages_BT, case.outputs["advantages"], "advantages")


def agentopsd_turns(inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Turn of each token, episode and prior of each turn; the prior counts each episode once."""
    episode_B = numbered(inputs["traj_id"])
    index_B = torch.tensor(inputs["turn_index"])
    index_BT = torch.where(tensor(inputs["mask"]) != 0, index_B[:, None], -1)
    turn_BT, episode_S = turn_ids(index_BT, episode_B)
    return_B = tensor(inputs["token_level_rewards"]).sum(1)
    first_row_N = [episode_B.tolist().index(n) for n in range(int(episode_B.max()) + 1)]
    prior_N = group_priors(
        return_B[first_row_N],
        numbered(inputs["group_id"])[first_row_N],
        clamp=inputs["prior_clamp"],
    )
    return turn_BT, episode_S, prior_N[episode_S]


@golden("case", load_cases("agentopsd_advantage"), ids=case_id)
def test_agentopsd(case: GoldenCase) -> None:
    inputs = case.inputs
    turn_BT, episode_S, prior_S = agentopsd_turns(inputs)
    advantages_BT = tensor(inputs["row_advantage"])[:, None] * tensor(inputs["mask"])
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
        advantages_BT, gap_BT, turn_BT, prior_S, episode_S, **settings
    )
    by_token_BT = agentopsd_token_advantages(advantages_BT, gap_BT, turn_BT, prior_S, **settings)
    prior_B = prior_S[turn_BT.max(1).values]
    case.check(prior_B, case.outputs["prior"], "prior")
    case.check(by_turn_BT, case.outputs["turn_level_advantages"], "turn level")
    case.check(by_token_BT, case.outputs["token_level_advantages"], "token level")


@golden("case", load_cases("grsd_advantage"), ids=case_id)
def test_grsd(case: GoldenCase) -> None:
    inputs = case.inputs
    turn_BT = rows_as_turns(tensor(inputs["mask"]))
    arguments = (
        tensor(inputs["advantages"]),
        tensor(inputs["teacher_logprob"]) - tensor(inputs["student_logprob"]),
        turn_BT,
        torch.tensor(inputs["group_id"]),
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


@golden("case", load_cases("adrs_reward"), ids=case_id)
def test_adrs(case: GoldenCase) -> None:
    inputs = case.inputs
    teacher_BT = tensor(inputs["teacher_logprob"])
    turn_BT = rows_as_turns(tensor(inputs["mask"]))
    num_turns = len(turn_BT)
    reward_BT = centred_teacher_reward(
        teacher_BT, turn_BT, num_turns, per_turn=inputs["normalize_mode"] == "per_seq"
    )
    alignment_S = turn_means(teacher_BT, turn_BT, num_turns)
    if inputs["level"] == "L1":
        gate_BT = token_gate(teacher_BT, tensor(inputs["ref_logprob"]), turn_BT, tau=inputs["tau"])
    elif inputs["level"] in ("L2", "L3"):
        by_task = inputs["level"] == "L2"
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
    ungated = inputs["level"] == "none"
    shaped_BT = shaping_reward(reward_BT, None if ungated else gate_BT, eta=inputs["eta"])
    case.check(shaped_BT, case.outputs["shaping_reward"], "shaping_reward")
    case.check(gate_BT, case.outputs["gate"], "gate")
