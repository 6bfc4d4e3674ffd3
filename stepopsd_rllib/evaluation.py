"""What finished episodes say: success by task type, intervals, counts of every ending."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from stepopsd_rllib.episodes import AgentEpisode, Status

CONFIDENCE = 0.95


def wilson_interval(num_wins: int, num_episodes: int) -> tuple[float, float]:
    """Wilson interval of a success rate at 95 % confidence; (0, 1) without episodes."""
    if num_episodes == 0:
        return 0.0, 1.0
    interval = binomtest(num_wins, num_episodes).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def episode_metrics(episodes: Sequence[AgentEpisode]) -> dict[str, Any]:
    """Means over the episodes that ended as an outcome of the policy, and counts of every status.

    Returns:
        A nested dict: `num_episodes`, `episode_return_mean`, `success_rate`, `valid_action_ratio`
        (over turns), `turns_mean`, `response_tokens_mean` (per turn), `status`, `task_type`. Means
        without episodes are NaN.
    """
    outcomes = [episode for episode in episodes if episode.status.is_outcome]
    turns = [turn for episode in outcomes for turn in episode.turns]
    by_type: dict[str, list[AgentEpisode]] = defaultdict(list)
    for episode in outcomes:
        by_type[episode.task_type].append(episode)
    return {
        "num_episodes": len(outcomes),
        "episode_return_mean": _mean([episode.return_ for episode in outcomes]),
        "success_rate": _mean([episode.won for episode in outcomes]),
        "valid_action_ratio": _mean([turn.is_action_valid for turn in turns]),
        "turns_mean": _mean([len(episode.turns) for episode in outcomes]),
        "response_tokens_mean": _mean([len(turn.response_ids) for turn in turns]),
        "status": {str(status): sum(e.status is status for e in episodes) for status in Status},
        "task_type": {
            name: {
                "num_episodes": len(group),
                "success_rate": _mean([episode.won for episode in group]),
            }
            for name, group in sorted(by_type.items())
        },
    }


def evaluation_metrics(episodes: Sequence[AgentEpisode], *, iteration: int) -> dict[str, Any]:
    """`episode_metrics` with wins as counts and Wilson intervals.

    Args:
        episodes: One episode a task.
        iteration: Number of updates before this evaluation.
    """
    metrics = episode_metrics(episodes)
    outcomes = [episode for episode in episodes if episode.status.is_outcome]
    num_wins = sum(episode.won for episode in outcomes)
    low, high = wilson_interval(num_wins, len(outcomes))
    for name, values in metrics["task_type"].items():
        values["num_wins"] = sum(episode.won for episode in outcomes if episode.task_type == name)
    return metrics | {
        "iteration": iteration,
        "num_wins": num_wins,
        "success_rate_low": low,
        "success_rate_high": high,
    }


def evaluation_rows(
    episodes: Sequence[AgentEpisode], *, iteration: int, split: str
) -> list[dict[str, Any]]:
    """One row a task, as written to `evaluation.jsonl`: the raw material of paired comparisons."""
    return [
        {
            "iteration": iteration,
            "split": split,
            "task_id": episode.task_id,
            "task_type": episode.task_type,
            "won": episode.won,
            "return": episode.return_,
            "turns": len(episode.turns),
            "status": str(episode.status),
        }
        for episode in episodes
    ]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
