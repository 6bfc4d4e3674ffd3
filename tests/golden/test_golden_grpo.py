"""The GRPO base against the reference programs' outputs."""

import pytest
import torch

from stepopsd_rllib.objectives import (
    LossCounts,
    aggregate,
    clipped_surrogate,
    group_advantages,
    invalid_action_penalties,
    is_informative,
    masked_mean,
    token_log_ratio,
    token_weights,
    turn_index,
    weighted_sum,
)
from stepopsd_rllib.objectives.divergence import KL_ESTIMATORS, kl_divergence
from stepopsd_rllib.reference.token_rewards import add_at_last_token
from stepopsd_rllib.reference.trajectory_row import search_trajectory_rows
from tests.helpers.golden_vectors import golden, numbered, tensor


@golden("grpo_outcome_advantage")
def test_group_advantages(case):
    mask_BT = tensor(case.inputs["response_mask"])
    episode_B = numbered(case.inputs["traj_id"])
    advantages_B = group_advantages(
        tensor(case.inputs["token_level_rewards"]).sum(1),
        numbered(case.inputs["group_id"]),
        episode_B=None if case.inputs["stats_over_rows"] else episode_B,
        normalize=case.inputs["normalize_by_std"],
        eps=case.inputs["epsilon"],
    )
    case.check(advantages_B[:, None] * mask_BT, case.outputs["advantages"], "advantages")


@golden("clipped_surrogate")
@pytest.mark.parametrize("exact_normalization", [False, True])
def test_clipped_surrogate(case, exact_normalization):
    policy_BT = tensor(case.inputs["logprob"]).requires_grad_()
    old_BT = tensor(case.inputs["old_logprob"])
    mask_BT = tensor(case.inputs["mask"])
    log_ratio_BT = token_log_ratio(policy_BT, old_BT, mask_BT)
    surrogate = clipped_surrogate(
        log_ratio_BT,
        tensor(case.inputs["advantages"]),
        mask_BT,
        clip_low=case.inputs["clip_low"],
        clip_high=case.inputs["clip_high"],
        dual_clip=case.inputs["dual_clip_c"],
    )
    mode = case.inputs["aggregation"]
    if exact_normalization:
        weights_BT = token_weights(mask_BT, mode, LossCounts.of(mask_BT))
        loss = weighted_sum(surrogate.loss, weights_BT)
    else:
        loss = aggregate(surrogate.loss, mask_BT, mode)
    loss.backward()
    case.check(loss, case.outputs["loss"], "loss")
    case.check(policy_BT.grad, case.outputs["grad_logprob"], "grad_logprob")
    for name, value_BT in (
        ("clip_fraction", surrogate.is_clipped.float()),
        ("dual_clip_fraction", surrogate.is_dual_clipped.float()),
        ("approx_kl", -log_ratio_BT),
    ):
        case.check(masked_mean(value_BT, mask_BT), case.outputs[name], name)


@golden("loss_aggregation")
def test_aggregate(case):
    loss_BT, mask_BT = tensor(case.inputs["loss"]), tensor(case.inputs["mask"])
    for mode, expected in case.outputs.items():
        case.check(aggregate(loss_BT, mask_BT, mode), expected, mode)


@golden("loss_aggregation")
def test_token_weights_agree_with_the_reference_where_no_row_is_empty(case):
    loss_BT, mask_BT = tensor(case.inputs["loss"]), tensor(case.inputs["mask"])
    is_full_B = mask_BT.any(1)
    for mode, expected in case.outputs.items():
        if not is_full_B.all() and mode.startswith("seq-mean") and not mode.endswith("norm"):
            expected = (
                aggregate(loss_BT[is_full_B], mask_BT[is_full_B], mode) if is_full_B.any() else 0.0
            )
        weights_BT = token_weights(mask_BT, mode, LossCounts.of(mask_BT))
        case.check(weighted_sum(loss_BT, weights_BT), expected, mode)


@golden("kl_estimators")
def test_kl_estimators(case):
    policy_BT, reference_BT = tensor(case.inputs["logprob"]), tensor(case.inputs["ref_logprob"])
    assert set(case.outputs) == set(KL_ESTIMATORS)
    for estimator, expected in case.outputs.items():
        actual_BT = kl_divergence(
            policy_BT, reference_BT, torch.ones_like(policy_BT), estimator=estimator
        )
        case.check(actual_BT, expected, estimator)


@golden("invalid_action_penalty")
def test_invalid_action_penalty(case):
    is_valid_B = tensor(case.inputs["is_action_valid"])
    penalty_B = invalid_action_penalties(is_valid_B, coefficient=case.inputs["coef"])
    scores_BT = add_at_last_token(
        tensor(case.inputs["token_level_scores"]), tensor(case.inputs["response_mask"]), penalty_B
    )
    case.check(scores_BT, case.outputs["token_level_scores"], "token_level_scores")
    step_rewards_B = tensor(case.inputs["step_rewards"]) + penalty_B
    case.check(step_rewards_B, case.outputs["step_rewards"], "step_rewards")
    case.check(is_valid_B.mean(), case.outputs["valid_action_ratio"], "valid_action_ratio")


@golden("dynamic_sampling_filter")
def test_dynamic_sampling_filter(case):
    returns_N = tensor(case.inputs["episode_reward"])
    group_N = torch.arange(len(returns_N)) // case.inputs["group_size"]
    kept = is_informative(returns_N, group_N).nonzero().flatten()
    case.check(kept, case.outputs["kept_trajectories"], "kept_trajectories")


@golden("turn_index")
def test_turn_index(case):
    actual_B = turn_index(numbered(case.inputs["traj_id"]))
    case.check(actual_B, case.outputs["turn_index"], "turn_index")


@golden("search_trajectory_masks")
def test_search_trajectory_masks(case):
    rows = search_trajectory_rows(
        [(turn["action_tokens"], turn["observation_tokens"]) for turn in case.inputs["turns"]],
        max_tokens=case.inputs["max_total_tokens"],
        pad_id=case.inputs["pad_id"],
    )
    case.check(rows.token_ids, case.outputs["responses"], "responses")
    case.check(rows.attention_mask, case.outputs["attention_mask"], "attention_mask")
    case.check(rows.loss_mask, case.outputs["loss_mask"], "loss_mask")
