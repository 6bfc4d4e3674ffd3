"""A retrieval server that fails in every way: no episode sees it, none waits too long."""

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from stepopsd_envs.search_qa.env import SearchQAEnv
from stepopsd_envs.search_qa.http_client import HttpRetriever
from stepopsd_envs.search_qa.http_dialect import read_reply
from stepopsd_envs.search_qa.retriever import RetrievalError
from stepopsd_envs.search_qa.server_health import ServerHealth

DEADLINE_S, SLACK_S = 0.6, 1.5
FAULTS_TOTAL, CONCURRENT = 1000, 64
GOOD = {"result": [[{"document": {"id": "1", "contents": '"T"\nevidence'}, "score": 1.0}]]}
EVIDENCE = '\n\n<information>Doc 1(Title: "T") evidence</information>\n\n'

EXPECTED_STATUS = {
    "refuse": {"refused", "timeout"},
    "hang": {"timeout"},
    "drip_headers": {"timeout"},
    "drip_body": {"timeout"},
    "status_500": {"dialect", "http_500", "timeout"},
    "garbage": {"garbage", "timeout"},
    "half_body": {"broken_reply", "timeout"},
    "error_text": {"wrong_shape", "timeout"},
    "too_few": {"wrong_shape", "timeout"},
    "no_passage": {"empty", "timeout"},
    "blank_passage": {"wrong_shape", "timeout"},
}
"""By kind of fault. A deadline that ends in the middle of a repetition reads as a timeout."""

WRONG_CONTENT = {
    "garbage": b"<html>nginx</html>",
    "error_text": b'{"result": "Internal error on host 10.0.0.1"}',
    "too_few": b'{"result": []}',
    "no_passage": b'{"result": [[]]}',
    "blank_passage": b'{"result": [[{"document": {"id": "1", "contents": " "}, "score": 1}]]}',
}


class FaultyHandler(BaseHTTPRequestHandler):
    """The path says what happens: one of the faults, `ok`, `flaky` or `slow_then_fast`."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: "FaultyServer"  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.path.strip("/")
        if kind == "slow_then_fast" and self.server.first_visit():
            kind = "hang"
        elif kind == "flaky":
            faults = [*sorted(WRONG_CONTENT), "status_500", "half_body"]
            kind = random.choice(faults) if random.random() < 0.5 else "ok"
        try:
            self.answer(kind)
        except OSError:
            self.close_connection = True

    def answer(self, kind: str) -> None:
        if kind == "hang":
            self.server.stopped.wait(10)
            self.close_connection = True
        elif kind.startswith("drip"):
            self.drip(kind)
        elif kind == "status_500":
            self.reply(500, b"Internal Server Error")
        elif kind == "half_body":
            self.reply(200, json.dumps(GOOD).encode()[:20], announced=500)
            self.close_connection = True
        elif kind == "one_blank":
            blank = {"document": {"id": "0", "contents": "\n"}, "score": 9}
            self.reply(200, json.dumps({"result": [[blank, *GOOD["result"][0]]]}).encode())
        else:
            self.reply(200, WRONG_CONTENT.get(kind, json.dumps(GOOD).encode()))

    def drip(self, kind: str) -> None:
        """Sends a byte now and then: each read succeeds, the whole never ends."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        if kind == "drip_body":
            self.wfile.write(b"Content-Length: 500\r\n\r\n")
        self.wfile.flush()
        while not self.server.stopped.wait(0.1):
            self.wfile.write(b"x")
            self.wfile.flush()

    def reply(self, status: int, body: bytes, announced: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(announced or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


class FaultyServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self):
        self.stopped = threading.Event()
        self.visits = 0
        super().__init__(("127.0.0.1", 0), FaultyHandler)

    def handle_error(self, request, client_address) -> None:
        """Clients that gave up are what is tested here."""

    def first_visit(self) -> bool:
        self.visits += 1
        return self.visits == 1

    def url(self, kind: str) -> str:
        if kind == "refuse":
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))
                return f"http://127.0.0.1:{unused.getsockname()[1]}/retrieve"
        return f"http://127.0.0.1:{self.server_address[1]}/{kind}"


