"""A local chat endpoint that does everything wrong: the outside world of the endpoint analyzer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = json.dumps(
    {
        "episode_summary": "Heated the egg.",
        "episode_skill": "Heat food in the microwave before you deliver it.",
        "step_skills": {"1": "Take the egg.", "0": "Go to the fridge.", "7": "There is no step 7."},
    }
)


def completion(text: str | None) -> bytes:
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200},
    }
    return json.dumps(body).encode()


class FaultyServer(ThreadingHTTPServer):
    """Answers the n-th request with the n-th plan; the last plan serves all later ones."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[Any] = [completion(GOOD)]
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.running = self.most_running = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: FaultyServer

    def do_POST(self) -> None:
        try:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        except ValueError:
            return  # the client has given up while it sent
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append(content)
            self.server.running += 1
            self.server.most_running = max(self.server.most_running, self.server.running)
        reply = self.server.plan[min(number, len(self.server.plan) - 1)]
        try:
            reply(self) if callable(reply) else send(self, 200, reply)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has given up, as the test wants it to
        finally:
            with self.server.lock:
                self.server.running -= 1

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test output clean."""


def send(handler: Handler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int, body: bytes = b"{}", **headers: str) -> Any:
    return lambda handler: send(handler, code, body, **headers)


def hang(handler: Handler) -> None:
    time.sleep(1.5)


def drip(handler: Handler) -> None:
    """Sends a byte of a large body now and then, so that no single read ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(30):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def drop_connection(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def slow(handler: Handler) -> None:
    time.sleep(0.1)
    send(handler, 200, completion(GOOD))


@contextmanager
def serving() -> Iterator[FaultyServer]:
    """A server that runs until the end of the block."""
    server = FaultyServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
