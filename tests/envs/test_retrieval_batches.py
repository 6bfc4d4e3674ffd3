"""Many episodes at one retrieval server: what travels together, and what fails alone."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from stepopsd_envs.search_qa.http_client import HttpRetriever
from stepopsd_envs.search_qa.retriever import RetrievalError

EPISODES, SERVICE_S = 16, 0.1
DEADLINE_S = 2.0


class Server(ThreadingHTTPServer):
    """Answers each query with itself in one dialect; chokes on requests that hold "poison".

    On "slow poison" it hangs once it has choked.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, dialect: str):
        self.dialect = dialect
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0
        self.has_choked = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/retrieve"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        time.sleep(SERVICE_S)
        with server.lock:
            server.at_once -= 1
        queries = [request.get("query")] if server.dialect == "single" else request.get("queries")
        if not isinstance(queries, list) or None in queries:
            self.reply(422, b"{}")
        elif any("poison" in query for query in queries):
            if "slow poison" in queries and server.has_choked.is_set():
                time.sleep(2 * DEADLINE_S)
            server.has_choked.set()
            self.reply(500, b"Internal Server Error")
        else:
            result = [[{"document": {"id": q, "contents": q}, "score": 1.0}] for q in queries]
            self.reply(200, json.dumps({"result": result}).encode())

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(params=["list", "single"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    served = Server(request.param)
    yield served
    served.shutdown()
    served.server_close()


def ask_all(client: HttpRetriever, queries: list[str]) -> dict[str, str]:
    """Asks at the same moment from as many threads; returns the first passage or the status."""
    barrier = threading.Barrier(len(queries))

    def ask(query: str) -> str:
        barrier.wait()
        try:
            return client.search([query], 1)[0][0].contents
        except RetrievalError as error:
            return error.status

    with ThreadPoolExecutor(len(queries)) as pool:
        return dict(zip(queries, pool.map(ask, queries), strict=True))


def test_queries_travel_together_or_side_by_side(server: Server):
    client = HttpRetriever([server.url], batch_window_s=0.2)
    client.check()
    before = client.counts.requests
    queries = [f"query {number}" for number in range(EPISODES)]
    assert ask_all(client, queries) == {query: query for query in queries}
    requests = client.counts.requests - before
    if server.dialect == "list":
        assert requests < EPISODES
    else:
        assert requests == EPISODES and server.most_at_once > 1


def test_a_query_that_a_server_chokes_on_fails_alone(server: Server):
    client = HttpRetriever([server.url], batch_window_s=0.2, deadline_s=8.0)
    client.check()
    queries = [f"query {number}" for number in range(EPISODES)]
    found = ask_all(client, [*queries, "poison"])
    assert found.pop("poison") == "http_500"
    assert found == {query: query for query in queries}
    assert client.counts.failures == {"http_500": 1}


def test_what_a_server_said_is_told_though_it_then_hangs(server: Server):
    client = HttpRetriever([server.url], deadline_s=DEADLINE_S)
    client.check()
    client.counts.attempts_failed.clear()
    begin = time.monotonic()
    with pytest.raises(RetrievalError) as refused:
        client.search(["slow poison"], 1)
    assert refused.value.status == "http_500"
    assert time.monotonic() - begin < DEADLINE_S + 1
    assert client.counts.attempts_failed == {"http_500": 1, "timeout": 1}


def test_of_several_servers_a_dead_one_is_warned_of_at_the_start(server: Server, caplog):
    dead = "http://127.0.0.1:1/retrieve"
    client = HttpRetriever([server.url, dead])
    with caplog.at_level(logging.WARNING):
        client.check()
    assert f"{dead} (refused" in caplog.text and server.url not in caplog.text
    assert client.search(["query"], 1)[0][0].contents == "query"