@pytest.fixture(scope="module")
def faulty() -> Iterator[FaultyServer]:
    server = FaultyServer()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()


def client_of(*urls: str, **settings) -> HttpRetriever:
    settings = {"deadline_s": DEADLINE_S, "read_timeout_s": 0.4, "max_batch": 1, **settings}
    return HttpRetriever(list(urls), **settings)


@pytest.fixture
def questions(tmp_path: Path) -> dict[str, str]:
    row = {"id": "0", "question": "who", "golden_answers": ["x"], "data_source": "nq"}
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row))
    return {"train": str(path)}


def search_once(env: SearchQAEnv, query: str) -> tuple[float, str, bool, dict]:
    env.reset(options={"task": "nq/0"})
    started = time.monotonic()
    observation, _, _, truncated, info = env.step(f"<search>{query}</search>")
    return time.monotonic() - started, observation, truncated, info


def test_a_thousand_faults_give_no_evidence_and_end_in_time(faulty, questions):
    kinds = list(EXPECTED_STATUS)
    clients = {kind: client_of(faulty.url(kind)) for kind in kinds}

    def play(number: int) -> tuple[str, float, str, bool, dict]:
        kind = kinds[number % len(kinds)]
        env = SearchQAEnv(data=questions, retriever=clients[kind])
        return kind, *search_once(env, f"query {number}")

    with ThreadPoolExecutor(CONCURRENT) as pool:
        played = list(pool.map(play, range(FAULTS_TOTAL)))
    counted: Counter[str] = Counter()
    for kind, elapsed_s, observation, truncated, info in played:
        status = info["tool_error"].partition(":")[0]
        assert status in EXPECTED_STATUS[kind], (kind, info["tool_error"])
        assert observation == "" and truncated and not info["won"] and info["searches"] == 0
        assert elapsed_s < DEADLINE_S + SLACK_S, (kind, elapsed_s)
        counted[status] += 1
    assert len(played) == FAULTS_TOTAL
    assert counted == sum((client.counts.failures for client in clients.values()), Counter())
    for kind, client in clients.items():
        # The fault itself was met, not only the deadline; endless headers only ever meet that.
        if kind != "drip_headers":
            met = EXPECTED_STATUS[kind] | {"http_500"}
            assert set(client.counts.attempts_failed) & met, (kind, client.counts)


def test_repetition_finds_evidence_at_a_server_that_fails_half_of_the_time(faulty, questions):
    client = client_of(faulty.url("flaky"), deadline_s=20.0, cache_size=0)

    def play(number: int) -> tuple[float, str, bool, dict]:
        return search_once(SearchQAEnv(data=questions, retriever=client), f"query {number}")

    with ThreadPoolExecutor(16) as pool:
        played = list(pool.map(play, range(60)))
    assert {observation for _, observation, _, _ in played} == {EVIDENCE}
    assert client.counts.attempts_failed and not client.counts.failures


def test_a_healthy_server_takes_over_from_a_dead_one(faulty, questions):
    client = client_of(faulty.url("refuse"), faulty.url("ok"), deadline_s=5.0)
    client.check()
    for number in range(20):
        env = SearchQAEnv(data=questions, retriever=client)
        assert search_once(env, f"query {number}")[1] == EVIDENCE
    assert client.counts.attempts_failed["refused"] < 5, "a dead server rests"


def test_a_server_that_is_slow_once_answers_the_repetition(faulty, questions):
    client = client_of(faulty.url("slow_then_fast"), deadline_s=5.0, read_timeout_s=0.2)
    env = SearchQAEnv(data=questions, retriever=client)
    assert search_once(env, "query")[1] == EVIDENCE
    assert client.counts.attempts_failed == {"timeout": 1}


GOOD_DOCUMENT = {"id": "1", "contents": "t"}


