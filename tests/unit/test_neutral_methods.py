"""Every method with its knobs at neutral is GRPO, bit for bit, through real learner updates."""

from dataclasses import replace

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib import ALGORITHMS
from stepopsd_rllib.episodes import AgentEpisode, PolicyReply, to_rllib
from tests.helpers.agents import build_learner, weights_of
from tests.helpers.methods import ACTIVE, method_config, method_groups

NEUTRAL = {
    "StepOPSD": {"lambda_mix": 0.0, "step_normalization": "none"},
    "SDAR": {"distillation_coeff": 0.0},
    "OPSD": {"distillation_coeff": 0.0, "policy_coeff": 1.0},
    "SkillSD": {"distillation_coeff": 0.0},
    "SkillGRPO": {"train_skills": False},
    "RLSD": {"lambda_mix": 0.0},
    "AgentOPSD": {"lambda_mix": 0.0},
    "GiGPO": {"step_weight": 0.0, "normalize_advantages": True},
    "HGPO": {"lambda_mix": 0.0},
    "GraphGPO": {"step_weight": 0.0},
    "G2PO": {"step_weight": 0.0, "normalize_advantages": True},
    "GRSD": {"lambda_mix": 0.0},
    "OPID": {"episode_skill_weight": 0.0, "step_skill_weight": 0.0},
    "ADRS": {"teacher_reward_weight": 0.0},
    "SERL": {"lambda_mix": 0.0},
    "ICSD": {"distillation_coeff": 0.0},
    "SEED": {"distillation_coeff": 0.0},
    "UCOB": {
        "distillation_coeff": 0.0,
        "informed_share": 0.0,
        "step_weight": 0.0,
        "normalize_advantages": True,
    },
}


@pytest.fixture(params=["append", "window"], scope="module")
def groups(request) -> list[list[AgentEpisode]]:
    """Two groups of recorded episodes."""
    return method_groups(request.param)


def trained(name: str, keys: dict, groups: list[list[AgentEpisode]]):
    config = method_config(name, keys, groups[0][0].context)
    config.max_sampler_difference = None  # recorded log-probs are random numbers
    learner = build_learner(config)
    episodes = [to_rllib(episode) for group in groups for episode in group]
    results = learner.update(episodes=episodes, timesteps={})
    return weights_of(learner), results[DEFAULT_MODULE_ID]


@pytest.fixture(scope="module")
def grpo_weights(groups):
    return trained("GRPO", {}, groups)[0]


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_a_method_at_neutral_is_grpo_bit_for_bit(name, groups, grpo_weights):
    actual, metrics = trained(name, NEUTRAL[name], groups)
    assert all(torch.equal(actual[key], value) for key, value in grpo_weights.items())
    assert "distillation_loss" not in metrics
    assert (
        float(
            metrics["teacher_tokens_forwarded"].peek()
            if "teacher_tokens_forwarded" in metrics
            else 0
        )
        == 0
    )


@pytest.mark.parametrize("name", sorted(ACTIVE))
def test_a_method_in_action_is_not_grpo(name, groups, grpo_weights):
    actual, _ = trained(name, ACTIVE[name], groups)
    assert not all(torch.equal(actual[key], value) for key, value in grpo_weights.items())


@pytest.mark.parametrize("name", ["GRSD", "OPID"])
def test_the_policys_recorded_replies_count_where_they_can_be_read(name, groups, grpo_weights):
    def update(text: str):
        reply = PolicyReply(text=text, shown_turns=(0,), requests=1)
        answered = [[replace(episode, reply=reply) for episode in group] for group in groups]
        weights, _ = trained(name, {**ACTIVE[name], "analyzer": "policy"}, answered)
        return [torch.equal(weights[key], value) for key, value in grpo_weights.items()]

    assert all(update("I would rather not."))
    assert not all(update('{"episode_skill": "Look in the fridge."}'))


def test_no_method_is_left_out():
    assert set(NEUTRAL) == set(ALGORITHMS) - {"GRPO"}
