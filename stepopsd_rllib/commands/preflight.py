"""Says before Ray starts what would otherwise end the first trial."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from stepopsd_rllib.commands.ray_start import cluster_address
from stepopsd_rllib.commands.run_file import tasks_fingerprint
from stepopsd_rllib.models.whole_weights import require_whole_weights
from stepopsd_rllib.training.agent_config import AgentConfig
from stepopsd_rllib.training.first_prompt import TASKS_TRIED, check_first_prompt, tasks_of


def check(source: str, configs: Iterable[AlgorithmConfig]) -> list[str]:
    """Makes each environment once, lists its tasks, and measures a first prompt.

    On a cluster the environment may need what only its nodes have (a retriever beside the GPU,
    data), so there the trial itself says what is missing.

    Args:
        source: The file; messages start with it.
        configs: Configs of all variants; equal environments are looked at once.

    Returns:
        A fingerprint of each config's task lists; "" where they were not looked at.

    Raises:
        ValueError: An environment cannot be made, a split has no task, or a prompt has no room.
    """
    configs = list(configs)
    if cluster_address() is not None:
        return [""] * len(configs)
    seen: dict[str, str] = {}
    found = []
    for config in configs:
        if not isinstance(config, AgentConfig):
            found.append("")
            continue
        key = _environment(config)
        if key not in seen:
            seen[key] = _check_environment(source, config)
        found.append(seen[key])
    return found


def _environment(config: AgentConfig) -> str:
    """What the checks depend on, as a text."""
    parts: tuple[Any, ...] = (
        type(config).__name__,
        config.env,
        config.env_config,
        config.eval_split,
        config.language_model,
        config.max_context_tokens,
    )
    return json.dumps(parts, sort_keys=True, default=str)


def _check_environment(source: str, config: AgentConfig) -> str:
    env = None
    require_whole_weights(config.model_path())
    try:
        env = config.make_env()
        tasks = tasks_of(env, "train")
        evaluation = tasks_of(env, config.eval_split)
        check_first_prompt(config, env, tasks[:TASKS_TRIED])
    except ValueError as error:
        text = " ".join(str(error).split())
        where = "" if text.startswith(("config.", "env_config.")) else "config.env_config: "
        raise ValueError(f"{source}: {where}{text}") from error
    finally:
        if env is not None:
            env.close()
    return tasks_fingerprint(tasks, evaluation)
