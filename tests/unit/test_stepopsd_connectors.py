"""The pieces of StepOPSD's learner pipeline, one at a time."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from stepopsd_rllib import StepOPSDConfig
from stepopsd_rllib.connectors.advantage_shaping import AdvantageShaping
from stepopsd_rllib.connectors.credit_trace import CreditTrace
from stepopsd_rllib.connectors.hindsight import HINDSIGHT, Hindsight, HindsightContext
from stepopsd_rllib.connectors.learner_connector import AGENT_EPISODES
from stepopsd_rllib.connectors.teacher_gap import TeacherGap
from stepopsd_rllib.episodes import AgentEpisode, RowLayout
from stepopsd_rllib.episodes.packing import pack_episodes
from stepopsd_rllib.objectives.shaping import histogram_points
from tests.helpers.dense import at_sampled, dense, sampled_rows
from tests.helpers.token_episodes import random_episode, random_module


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return random_module(tmp_path_factory.mktemp("model"))


def episodes_of_groups(*groups: str, context: str = "append") -> list[AgentEpisode]:
    """One group for each text, one episode for each of its letters: w(on) or f(ailed)."""
    rng = np.random.default_rng(0)
    return [
        random_episode(rng, num_turns=3, context=context, group=g, won=letter == "w")
        for g, letters in enumerate(groups)
        for letter in letters
    ]


def columns_of(episodes: list[AgentEpisode], advantages: list[float], version: int = 0) -> dict:
    columns: dict[str, Any] = pack_episodes(episodes).columns()
    columns["weights_version"] = torch.full((len(columns["lengths"]),), version)
    columns["step_index"] = columns["turn_index"].clone()
    advantages_B = torch.tensor(advantages)[columns["episode_index"]]
    columns["advantages"] = advantages_B[sampled_rows(columns)]
    return columns


def told(episodes: list[AgentEpisode], **options: Any) -> tuple[list[Hindsight], dict, list[str]]:
    """Hindsight of every episode, what was logged, and what was encoded."""
    encoded: list[str] = []

    def encode(text: str) -> list[int]:
        encoded.append(text)
        return list(range(len(text)))

    connector = HindsightContext(
        **{
            "source": "peer",
            "include_outcome": False,
            "max_tokens": 1000,
            "encode": encode,
            **options,
        }
    )
    shared = {AGENT_EPISODES: episodes}
    metrics = MetricsLogger(root=True)
    connector(rl_module=None, batch={}, episodes=[], shared_data=shared, metrics=metrics)
    return shared[HINDSIGHT], metrics.peek()[DEFAULT_MODULE_ID], encoded


def test_only_failures_of_a_mixed_group_are_told_and_each_text_is_encoded_once():
    hindsights, metrics, encoded = told(episodes_of_groups("fwfw", "ff", "ww"))
    assert [bool(h.ids) for h in hindsights] == [True, False, True] + [False] * 5
    assert metrics["hindsight_share"] == 2 / 8
    assert metrics["hindsight_due_share"] == 2 / 8
    assert metrics["hindsight_arrived_share"] == 1.0
    assert len(encoded) == 1
    assert "> go to 0\nYou see 1.\n> go to 1" in encoded[0]
    assert "You see 0." not in encoded[0]


def test_hindsight_is_cut_from_its_end_and_counted():
    hindsights, metrics, encoded = told(episodes_of_groups("fw"), max_tokens=10)
    assert hindsights[0] == Hindsight(ids=tuple(range(10)), was_cut=True)
    assert len(encoded[0]) > 10
    assert metrics["hindsight_cut_share"] == 1.0
    assert metrics["hindsight_tokens_mean"] == 10.0


def test_the_outcome_is_told_to_all():
    hindsights, metrics, encoded = told(
        episodes_of_groups("fw"), source="none", include_outcome=True
    )
    assert all(h.ids for h in hindsights)
    assert ["incorrect" in text for text in encoded] == [True, False]
    assert metrics["hindsight_due_share"] == 0.0


def test_golden_hindsight_goes_to_all_that_have_some():
    episodes = episodes_of_groups("fw")
    golden = [dataclasses.replace(episodes[0], golden="> go to 1"), episodes[1]]
    hindsights, metrics, _ = told(golden, source="golden")
    assert [bool(h.ids) for h in hindsights] == [True, False]
    assert metrics["hindsight_arrived_share"] == 0.5


def test_hindsight_that_never_arrives_raises_with_the_key():
    with pytest.raises(ValueError, match=r"config\.hindsight='golden'.*golden_rollout.*peer"):
        told(episodes_of_groups("fw"), source="golden", include_outcome=True)
    with pytest.raises(ValueError, match=r"config\.hindsight='peer'.*2 failed episodes"):
        told(episodes_of_groups("ffw"), encode=lambda text: [])


def gap(module: Any, columns: dict, hindsights: list[Hindsight], **options: Any) -> dict:
    """Runs `TeacherGap` on the columns and returns what it logged."""
    connector = TeacherGap(
        **{
            "position": "suffix",
            "teacher": "stale",
            "student": "recomputed",
            "effect": lambda update: 0.04,
            "score_all": False,
            "max_tokens": 512,
            **options,
        }
    )
    metrics = MetricsLogger(root=True)
    connector(
        rl_module={DEFAULT_MODULE_ID: module},
        batch={DEFAULT_MODULE_ID: columns},
        shared_data={HINDSIGHT: hindsights},
        metrics=metrics,
    )
    return metrics.peek()[DEFAULT_MODULE_ID]


TOLD = Hindsight(ids=(1, 2, 3, 4))


def test_nothing_is_forwarded_when_lambda_is_zero(module):
    columns = columns_of(episodes_of_groups("fw"), [-1.0, 1.0])
    metrics = gap(module, columns, [TOLD, TOLD], effect=lambda update: 0.0)
    assert metrics["teacher_tokens_forwarded"] == metrics["student_tokens_forwarded"] == 0
    assert not columns["is_scored"].any()
    assert not columns["log_prob_gap"].any()


@pytest.mark.parametrize("context", ["append", "window"])
def test_rows_without_advantage_are_left_out_unless_asked_for(module, context):
    episodes = episodes_of_groups("fw", context=context)
    columns = columns_of(episodes, [-1.0, 0.0])
    sparse = gap(module, columns, [TOLD, TOLD])
    is_first_B = columns["episode_index"] == 0
    layout = RowLayout.of(columns)
    assert torch.equal(layout.any(columns["log_prob_gap"] != 0), is_first_B)
    partial_R = columns["log_prob_gap"]
    everything = gap(module, columns, [TOLD, TOLD], score_all=True)
    assert layout.any(columns["log_prob_gap"] != 0).all()
    assert everything["teacher_tokens_forwarded"] > sparse["teacher_tokens_forwarded"]
    is_first_R = is_first_B[layout.row_R]
    assert (columns["log_prob_gap"] - partial_R)[is_first_R].abs().max() < 1e-5


@pytest.mark.parametrize(
    ("teacher", "version", "teacher_version", "is_forwarded"),
    [
        ("live", 5, 0, False),
        ("stale", 0, 0, False),
        ("stale", 10, 10, False),
        ("stale", 10, 7, True),
        ("stale", 5, 0, True),
    ],
)
def test_a_teacher_that_is_the_policy_and_knows_no_more_is_not_asked(
    module, monkeypatch, teacher, version, teacher_version, is_forwarded
):
    monkeypatch.setattr(module, "teacher_version", teacher_version)
    columns = columns_of(episodes_of_groups("fw"), [-1.0, 1.0], version=version)
    metrics = gap(module, columns, [TOLD, Hindsight()], teacher=teacher)
    row = columns["episode_index"].tolist().index(1)
    assert bool(columns["log_prob_gap"][sampled_rows(columns) == row].any()) == is_forwarded
    assert (columns["is_scored"] == (columns["step_index"] >= 0)).all()
    assert metrics["teacher_tokens_forwarded"] > 0


def test_scores_of_the_rollout_and_of_the_old_policy_replace_the_students_pass(module):
    columns = columns_of(episodes_of_groups("fw"), [-1.0, 1.0], version=5)
    gap(module, columns, [TOLD, Hindsight()])
    recomputed_R = columns["log_prob_gap"]
    student_R = torch.randn_like(recomputed_R)
    for options, name in (({"student": "rollout"}, "behaviour_log_probs"), ({}, "old_log_probs")):
        given = columns_of(episodes_of_groups("fw"), [-1.0, 1.0], version=5) | {name: student_R}
        metrics = gap(module, given, [TOLD, Hindsight()], **options)
        assert metrics["student_tokens_forwarded"] == 0
        differs_R = given["log_prob_gap"] + student_R - recomputed_R
        spread = differs_R[columns["is_scored"]] - _student(module, columns)[columns["is_scored"]]
        assert spread.abs().max() < 1e-5


def _student(module: Any, columns: dict) -> torch.Tensor:
    padded = dense(columns)
    with torch.no_grad():
        scores_BT, _ = module.score(
            module.language_model, padded["input_ids"], padded["response_mask"]
        )
    return at_sampled(columns, scores_BT)


@pytest.mark.parametrize(("position", "share"), [("prefix", 1.0), ("suffix", 2 / 3)])
def test_hindsight_without_positions_is_counted_and_warned_of(tmp_path, caplog, position, share):
    rng = np.random.default_rng(3)
    episode = random_episode(rng, num_turns=3, context="append")
    ends = np.cumsum([len(t.prompt_ids) + len(t.response_ids) for t in episode.turns])
    # The last turn fills the positions; the second leaves room for a part of the hindsight.
    narrow = random_module(tmp_path, max_positions=int(ends[-1]))
    columns = columns_of([episode], [-1.0])
    long = Hindsight(ids=(1,) * int(ends[-1] - ends[0]))
    with caplog.at_level(logging.WARNING):
        metrics = gap(narrow, columns, [long], position=position)
    assert metrics["hindsight_context_cut_share"] == pytest.approx(share)
    assert metrics["hindsight_context_lost_share"] == pytest.approx(
        1 if position == "prefix" else 1 / 3
    )
    assert "hindsight" in caplog.text and "max_context_tokens" in caplog.text


def shaped(columns: dict, episodes: list[AgentEpisode], *, lambda_mix: float = 0.5) -> dict:
    """Runs StepOPSD's shaping on the columns and returns what it logged."""
    config = StepOPSDConfig().training(
        alpha_clip=0.2,
        lambda_mix=lambda_mix,
        lambda_decay_steps=0,
        step_normalization="none",
    )
    connector = AdvantageShaping(shape=config.shape)
    metrics = MetricsLogger(root=True)
    connector(
        rl_module=None,
        batch={DEFAULT_MODULE_ID: columns},
        shared_data={AGENT_EPISODES: episodes},
        metrics=metrics,
    )
    return metrics.peek()[DEFAULT_MODULE_ID]


