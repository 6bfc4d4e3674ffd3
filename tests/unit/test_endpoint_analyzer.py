"""The endpoint analyzer against a local server that does everything wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from stepopsd_rllib.teachers.analysis.analyzer import AnalyzerFailure, EpisodeRecord
from stepopsd_rllib.teachers.analysis.endpoint_analyzer import EndpointAnalyzer
from stepopsd_rllib.teachers.analysis.endpoint_settings import EndpointSettings
from tests.helpers.faulty_endpoint import (
    GOOD,
    FaultyServer,
    completion,
    drip,
    drop_connection,
    hang,
    serving,
    slow,
    status,
)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving() as running:
        yield running


def analyzer(server: FaultyServer, **changes: Any) -> EndpointAnalyzer:
    settings: dict[str, Any] = {
        "model": "m",
        "base_url": server.url,
        "max_retries": 2,
        "first_backoff_seconds": 0.01,
        "request_timeout_seconds": 5.0,
        "deadline_seconds": 20.0,
    }
    return EndpointAnalyzer(EndpointSettings(**(settings | changes)))


def turn(observation: str, response: str) -> Any:
    return SimpleNamespace(
        observation=observation, response=response, action=response, is_action_valid=True
    )


RECORD = EpisodeRecord(
    task="heat some egg and put it in garbagecan",
    outcome="success",
    turns=[turn("a room", "go to fridge 1"), turn("an egg 1", "take egg 1 from fridge 1")],
)


def test_a_good_reply_gives_skills_and_is_billed(server: FaultyServer) -> None:
    asked = analyzer(
        server, price_per_million_prompt_tokens=2.0, price_per_million_completion_tokens=10.0
    )
    skills = asked.analyze(RECORD)
    assert skills is not None
    assert skills.episode_skill == "Heat food in the microwave before you deliver it."
    assert skills.step_skills == {1: "Take the egg.", 0: "Go to the fridge."}
    assert (asked.counts.requests, asked.counts.successes) == (1, 1)
    assert (asked.counts.prompt_tokens, asked.counts.completion_tokens) == (1000, 200)
    assert asked.counts.cost == pytest.approx(0.004)


def test_the_request_holds_task_outcome_and_every_step(server: FaultyServer) -> None:
    analyzer(server).analyze(RECORD)
    system, user = server.requests[0]["messages"]
    described = json.loads(user["content"])
    assert described["task"] == RECORD.task
    assert described["outcome"] == "success"
    assert described["candidate_steps"] == [0, 1]
    assert described["steps"][1] == {
        "step": 1,
        "observation": "an egg 1",
        "response": "take egg 1 from fridge 1",
    }
    assert "workflow rule" in system["content"]


def test_only_the_first_step_skills_are_kept(server: FaultyServer) -> None:
    skills = analyzer(server, max_step_skills=1).analyze(RECORD)
    assert skills is not None
    assert skills.step_skills == {1: "Take the egg."}


def test_a_server_that_is_down_is_counted(server: FaultyServer) -> None:
    asked = analyzer(server, base_url="http://127.0.0.1:9/v1")
    assert asked.analyze(RECORD) is None
    assert asked.counts.failures == {AnalyzerFailure.UNREACHABLE: 1}
    assert (asked.counts.requests, asked.counts.retries) == (3, 2)


def test_a_dropped_connection_is_retried(server: FaultyServer) -> None:
    server.plan = [drop_connection, completion(GOOD)]
    asked = analyzer(server)
    assert asked.analyze(RECORD) is not None
    assert asked.counts.retries == 1


@pytest.mark.parametrize("fault", [hang, drip])
def test_a_slow_reply_is_given_up(server: FaultyServer, fault: Any) -> None:
    server.plan = [fault]
    asked = analyzer(server, request_timeout_seconds=0.2, max_retries=1)
    started = time.monotonic()
    assert asked.analyze(RECORD) is None
    assert time.monotonic() - started < 1.4
    assert asked.counts.failures == {AnalyzerFailure.TIMEOUT: 1}


def test_no_call_outlasts_its_deadline(server: FaultyServer) -> None:
    server.plan = [hang]
    asked = analyzer(server, deadline_seconds=0.4, concurrency=2)
    started = time.monotonic()
    assert asked.analyze_many([RECORD] * 6) == [None] * 6
    assert time.monotonic() - started < 1.4
    assert asked.counts.failures == {AnalyzerFailure.DEADLINE: 6}


def test_an_empty_account_is_not_asked_twice(server: FaultyServer) -> None:
    body = json.dumps({"error": {"message": "no money", "code": "insufficient_quota"}}).encode()
    server.plan = [status(429, body)]
    asked = analyzer(server)
    assert asked.analyze(RECORD) is None
    assert asked.counts.failures == {AnalyzerFailure.QUOTA: 1}
    assert asked.counts.requests == 1


def test_a_rate_limit_is_waited_out(server: FaultyServer) -> None:
    server.plan = [status(429, Retry_After="0.3"), completion(GOOD)]
    asked = analyzer(server)
    started = time.monotonic()
    assert asked.analyze(RECORD) is not None
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(
    ("plan", "reason", "requests"),
    [
        ([status(500)], AnalyzerFailure.SERVER_ERROR, 3),
        ([status(401)], AnalyzerFailure.REFUSED, 1),
        ([status(404)], AnalyzerFailure.REFUSED, 1),
        ([b"<html>gateway</html>"], AnalyzerFailure.UNREADABLE, 3),
        ([b"{}"], AnalyzerFailure.UNREADABLE, 3),
        ([b'{"choices": []}'], AnalyzerFailure.UNREADABLE, 3),
        ([b"[1, 2]"], AnalyzerFailure.UNREADABLE, 3),
        ([completion(None)], AnalyzerFailure.UNREADABLE, 3),
        ([completion("I would rather not.")], AnalyzerFailure.UNREADABLE, 2),
        ([completion('{"episode_skill": "  "}')], AnalyzerFailure.EMPTY_SKILL, 2),
        ([completion('{"episode_skill": null}')], AnalyzerFailure.EMPTY_SKILL, 2),
        ([completion('{"episode_summary": "s"}')], AnalyzerFailure.EMPTY_SKILL, 2),
    ],
)
def test_nonsense_is_counted_and_never_becomes_a_skill(
    server: FaultyServer, plan: list[Any], reason: AnalyzerFailure, requests: int
) -> None:
    server.plan = plan
    asked = analyzer(server)
    assert asked.analyze(RECORD) is None
    assert asked.counts.failures == {reason: 1}
    assert asked.counts.requests == requests
    assert asked.counts.successes == 0


def test_a_html_page_is_no_reply(server: FaultyServer) -> None:
    server.plan = [status(200, b"<html>login</html>", Content_Type="text/html")]
    asked = analyzer(server)
    assert asked.analyze(RECORD) is None
    assert asked.counts.failures == {AnalyzerFailure.UNREADABLE: 1}


def test_the_second_attempt_shows_what_was_wrong(server: FaultyServer) -> None:
    server.plan = [completion("My thoughts, without any object."), completion(GOOD)]
    asked = analyzer(server)
    assert asked.analyze(RECORD) is not None
    assert [message["role"] for message in server.requests[1]["messages"]] == ["system", "user"]
    complaint = server.requests[1]["messages"][-1]["content"]
    assert "no JSON object" in complaint
    assert "without any object." in complaint


def test_some_failures_leave_the_other_episodes_alone(server: FaultyServer) -> None:
    server.plan = [status(401), completion(GOOD)]
    asked = analyzer(server, concurrency=1)
    results = asked.analyze_many([RECORD] * 4)
    assert [result is None for result in results] == [True, False, False, False]
    assert asked.counts.metrics()["failure/refused"] == 1
    assert asked.counts.metrics()["failures"] == 1


def test_episodes_are_asked_about_together_up_to_the_limit(server: FaultyServer) -> None:
    server.plan = [slow]
    asked = analyzer(server, concurrency=4)
    assert None not in asked.analyze_many([RECORD] * 12)
    assert server.most_running == 4


def test_nothing_is_asked_for_no_episode(server: FaultyServer) -> None:
    assert analyzer(server).analyze_many([]) == []
    assert server.requests == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": " "}, "analyzer.model=' '"),
        ({"concurrency": 0}, "analyzer.concurrency=0"),
        ({"deadline_seconds": -1.0}, "analyzer.deadline_seconds=-1.0"),
        ({"max_retries": -1}, "analyzer.max_retries=-1"),
        ({"concurrency": "eight"}, "config.analyzer.concurrency='eight': must be a whole number"),
        ({"base_url": "localhost:8000/v1"}, "begins with http:// or https://"),
    ],
)
def test_impossible_settings_name_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointSettings(**({"model": "m"} | changes))
