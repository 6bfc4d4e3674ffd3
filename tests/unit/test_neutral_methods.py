"""Every method with its knobs at neutral is GRPO, bit for bit, through real learner updates."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib import ALGORITHMS
from stepopsd_rllib.algorithms.grpo import GRPOConfig
from stepopsd_rllib.episodes import AgentEpisode, PolicyReply, to_rllib
from tests.helpers.agents import build_learner, random_groups, small_config, weights_of

BRIEF = {"skills": "alfworld_brief", "skill_max_tokens": 512}
NEUTRAL = {
    "StepOPSD": {"lambda_mix": 0.0, "step_normalization": "none"},
    "SDAR": {"distillation_coeff": 0.0},
    "OPSD": {"distillation_coeff": 0.0, "policy_coeff": 1.0},
    "SkillSD": {"distillation_coeff": 0.0},
    "SkillGRPO": {"train_skills": False},
    "RLSD": {"lambda_mix": 0.0},
    "AgentOPSD": {"lambda_mix": 0.0},
    "GiGPO": {"step_weight": 0.0, "normalize_advantages": True},
    "GRSD": {"lambda_mix": 0.0},
    "OPID": {"episode_skill_weight": 0.0, "step_skill_weight": 0.0},
    "ADRS": {"teacher_reward_weight": 0.0},
    "UCOB": {
        "distillation_coeff": 0.0,
        "informed_share": 0.0,
        "step_weight": 0.0,
        "normalize_advantages": True,
    },
}
ACTIVE = {
    "SDAR": {**BRIEF, "distillation_coeff": 1.0},
    "OPSD": BRIEF,
    "SkillSD": {**BRIEF, "distillation_coeff": 1.0},
    "RLSD": BRIEF,
    "AgentOPSD": BRIEF,
    "GiGPO": {"normalize_advantages": True},
    "GRSD": {},
    "OPID": {"episode_skill_weight": 0.1, "step_skill_weight": 0.1},
    "ADRS": {**BRIEF, "teacher_reward_weight": 0.1, "first_update": 1},
    "UCOB": {"skills": "alfworld_brief", "step_weight": 0.0, "normalize_advantages": True},
}


def config_of(name: str, keys: dict, context: str) -> GRPOConfig:
    config = ALGORITHMS[name].get_default_config()
    assert isinstance(config, GRPOConfig)
    shared = small_config(context=context, training={"entropy_coeff": 0.001}).to_dict()
    config.update_from_dict({k: v for k, v in shared.items() if k in SHARED} | keys)
    config.validate()
    return config


SHARED = (
    "env",
    "env_config",
    "language_model",
    "sampler",
    "group_size",
    "groups_per_step",
    "max_response_tokens",
    "max_context_tokens",
    "context",
    "lr",
    "kl_coeff",
    "entropy_coeff",
    "weight_decay",
)


@pytest.fixture(params=["append", "window"], scope="module")
def groups(request) -> list[list[AgentEpisode]]:
    """Two groups of recorded episodes with prompts that a chat template wrote."""
    chat = small_config(context=request.param).chat_format()
    recorded = random_groups((3, 2), context=request.param)
    message = [{"role": "user", "content": "Your task is to: put an apple in the fridge."}]

    def written(episode: AgentEpisode) -> AgentEpisode:
        first = np.asarray(chat.first_prompt(message), dtype=np.int32)
        later = np.asarray(
            chat.first_prompt(message)
            if request.param == "window"
            else small_config().chat_format().continuation("You see.", response_ended=False),
            dtype=np.int32,
        )
        turns = [
            replace(turn, prompt_ids=first if k == 0 else later, anchor=f"state {min(k, 1)}")
            for k, turn in enumerate(episode.turns)
        ]
        return replace(
            episode,
            turns=tuple(turns),
            task_type="pick_heat_then_place_in_recep",
            preamble="" if episode.rollout else "- Look first.\n\n",
        )

    return [[written(episode) for episode in group] for group in recorded]


def trained(name: str, keys: dict, groups: list[list[AgentEpisode]]):
    config = config_of(name, keys, groups[0][0].context)
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
