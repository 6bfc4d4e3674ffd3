"""What is said about finished episodes."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from stepopsd_rllib.episodes import Status
from stepopsd_rllib.evaluation import (
    episode_metrics,
    evaluation_metrics,
    evaluation_rows,
    wilson_interval,
)
from tests.agents import random_groups


@pytest.mark.parametrize(("wins", "episodes"), [(0, 10), (3, 10), (10, 10), (67, 120)])
def test_the_interval_is_wilsons(wins, episodes):
    z, rate = 1.959963984540054, wins / episodes
    centre = (rate + z**2 / (2 * episodes)) / (1 + z**2 / episodes)
    half = (
        z
        / (1 + z**2 / episodes)
        * math.sqrt(rate * (1 - rate) / episodes + z**2 / (4 * episodes**2))
    )
    assert wilson_interval(wins, episodes) == pytest.approx((centre - half, centre + half))
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_counts_and_means_are_those_of_the_outcomes():
    episodes = [e for group in random_groups(sizes=(3, 2, 4)) for e in group]
    broken = dataclasses.replace(episodes[1], status=Status.ENVIRONMENT_ERROR)
    metrics = episode_metrics([*episodes, broken])
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
    assert math.isnan(episode_metrics([])["success_rate"])


def test_an_evaluation_counts_wins_and_lists_every_task():
    episodes = [e for group in random_groups(sizes=(3, 2)) for e in group]
    metrics = evaluation_metrics(episodes, iteration=4)
    assert (metrics["iteration"], metrics["num_wins"], metrics["num_episodes"]) == (4, 2, 5)
    assert metrics["success_rate_low"] < 0.4 < metrics["success_rate_high"]
    assert metrics["task_type"]["pick"] == {
        "num_episodes": 3,
        "num_wins": 1,
        "success_rate": pytest.approx(1 / 3),
    }
    rows = evaluation_rows(episodes, iteration=4, split="valid_unseen")
    assert len(rows) == 5 and json.loads(json.dumps(rows)) == rows
    assert rows[0] == {
        "iteration": 4,
        "split": "valid_unseen",
        "task_id": "task 0",
        "task_type": "pick",
        "won": True,
        "return": 1.0,
        "turns": len(episodes[0].turns),
        "status": "success",
    }
