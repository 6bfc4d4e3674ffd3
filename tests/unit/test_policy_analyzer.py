"""The policy as analyzer: what it is shown of an episode, and how its recorded replies are read."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.episodes import PolicyReply
from stepopsd_rllib.teachers.analysis.analyzer import AnalyzerFailure, EpisodeRecord
from stepopsd_rllib.teachers.analysis.analyzer_prompt import analysis_messages, turns_that_fit
from stepopsd_rllib.teachers.analysis.policy_analyzer import PolicyAnalyzer, PolicySettings

GOOD = json.dumps({"episode_skill": "Open it first.", "step_skills": {"1": "Open.", "2": "Go."}})


def record(reply: PolicyReply | None, num_turns: int = 3) -> EpisodeRecord:
    turns: list[Any] = [
        SimpleNamespace(observation=f"room {k}", response=f"go {k}") for k in range(num_turns)
    ]
    return EpisodeRecord(task="find it", outcome="failure", turns=turns, reply=reply)


def written(text: str, shown_turns: tuple[int, ...] = (0, 1, 2), **counts: int) -> PolicyReply:
    return PolicyReply(text=text, shown_turns=shown_turns, **counts)


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (None, AnalyzerFailure.NOTHING_RECORDED),
        (PolicyReply(failure="too_long"), AnalyzerFailure.TOO_LONG),
        (PolicyReply(failure="refused"), AnalyzerFailure.REFUSED),
        (written(""), AnalyzerFailure.UNREADABLE),
        (written("go to fridge 1"), AnalyzerFailure.UNREADABLE),
        (written('{"episode_skill": ""}'), AnalyzerFailure.EMPTY_SKILL),
    ],
)
def test_a_reply_without_skills_is_counted_by_reason(reply, failure):
    analyzer = PolicyAnalyzer(PolicySettings())
    assert analyzer.analyze(record(reply)) is None
    assert analyzer.counts.failures == {failure: 1}
    assert (analyzer.counts.episodes, analyzer.counts.successes) == (1, 0)


def test_a_readable_reply_gives_its_skills_and_its_tokens():
    analyzer = PolicyAnalyzer(PolicySettings())
    reply = written(GOOD, requests=2, prompt_tokens=70, completion_tokens=9)
    (skills,) = analyzer.analyze_many([record(reply)])
    assert skills is not None
    assert (skills.episode_skill, skills.step_skills) == ("Open it first.", {1: "Open.", 2: "Go."})
    counts = analyzer.counts
    assert (counts.successes, counts.requests, counts.records_cut) == (1, 2, 0)
    assert (counts.prompt_tokens, counts.completion_tokens) == (70, 9)


def test_a_turn_that_was_not_shown_gets_no_skill():
    analyzer = PolicyAnalyzer(PolicySettings())
    skills = analyzer.analyze(record(written(GOOD, shown_turns=(0, 2))))
    assert skills is not None and skills.step_skills == {2: "Go."}
    assert analyzer.counts.records_cut == 1
    (limited,) = PolicyAnalyzer(PolicySettings(max_step_skills=0)).analyze_many(
        [record(written(GOOD))]
    )
    assert limited is not None and limited.step_skills == {}


def test_the_question_names_what_it_leaves_out():
    _, whole = analysis_messages(record(None), max_step_skills=5)
    assert "steps_left_out" not in json.loads(whole["content"])
    _, part = analysis_messages(record(None), max_step_skills=5, shown_turns=(0, 2))
    described = json.loads(part["content"])
    assert described["candidate_steps"] == [0, 2] and described["steps_left_out"] == [1]
    assert [step["step"] for step in described["steps"]] == [0, 2]
    assert "room 1" not in part["content"]


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=40), room=st.integers(0, 200))
def test_as_many_turns_as_fit_are_shown_the_ends_before_the_middle(lengths, room):
    def fits(turns):
        return len(turns) > 0 and sum(lengths[k] for k in turns) <= room

    shown = turns_that_fit(len(lengths), fits)
    assert list(shown) == sorted(set(shown)) and set(shown) <= set(range(len(lengths)))
    if not shown:
        assert not fits([len(lengths) - 1])
        return
    assert fits(shown)
    head, tail = len(shown) // 2, len(shown) - len(shown) // 2
    last = len(lengths) - tail
    assert shown == (*range(head), *range(last, len(lengths)))
    if len(shown) < len(lengths):
        following = head if head < tail else last - 1
        assert not fits([*shown, following]), "one more would have fitted"
