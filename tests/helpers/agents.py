"""Small agents for tests: configs, recorded episodes of random tokens, and their comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib import GRPOConfig
from stepopsd_rllib.episodes import AgentEpisode, Status, Turn, to_rllib
from stepopsd_rllib.training.learner import TokenLearner
from tests.helpers.houses import BARE

SMALL = {
    "model": "tiny",
    "sampler": "transformers",
    "group_size": 3,
    "groups_per_step": 4,
    "max_response_tokens": 12,
    "max_context_tokens": 512,
    "eval_num_tasks": 3,
}
NO_REGULARISATION = {"kl_coeff": 0.0, "entropy_coeff": 0.0, "weight_decay": 0.0}


def small_config(
    *,
    env: str = "stepopsd/ALFWorld-v0",
    env_config: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    **agent: Any,
) -> GRPOConfig:
    """GRPO on tiny houses with the embedded model, 4 groups of 3, 4 turns."""
    config = GRPOConfig().environment(
        env=env, env_config={**BARE, "max_turns": 4, **(env_config or {})}
    )
    config.agent(**{**SMALL, **agent})
    return config.training(**{"lr": 3e-4, **NO_REGULARISATION, **(training or {})})


def random_episode(
    rng: np.random.Generator,
    *,
    group: int,
    rollout: int,
    turns: int,
    won: bool = False,
    context: str = "append",
    vocabulary: int = 500,
    version: int = 0,
) -> AgentEpisode:
    """An episode of random tokens; turns of 3 to 9 prompt and 1 to 6 response tokens."""

    def turn(k: int) -> Turn:
        size = int(rng.integers(1, 7))
        return Turn(
            prompt_ids=rng.integers(vocabulary, size=rng.integers(3, 10)).astype(np.int32),
            response_ids=rng.integers(vocabulary, size=size).astype(np.int32),
            behaviour_log_probs=-rng.random(size).astype(np.float32),
            observation=f"observation {k}",
            response=f"response {k}",
            action=f"action {k}",
            is_action_valid=bool(rng.integers(4)),
            reward=float(won and k == turns - 1),
            finish_reason="stop",
            weights_version=version,
            anchor=f"state {k}",
        )

    return AgentEpisode(
        task_id=f"task {group}",
        task_type="look" if group % 2 else "pick",
        group=group,
        rollout=rollout,
        seed=rollout,
        context=context,  # type: ignore[arg-type]
        status=Status.SUCCESS if won else Status.TURN_LIMIT,
        won=won,
        turns=tuple(turn(k) for k in range(turns)),
        final_observation="the end",
        final_anchor="the end",
    )


def random_groups(
    sizes: Sequence[int] = (3, 2, 4, 3), *, seed: int = 0, context: str = "append", version: int = 0
) -> list[list[AgentEpisode]]:
    """Groups of unequal sizes and lengths; in each the first episode wins."""
    rng = np.random.default_rng(seed)
    return [
        [
            random_episode(
                rng,
                group=group,
                rollout=i,
                turns=int(rng.integers(1, 5)),
                won=i == 0,
                context=context,
                version=version,
            )
            for i in range(size)
        ]
        for group, size in enumerate(sizes)
    ]


def build_learner(config: GRPOConfig) -> TokenLearner:
    """A learner in this process."""
    space = gym.spaces.Text(1)
    learner = config.build_learner(spaces={DEFAULT_MODULE_ID: (space, space)})
    learner.build()
    return learner  # type: ignore[return-value]


def update(learner: TokenLearner, groups: Sequence[Sequence[AgentEpisode]]) -> dict[str, float]:
    """One training step on recorded episodes; its metrics."""
    episodes = [to_rllib(episode) for group in groups for episode in group]
    results = learner.update(episodes=episodes, timesteps={})
    return {
        name: float(getattr(value, "peek", lambda v=value: v)())
        for name, value in results[DEFAULT_MODULE_ID].items()
        if name != "num_module_steps_trained_lifetime_throughput"
    }


def weights_of(learner: TokenLearner) -> dict[str, torch.Tensor]:
    """A copy of the policy's weights."""
    return {name: value.detach().clone() for name, value in learner.sampler_weights().items()}


def largest_difference(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    """Largest absolute difference of two sets of weights with the same names."""
    assert left.keys() == right.keys()
    return max(
        float((torch.as_tensor(left[name]) - torch.as_tensor(right[name])).abs().max())
        for name in left
    )


def same_records(left: Any, right: Any) -> bool:
    """Equality of dataclasses that hold arrays, dtypes included."""
    if dataclasses.is_dataclass(left):
        return type(left) is type(right) and all(
            same_records(getattr(left, field.name), getattr(right, field.name))
            for field in dataclasses.fields(left)
        )
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(same_records, left, right))
    return type(left) is type(right) and left == right
