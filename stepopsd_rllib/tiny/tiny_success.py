"""How well a freshly cloned model plays, before any reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stepopsd_envs.text_env import TextEnv
from transformers import PreTrainedModel

from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.tiny.batched_play import PlayedEpisode, play

SPLIT = "valid_unseen"
SAMPLES_PER_TASK = 4
"""Sampled episodes of one task."""

_EPISODES_AT_ONCE = 144
_MAX_RESPONSE_TOKENS = 32


def measure_success(
    model: PreTrainedModel,
    chat: ChatFormat,
    make_env: Callable[[], TextEnv],
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Plays the whole split: each task once greedily, and `SAMPLES_PER_TASK` times sampled.

    Returns:
        Two summaries, `greedy` and `sampled` (temperature 1); see `summary`. The sampled one also
        has `mixed_groups`, the share of tasks with both won and lost episodes: only those teach a
        method that compares episodes of one task.
    """
    envs = [make_env() for _ in range(_EPISODES_AT_ONCE)]
    tasks = envs[0].tasks(SPLIT)
    measured: dict[str, Any] = {"split": SPLIT}
    for name, temperature, samples in (("greedy", 0.0, 1), ("sampled", 1.0, SAMPLES_PER_TASK)):
        episodes = play(
            model,
            chat,
            envs,
            [task for task in tasks for _ in range(samples)],
            temperature=temperature,
            max_response_tokens=_MAX_RESPONSE_TOKENS,
            seed=0,
        )
        measured[name] = summary(episodes)
        report(f"{name}: {measured[name]}")
    measured["sampled"]["mixed_groups"] = _mixed_groups(episodes)
    return measured


def summary(episodes: Sequence[PlayedEpisode]) -> dict[str, Any]:
    """Success (share of episodes), valid actions (share of turns), means, and wins by task type."""
    turns = sum(episode.turns for episode in episodes)
    wins_of: dict[str, list[bool]] = {}
    for episode in episodes:
        wins_of.setdefault(episode.task_type, []).append(episode.won)
    return {
        "success_rate": round(sum(e.won for e in episodes) / len(episodes), 4),
        "num_episodes": len(episodes),
        "valid_action_ratio": round(sum(e.valid_turns for e in episodes) / turns, 4),
        "turns_mean": round(turns / len(episodes), 2),
        "tokens_mean": round(sum(e.tokens for e in episodes) / len(episodes), 1),
        "task_type": {
            kind: {"num_wins": sum(wins), "num_episodes": len(wins)}
            for kind, wins in sorted(wins_of.items())
        },
    }


def _mixed_groups(episodes: Sequence[PlayedEpisode]) -> float:
    wins_of: dict[str, set[bool]] = {}
    for episode in episodes:
        wins_of.setdefault(episode.task_id, set()).add(episode.won)
    return round(sum(len(wins) == 2 for wins in wins_of.values()) / len(wins_of), 4)
