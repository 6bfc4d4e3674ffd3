"""Serves a retriever over HTTP in both dialects; see `http_dialect`."""

import json
import sys
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from stepopsd_envs.search_qa.retriever import Passage, RetrievalError, Retriever
from stepopsd_envs.text_files import parse_json

DEFAULT_PORT = 8000
_DEFAULT_TOP_K = 3
_MAX_TOP_K = 1000
_MAX_BODY_BYTES = 16 * 2**20
_MAX_QUERIES = 10_000
_MAX_QUERY_CHARACTERS = 100_000
_MAX_CONNECTIONS = 256
_IDLE_S = 120.0
"""Seconds that a client may take between two bytes, or keep a connection open without a request."""
_POLL_S = 0.05


class BadRequestError(ValueError):
    """A request in neither dialect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalRequest:
    """What a client asks for."""

    queries: list[str]
    top_k: int
    return_scores: bool


def parse_request(body: bytes) -> RetrievalRequest:
    """Reads a request in either dialect.

    Raises:
        BadRequestError: It is in neither; says why.
    """
    request = parse_json(body, "the body", BadRequestError, is_file=False)
    if not isinstance(request, dict):
        raise BadRequestError("the body is not a JSON object")
    queries = request.get("queries", [request["query"]] if "query" in request else None)
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise BadRequestError("send 'queries', a list of texts, or 'query', a text")
    if len(queries) > _MAX_QUERIES or any(len(q) > _MAX_QUERY_CHARACTERS for q in queries):
        raise BadRequestError(
            f"send at most {_MAX_QUERIES} queries of {_MAX_QUERY_CHARACTERS} characters"
        )
    top_k = request.get("topk")
    top_k = _DEFAULT_TOP_K if top_k is None else top_k
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 0 < top_k <= _MAX_TOP_K:
        raise BadRequestError(f"topk must be a whole number from 1 to {_MAX_TOP_K}")
    return_scores = request.get("return_scores", False)
    if not isinstance(return_scores, bool):
        raise BadRequestError("return_scores must be true or false")
    return RetrievalRequest(queries=queries, top_k=top_k, return_scores=return_scores)


class RetrievalServer(ThreadingHTTPServer):
    """Answers POST /retrieve, and GET /health with the text ok."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, retriever: Retriever, *, host: str = "127.0.0.1", port: int = DEFAULT_PORT):
        """Binds the address; `serve_forever` answers. Port 0 takes a free one."""
        self.retriever = retriever
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__((host, port), _RequestHandler)

    @property
    def url(self) -> str:
        """The address that takes queries."""
        host, port = self.server_address[:2]
        return f"http://{host}:{port}/retrieve"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Takes a connection once there is room for it; the others wait in the queue."""
        self._free.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers a connection and gives its place free."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Reports errors, but not clients that hung up: they are told to at their deadline."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def start(self) -> threading.Thread:
        """Answers in a thread of its own until `shutdown`."""
        thread = threading.Thread(target=self.serve_forever, args=(_POLL_S,), daemon=True)
        thread.start()
        return thread


class _RequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open between requests
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one packet
    timeout = _IDLE_S

    @property
    def _retriever(self) -> Retriever:
        assert isinstance(self.server, RetrievalServer)
        return self.server.retriever

    def do_GET(self) -> None:
        if self.path == "/health":
            self._reply(HTTPStatus.OK, {"status": "ok"})
        else:
            self._reply(HTTPStatus.NOT_FOUND, {"error": "POST to /retrieve"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _MAX_BODY_BYTES:
            self.close_connection = True
            self._reply(HTTPStatus.LENGTH_REQUIRED, {"error": "Content-Length is missing or huge"})
            return
        body = self.rfile.read(int(length))
        if self.path != "/retrieve":
            self._reply(HTTPStatus.NOT_FOUND, {"error": "POST to /retrieve"})
            return
        try:
            request = parse_request(body)
            found = self._retriever.search(request.queries, request.top_k)
        except BadRequestError as error:
            self._reply(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)})
        except RetrievalError as error:
            self._reply(HTTPStatus.BAD_GATEWAY, {"error": str(error)})
        else:
            result = [[_entry(passage, request) for passage in passages] for passages in found]
            self._reply(HTTPStatus.OK, {"result": result})

    def log_message(self, format: str, *args: Any) -> None:
        """Stays silent: a line a request on a terminal slows a server down."""

    def _reply(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Content-Type-Options", "nosniff")  # an answer is never a page
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _entry(passage: Passage, request: RetrievalRequest) -> dict[str, Any]:
    document = {"id": passage.id, "contents": passage.contents}
    return {"document": document, "score": passage.score} if request.return_scores else document