@pytest.mark.parametrize("context", ["append", "window"])
def test_the_trace_holds_what_the_shaping_did(context):
    episodes = episodes_of_groups("fw", context=context)
    columns = columns_of(episodes, [-0.5, 1.5], version=20)
    torch.manual_seed(0)
    columns["log_prob_gap"] = torch.randn(columns["advantages"].shape)
    columns["is_scored"] = torch.ones_like(columns["advantages"], dtype=torch.bool)
    metrics = shaped(columns, episodes)
    trace = CreditTrace(interval=10, num_episodes=2, takes_one_step=True, decode=str)
    batch, shared = {DEFAULT_MODULE_ID: columns}, {AGENT_EPISODES: episodes}
    trace(rl_module=None, batch=batch, episodes=[], shared_data=shared)
    records = trace.take_records()
    assert [record["update"] for record in records] == [21, 21]
    changes = []
    for record, episode in zip(records, episodes, strict=True):
        assert record["return"] == episode.return_
        for written, turn in zip(record["turns"], episode.turns, strict=True):
            assert len(written["tokens"]) == len(turn.response_ids)
            assert written["behaviour_log_prob"] == [-1.0] * len(turn.response_ids)
            for delta, weight, before, after in zip(
                written["log_prob_gap"],
                written["weight"],
                written["group_advantage"],
                written["advantage"],
                strict=True,
            ):
                x = delta if before > 0 else -delta
                expected = min(max(2 / (1 + np.exp(-x)), 0.8), 1.2)
                assert weight == pytest.approx(expected, abs=1e-5)
                assert after == pytest.approx(0.5 * before + 0.5 * expected * before, abs=1e-5)
                changes.append(abs(after / before - 1))
    assert metrics["effect_size"] == pytest.approx(np.mean(changes), abs=1e-5)
    assert metrics["task_type"]["pick"]["gap_std"] == pytest.approx(metrics["gap_std"])


