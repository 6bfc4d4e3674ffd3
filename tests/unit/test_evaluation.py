"""What is said about finished episodes."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from stepopsd_rllib.episodes import AgentEpisode, EpisodeSummary, Status
from stepopsd_rllib.evaluation.success import (
    episode_metrics,
    error_rows,
    evaluation_metrics,
    evaluation_rows,
)
from tests.helpers.agents import random_groups


def of(say, episodes, **keywords):
    """What a function says of the summaries of episodes."""
    return say([EpisodeSummary.of(episode) for episode in episodes], **keywords)


def test_counts_and_means_are_those_of_the_outcomes():
    episodes = [e for group in random_groups(sizes=(3, 2, 4)) for e in group]
    broken = dataclasses.replace(episodes[1], status=Status.ENVIRONMENT_ERROR)
    metrics = of(episode_metrics, [*episodes, broken])
    assert "tool_error" not in metrics
    assert metrics["num_episodes"] == 9 and metrics["success_rate"] == pytest.approx(3 / 9)
    assert metrics["status"]["environment_error"] == 1 and metrics["status"]["success"] == 3
    assert sum(metrics["status"].values()) == 10
    assert metrics["task_type"]["look"] == {"num_episodes": 2, "success_rate": 0.5}
    assert metrics["task_type"]["pick"]["num_episodes"] == 7
    turns = [turn for episode in episodes for turn in episode.turns]
    assert metrics["turns_mean"] == pytest.approx(len(turns) / 9)
    assert metrics["response_tokens_mean"] == pytest.approx(
        sum(len(turn.response_ids) for turn in turns) / len(turns)
    )
    assert math.isnan(of(episode_metrics, [])["success_rate"])


def test_tool_errors_are_counted_by_their_own_status():
    [first, *_] = random_groups(sizes=(3,))[0]
    errors = ("http_500: Internal Server Error", "timeout: no answer within 60 s", "http_500: x")
    failed = [dataclasses.replace(first, status=Status.TOOL_ERROR, error=e) for e in errors]
    metrics = of(episode_metrics, [first, *failed])
    assert metrics["tool_error"] == {"http_500": 2, "timeout": 1}
    assert metrics["status"]["tool_error"] == 3 and metrics["num_episodes"] == 1
    rows = of(error_rows, [first, *failed], iteration=2)
    assert [row["error"] for row in rows] == list(errors)
    assert {row["status"] for row in rows} == {"tool_error"}


def one_a_task(*outcomes: tuple[str, bool]) -> list[AgentEpisode]:
    """Episodes of different tasks, given as task type and whether it was won."""
    [some, *_] = random_groups(sizes=(3,))[0]
    return [
        dataclasses.replace(
            some,
            task_id=f"{kind}/{number}",
            task_type=kind,
            won=won,
            status=Status.SUCCESS if won else Status.FAILURE,
        )
        for number, (kind, won) in enumerate(outcomes)
    ]


def test_both_averages_of_an_evaluation_are_reported():
    """3 of 4 in one source and 0 of 1 in another: 0.6 over tasks, 0.375 over sources."""
    metrics = of(
        evaluation_metrics,
        one_a_task(*[("nq", i < 3) for i in range(4)], ("bamboogle", False)),
        iteration=0,
    )
    assert metrics["success_rate"] == pytest.approx(0.6)
    assert metrics["task_type_mean"]["success_rate"] == pytest.approx(0.375)
    nq = metrics["task_type"]["nq"]
    assert (nq["num_wins"], nq["num_episodes"], nq["success_rate"]) == (3, 4, 0.75)
    # Wilson at 3 of 4, z = 1.959964: centre (0.75 + z²/8) / (1 + z²/4), by hand 0.3006 to 0.9544
    assert nq["success_rate_low"] == pytest.approx(0.3006, abs=1e-4)
    assert nq["success_rate_high"] == pytest.approx(0.9544, abs=1e-4)
    # bamboogle: 0 to z²/(1+z²) = 0.7935. The mean: √(0.4494² + 0²)/2 below it, and
    # √(0.2044² + 0.7935²)/2 above; by hand 0.1503 to 0.7847.
    assert metrics["task_type_mean"]["success_rate_low"] == pytest.approx(0.1503, abs=1e-4)
    assert metrics["task_type_mean"]["success_rate_high"] == pytest.approx(0.7847, abs=1e-4)


def test_a_task_that_was_played_twice_is_refused():
    twice = one_a_task(("nq", True)) * 2
    with pytest.raises(ValueError, match="task 'nq/0' stands twice in the evaluation"):
        of(evaluation_metrics, twice, iteration=0)


def test_an_evaluation_counts_wins_and_lists_every_task():
    episodes = one_a_task(
        ("pick", True), ("pick", False), ("pick", False), ("look", True), ("look", False)
    )
    metrics = of(evaluation_metrics, episodes, iteration=4)
    assert (metrics["iteration"], metrics["num_wins"], metrics["num_episodes"]) == (4, 2, 5)
    assert metrics["success_rate_low"] < 0.4 < metrics["success_rate_high"]
    assert metrics["task_type"]["pick"] == {
        "num_episodes": 3,
        "num_wins": 1,
        "success_rate": pytest.approx(1 / 3),
        "success_rate_low": pytest.approx(0.0615, abs=1e-4),
        "success_rate_high": pytest.approx(0.7923, abs=1e-4),
    }
    rows = of(evaluation_rows, episodes, iteration=4, split="valid_unseen")
    assert len(rows) == 5 and json.loads(json.dumps(rows)) == rows
    assert rows[0] == {
        "iteration": 4,
        "split": "valid_unseen",
        "task_id": "pick/0",
        "task_type": "pick",
        "won": True,
        "return": 1.0,
        "turns": len(episodes[0].turns),
        "status": "success",
        "error": "",
    }


def test_graded_tasks_have_a_mean_score_beside_the_success_and_others_have_none():
    episodes = one_a_task(("pick", True), ("pick", False), ("look", False), ("look", False))
    graded = [
        dataclasses.replace(episode, task_score=score)
        for episode, score in zip(episodes, (1.0, 0.5, 0.25, 0.25), strict=True)
    ]
    metrics = of(evaluation_metrics, graded, iteration=0)
    assert metrics["task_score_mean"] == 0.5
    assert metrics["task_score_low"] < 0.5 < metrics["task_score_high"]
    assert metrics["task_type"]["pick"]["task_score_mean"] == 0.75
    rows = of(evaluation_rows, graded, iteration=0, split="valid_unseen")
    assert [row["task_score"] for row in rows] == [1.0, 0.5, 0.25, 0.25]
    assert not any("task_score" in key for key in of(evaluation_metrics, episodes, iteration=0))
    assert "task_score" not in of(evaluation_rows, episodes, iteration=0, split="train")[0]


def test_responses_cut_by_the_limit_are_counted_apart_from_malformed_ones():
    [first, *_] = random_groups(sizes=(3,))[0]
    turn = first.turns[0]
    kinds = [("stop", True), ("stop", False), ("length", False), ("length", True)]
    turns = tuple(
        dataclasses.replace(turn, finish_reason=reason, is_action_valid=valid)
        for reason, valid in kinds
    )
    metrics = of(episode_metrics, [dataclasses.replace(first, turns=turns)])
    assert metrics["valid_action_ratio"] == 0.5
    assert metrics["response_limit_rate"] == 0.5
    assert metrics["malformed_response_rate"] == 0.25


def test_environment_errors_are_counted_by_their_name():
    [first, *_] = random_groups(sizes=(3,))[0]
    errors = (
        "EnvTimeout: no answer within 2 s",
        "KeyError: 'lost'",
        "the first prompt has 9 tokens",
    )
    episodes = [
        dataclasses.replace(first, status=Status.ENVIRONMENT_ERROR, error=error) for error in errors
    ]
    counts = of(episode_metrics, episodes)["environment_error"]
    assert counts == {"EnvTimeout": 1, "KeyError": 1, "other": 1}
