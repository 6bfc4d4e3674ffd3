"""What finished episodes say: success by task type, intervals, counts of every ending."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from stepopsd_rllib.episodes import EpisodeSummary, Status
from stepopsd_rllib.evaluation import intervals
from stepopsd_rllib.evaluation.intervals import Estimate


def episode_metrics(episodes: Sequence[EpisodeSummary]) -> dict[str, Any]:
    """Means over the episodes that ended as an outcome of the policy, and counts of every status.

    Returns:
        A nested dict: `num_episodes`, `episode_return_mean`, `success_rate`, `valid_action_ratio`
        (over turns), `response_limit_rate` (turns whose response ran into its token limit),
        `malformed_response_rate` (turns that ended by themselves without a valid action),
        `turns_mean`, `response_tokens_mean` (per turn), `status`, `task_type`, where the
        environment grades, `task_score_mean`, and, where tools or environments failed,
        `tool_error` and `environment_error` (episodes by the first word of the error). Means
        without episodes are NaN.
    """
    outcomes = [episode for episode in episodes if episode.status.is_outcome]
    num_turns = sum(episode.num_turns for episode in outcomes)

    def a_turn(name: str) -> float:
        """Mean over turns of what a summary counts."""
        counted = sum(getattr(episode, name) for episode in outcomes)
        return counted / num_turns if num_turns else float("nan")

    by_type: dict[str, list[EpisodeSummary]] = defaultdict(list)
    for episode in outcomes:
        by_type[episode.task_type].append(episode)
    return {
        **_errors_by_kind(episodes),
        "num_episodes": len(outcomes),
        "episode_return_mean": _mean([episode.return_ for episode in outcomes]),
        "success_rate": _mean([episode.won for episode in outcomes]),
        **_score_mean(outcomes),
        "valid_action_ratio": a_turn("num_valid_actions"),
        "response_limit_rate": a_turn("num_cut_responses"),
        "malformed_response_rate": a_turn("num_malformed_responses"),
        "turns_mean": _mean([episode.num_turns for episode in outcomes]),
        "response_tokens_mean": a_turn("num_response_tokens"),
        "status": {str(status): sum(e.status is status for e in episodes) for status in Status},
        "task_type": {
            name: {
                "num_episodes": len(group),
                "success_rate": _mean([episode.won for episode in group]),
                **_score_mean(group),
            }
            for name, group in sorted(by_type.items())
        },
    }


def _errors_by_kind(episodes: Sequence[EpisodeSummary]) -> dict[str, dict[str, int]]:
    """Broken episodes by the first word of their error, where there are any."""
    counts: dict[str, dict[str, int]] = {}
    for status in (Status.TOOL_ERROR, Status.ENVIRONMENT_ERROR):
        kinds = Counter(_kind(e.error) for e in episodes if e.status is status)
        if kinds:
            counts[str(status)] = dict(sorted(kinds.items()))
    return counts


def _kind(error: str) -> str:
    word = error.partition(":")[0]
    return word if word.isidentifier() else "other"


def evaluation_metrics(episodes: Sequence[EpisodeSummary], *, iteration: int) -> dict[str, Any]:
    """`episode_metrics` with wins as counts, 95 % intervals, and the average over task types.

    `success_rate` counts every task the same; `task_type_mean` every task type, so that one with
    few tasks weighs as much as one with thousands (the "Avg" of papers on Search-QA).

    Args:
        episodes: One episode a task.
        iteration: Number of updates before this evaluation.

    Raises:
        ValueError: A task was played twice: repeated tasks would bias both averages.
    """
    repeated = [task for task, n in Counter(e.task_id for e in episodes).items() if n > 1]
    if repeated:
        raise ValueError(
            f"task {repeated[0]!r} stands twice in the evaluation ({len(repeated)} tasks repeat). "
            "Every task counts once: give split and data unique task ids."
        )
    metrics = episode_metrics(episodes)
    outcomes = [episode for episode in episodes if episode.status.is_outcome]
    by_type: list[Estimate] = []
    for name, values in metrics["task_type"].items():
        won = sum(episode.won for episode in outcomes if episode.task_type == name)
        by_type.append(intervals.rate(won, values["num_episodes"]))
        scores = _scores([episode for episode in outcomes if episode.task_type == name])
        values |= {"num_wins": won, **_interval(by_type[-1]), **_score_interval(scores)}
    num_wins = sum(episode.won for episode in outcomes)
    mean_over_types = intervals.unweighted_mean(by_type)
    return metrics | {
        "iteration": iteration,
        "num_wins": num_wins,
        **_interval(intervals.rate(num_wins, len(outcomes))),
        **_score_interval(_scores(outcomes)),
        "task_type_mean": {
            "success_rate": mean_over_types.value,
            **_interval(mean_over_types),
        },
    }


def _interval(estimate: Estimate) -> dict[str, float]:
    return {"success_rate_low": estimate.low, "success_rate_high": estimate.high}


def _scores(episodes: Sequence[EpisodeSummary]) -> list[float]:
    return [e.task_score for e in episodes if e.task_score is not None]


def _score_mean(episodes: Sequence[EpisodeSummary]) -> dict[str, float]:
    scores = _scores(episodes)
    return {"task_score_mean": _mean(scores)} if scores else {}


def _score_interval(scores: Sequence[float]) -> dict[str, float]:
    if not scores:
        return {}
    estimate = intervals.mean(scores)
    return {"task_score_low": estimate.low, "task_score_high": estimate.high}


def evaluation_rows(
    episodes: Sequence[EpisodeSummary], *, iteration: int, split: str
) -> list[dict[str, Any]]:
    """One row a task, as written to `evaluation.jsonl`: the raw material of paired comparisons."""
    return [
        {
            "iteration": iteration,
            "split": split,
            "task_id": episode.task_id,
            "task_type": episode.task_type,
            "won": episode.won,
            **({} if episode.task_score is None else {"task_score": episode.task_score}),
            "return": episode.return_,
            "turns": episode.num_turns,
            "status": str(episode.status),
            "error": episode.error,
        }
        for episode in episodes
    ]


def error_rows(episodes: Sequence[EpisodeSummary], *, iteration: int) -> list[dict[str, Any]]:
    """One row an episode that broke, as written to `errors.jsonl`; the metrics only count them."""
    return [
        {
            "iteration": iteration,
            "task_id": episode.task_id,
            "rollout": episode.rollout,
            "status": str(episode.status),
            "error": episode.error,
        }
        for episode in episodes
        if episode.error
    ]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