@pytest.mark.parametrize(
    ("passages", "found"),
    [
        ([{"document": {"id": None, "contents": "t"}, "score": 1}], [("", "t", 1.0)]),
        ([{"document": {"contents": "t"}}], [("", "t", 0.0)]),
        ([{"contents": "t"}], [("", "t", 0.0)]),
        ([{"document": "t", "score": "0.87"}], [("", "t", 0.87)]),
        (["t"], [("", "t", 0.0)]),
        ([{"document": {"id": 7.0, "contents": "t"}, "score": None}], [("7", "t", 0.0)]),
        ([{"document": {"id": {}, "contents": "t"}, "score": [1]}], [("", "t", 0.0)]),
        ([{"document": {"id": 7, "contents": "t"}, "score": "high"}], [("7", "t", 0.0)]),
        ([{"document": GOOD_DOCUMENT, "score": float("nan")}], [("1", "t", 0.0)]),
        ([{"document": {"id": 0, "contents": None, "text": "t"}}], [("0", "t", 0.0)]),
        (
            [{"document": {"id": "2", "contents": ""}}, None, 5, {"document": GOOD_DOCUMENT}],
            [("1", "t", 0.0)],
        ),
    ],
)
def test_evidence_needs_a_text_and_nothing_else(passages, found):
    body = json.dumps({"result": [passages], "extra": 1}).encode()
    reply = read_reply(body, queries=1, top_k=3)
    assert [(p.id, p.contents, p.score) for p in reply.passages[0]] == found
    assert reply.dropped == len(passages) - len(found)


def test_a_bad_passage_does_not_take_the_place_of_a_good_one():
    entry = [{"contents": " "}, {"contents": "a"}, {"contents": "b"}, {"contents": "c"}]
    reply = read_reply(json.dumps({"result": [entry]}).encode(), queries=1, top_k=2)
    assert [passage.contents for passage in reply.passages[0]] == ["a", "b"]


@pytest.mark.parametrize("entry", [[{"id": "1"}], [None], [{"document": None}], [5, {}], None, {}])
def test_an_answer_without_any_text_is_refused(entry):
    with pytest.raises(RetrievalError, match="wrong_shape"):
        read_reply(json.dumps({"result": [entry]}).encode(), queries=1, top_k=3)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"result": [["\xe9"]]}', b"\xff\xfe", b""])
def test_a_reply_that_is_no_json_is_garbage_however_deep(body):
    with pytest.raises(RetrievalError, match="garbage"):
        read_reply(body, queries=1, top_k=3)


def test_dropped_passages_are_counted_and_named_once(faulty, questions, caplog):
    client = client_of(faulty.url("one_blank"), deadline_s=5.0)
    env = SearchQAEnv(data=questions, retriever=client)
    for number in range(3):
        assert search_once(env, f"query {number}")[1] == EVIDENCE
    assert client.counts.passages_dropped == 3
    assert len([line for line in caplog.messages if "hold no text" in line]) == 1


def test_half_a_surrogate_pair_in_a_query_is_no_fault_of_the_server(faulty, questions):
    env = SearchQAEnv(data=questions, retriever=client_of(faulty.url("ok"), deadline_s=5.0))
    assert search_once(env, "half a pair: \ud83d")[1] == EVIDENCE


def test_failures_are_not_kept(faulty, questions):
    client = client_of(faulty.url("garbage"))
    env = SearchQAEnv(data=questions, retriever=client)
    assert "tool_error" in search_once(env, "same")[3]
    requests = client.counts.requests
    assert "tool_error" in search_once(env, "same")[3]
    assert client.counts.requests > requests


def test_failing_servers_rest_longer_each_time_and_recover():
    now = 0.0
    health = ServerHealth(["a", "b"], clock=lambda: now)
    a = health.pick()
    health.failed(a)
    assert {health.pick().url for _ in range(4)} == {"b"}
    now = 0.6
    assert {health.pick().url for _ in range(4)} == {"a", "b"}
    health.failed(a)
    now = 1.5
    assert {health.pick().url for _ in range(4)} == {"b"}
    health.succeeded(a)
    assert {health.pick().url for _ in range(4)} == {"a", "b"}
    health.failed(a)
    health.failed(health.servers[1])
    assert health.pick() is min(health.servers, key=lambda server: server.rests_until)