def test_the_trace_is_taken_at_its_interval_and_off_at_zero():
    for interval, version, num_records in ((10, 0, 1), (10, 9, 0), (10, 10, 1), (0, 0, 0)):
        episodes = episodes_of_groups("fw")
        columns = columns_of(episodes, [-0.5, 0.5], version=version)
        columns["group_advantages"] = columns["advantages"]
        trace = CreditTrace(interval=interval, num_episodes=1, takes_one_step=True, decode=str)
        trace(
            rl_module=None,
            batch={DEFAULT_MODULE_ID: columns},
            episodes=[],
            shared_data={AGENT_EPISODES: episodes},
        )
        records = trace.take_records()
        assert len(records) == num_records and trace.take_records() == []
        assert all("log_prob_gap" not in turn for r in records for turn in r["turns"])


def test_diagnostics_of_nothing_have_no_mean_weight():
    episodes = episodes_of_groups("fw")
    columns = columns_of(episodes, [-0.5, 1.5])
    columns["log_prob_gap"] = torch.zeros_like(columns["advantages"])
    columns["is_scored"] = torch.zeros_like(columns["advantages"], dtype=torch.bool)
    metrics = shaped(columns, episodes, lambda_mix=0.0)
    assert metrics["num_scored_tokens"] == metrics["effect_size"] == metrics["lambda"] == 0
    assert "weight_mean" not in metrics
    assert torch.equal(columns["advantages"], columns["group_advantages"])


def test_a_histogram_has_at_most_101_points_that_keep_the_distribution():
    values_BT = torch.arange(1000.0).flip(0)[None]
    points = histogram_points(values_BT, torch.ones(1, 1000, dtype=torch.bool))
    assert len(points) == 101
    assert points[0] == 0.0 and points[50] == pytest.approx(500, abs=1) and points[-1] == 999.0
    few = histogram_points(values_BT, values_BT < 3)
    assert few == [0.0, 1.0, 2.0]
