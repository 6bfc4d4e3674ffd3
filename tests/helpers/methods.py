"""Every method in action on recorded episodes that all of them can learn something from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from stepopsd_rllib import ALGORITHMS
from stepopsd_rllib.algorithms.grpo import GRPOConfig
from stepopsd_rllib.episodes import AgentEpisode
from tests.helpers.agents import random_groups, small_config

BRIEF = {"skills": "alfworld_brief", "skill_max_tokens": 512}
ACTIVE: dict[str, dict[str, Any]] = {
    "StepOPSD": {"hindsight_outcome": True, "span_mode": "clean_step_no_observation"},
    "SDAR": {**BRIEF, "distillation_coeff": 1.0},
    "OPSD": BRIEF,
    "SkillSD": {**BRIEF, "distillation_coeff": 1.0},
    "RLSD": BRIEF,
    "AgentOPSD": BRIEF,
    "GiGPO": {"normalize_advantages": True},
    "HGPO": {"outcome_level": True},
    "GraphGPO": {},
    "G2PO": {"normalize_advantages": True},
    "GRSD": {},
    "OPID": {"episode_skill_weight": 0.1, "step_skill_weight": 0.1},
    "ADRS": {**BRIEF, "teacher_reward_weight": 0.1, "first_update": 1},
    "SERL": {"feedback_max_tokens": 256, "lambda_mix": 1.0},
    "ICSD": {**BRIEF, "distillation_coeff": 1.0},
    "SEED": {"distillation_coeff": 1.0, "analyzer": "rules"},
    "UCOB": {"skills": "alfworld_brief", "step_weight": 0.0, "normalize_advantages": True},
}
"""Keys with which a method changes what GRPO would do of `method_groups`."""

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


def method_config(name: str, keys: Mapping[str, Any], context: str) -> GRPOConfig:
    """A method on tiny houses, with the same agent as every other."""
    config = ALGORITHMS[name].get_default_config()
    assert isinstance(config, GRPOConfig)
    shared = small_config(context=context, training={"entropy_coeff": 0.001}).to_dict()
    config.update_from_dict({k: v for k, v in shared.items() if k in SHARED} | dict(keys))
    config.validate()
    return config


def method_groups(context: str, *, version: int = 0) -> list[list[AgentEpisode]]:
    """Two groups of recorded episodes with prompts that a chat template wrote."""
    chat = small_config(context=context).chat_format()
    encode = chat.tokenizer.encode
    recorded = random_groups((3, 2), context=context, version=version)
    message = [{"role": "user", "content": "Your task is to: put an apple in the fridge."}]

    def written(episode: AgentEpisode) -> AgentEpisode:
        first = np.asarray(chat.first_prompt(message), dtype=np.int32)
        later = np.asarray(
            chat.first_prompt(message)
            if context == "window"
            else small_config().chat_format().continuation("You see.", response_ended=False),
            dtype=np.int32,
        )
        acting = np.asarray(encode("<action>take apple 1</action>"), dtype=np.int32)
        turns = [
            replace(turn, prompt_ids=first if k == 0 else later, anchor=f"state {min(k, 1)}")
            for k, turn in enumerate(episode.turns)
        ]
        turns[0] = replace(
            turns[0],
            response_ids=acting,
            behaviour_log_probs=np.full(len(acting), -1.0, dtype=np.float32),
        )
        return replace(
            episode,
            turns=tuple(turns),
            task_type="pick_heat_then_place_in_recep",
            preamble="" if episode.rollout else "- Look first.\n\n",
        )

    return [[written(episode) for episode in group] for group in recorded]
