"""A retriever that asks servers over HTTP and never waits longer than it was told to."""

import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field

import httpx

from stepopsd_envs.search_qa.http_dialect import DIALECTS, Dialect, read_reply, request_body
from stepopsd_envs.search_qa.query_batcher import BatchCounts, QueryBatcher
from stepopsd_envs.search_qa.retriever import Passage, RetrievalError
from stepopsd_envs.search_qa.server_health import Server, ServerHealth
from stepopsd_envs.text_files import whole_characters

logger = logging.getLogger(__name__)

_FIRST_BACK_OFF_S, _LONGEST_BACK_OFF_S = 0.1, 5.0
_HANDING_OVER = 0.05
"""Share of the deadline that is left for telling those who wait what failed."""
_CHECK_ATTEMPTS = 3
_PROBE = "what is the capital of france"
_MAX_REPLY_BYTES = 64 * 2**20
_MAX_CONNECTIONS = 256
_SAYS_NOTHING_OF_QUERIES = ("refused", "timeout", "dialect")


@dataclass(kw_only=True, slots=True)
class RequestCounts:
    """What a client has sent and what came of it; `BatchCounts` says what it was asked.

    Attributes:
        requests: HTTP requests sent, repeated ones included.
        queries_sent: Queries in those requests; over `requests`, the mean batch.
        attempts_failed: Requests that failed, by status.
        failures: Searches that ended in a `RetrievalError`, by status.
        passages_dropped: Passages without a text in the answers, left out of the evidence.
        waiting_s: Time that callers spent waiting, in seconds, summed over callers.
    """

    requests: int = 0
    queries_sent: int = 0
    attempts_failed: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    passages_dropped: int = 0
    waiting_s: float = 0.0


class HttpRetriever:
    """Asks retrieval servers of either dialect. Thread-safe; one a process is enough.

    Queries that arrive together travel together, where a server takes several; equal ones are asked
    once; answers are kept.
    A failed request is repeated, at another server if there is one, after a random pause that
    grows, until `deadline_s` is over. Then `RetrievalError` says what failed last.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        deadline_s: float = 60.0,
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 20.0,
        batch_window_s: float = 0.002,
        max_batch: int = 64,
        cache_size: int = 100_000,
    ):
        """Connects to nothing yet; see `check`.

        Args:
            urls: Addresses that take the queries, mostly ending in /retrieve; all serve one corpus.
            deadline_s: Longest time a search may take, repetitions included, in seconds.
            connect_timeout_s: Longest time for a connection.
            read_timeout_s: Longest silence of a server.
            batch_window_s: How long a query waits for others to travel with.
            max_batch: Most queries of one request.
            cache_size: Answers kept, the least recently used dropped first; 0 for none.
        """
        if not urls:
            raise ValueError(
                "urls=[]: name at least one server, such as http://host:8000/retrieve."
            )
        for url in urls:
            if not isinstance(url, str) or not url.startswith(("http://", "https://")):
                raise ValueError(f"url={url!r}: an address begins with http:// or https://.")
        for key, value in (
            ("deadline_s", deadline_s),
            ("connect_timeout_s", connect_timeout_s),
            ("read_timeout_s", read_timeout_s),
            ("max_batch", max_batch),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ValueError(f"retriever.{key}={value!r} must be a number above 0.")
        for key, value in (("batch_window_s", batch_window_s), ("cache_size", cache_size)):
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"retriever.{key}={value!r} must be a number, 0 or more.")
        self.counts = RequestCounts()
        self._health = ServerHealth(urls)
        self._deadline_s = deadline_s
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._batch_window_s = batch_window_s
        self._lock = threading.Lock()
        self._batcher = QueryBatcher(
            self._ask_until_answered,
            window_s=batch_window_s,
            max_batch=max_batch,
            cache_size=cache_size,
        )
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=_MAX_CONNECTIONS)
        self._client = httpx.Client(limits=limits, trust_env=False)

    def check(self) -> None:
        """Asks every server one question and learns its dialect; warns of those that fail.

        Raises:
            RetrievalError: No server answers in a known dialect; names each and what it did.
        """
        problems = []
        for server in self._health.servers:
            problem = self._problem_of(server)
            if problem is not None:
                self._health.failed(server)
                problems.append(f"{server.url} ({problem})")
        if len(problems) == len(self._health.servers):
            raise RetrievalError(
                "no_server",
                f"no retrieval server answers: {'; '.join(problems)}. Start one "
                "(`stepopsd serve-retriever`) or correct retriever.urls.",
            )
        for problem in problems:
            logger.warning("A retrieval server does not answer, the others are asked: %s", problem)
        if all(server.dialect != "list" for server in self._health.servers):
            self._batcher.max_batch = 1  # queries that cannot travel together travel side by side

    def _problem_of(self, server: Server) -> RetrievalError | None:
        """What is wrong with a server; asks again where that may pass."""
        problem: RetrievalError | None = None
        for _ in range(_CHECK_ATTEMPTS):
            try:
                self._ask(server, [_PROBE], 1, time.monotonic() + self._deadline_s)
                return None
            except RetrievalError as error:
                problem = error
                if error.status in ("dialect", "timeout"):
                    break
                time.sleep(_FIRST_BACK_OFF_S)
        return problem

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """Returns the passages of each query; see `Retriever.search`.

        Raises:
            RetrievalError: A query has no answer by the deadline.
        """
        started = time.monotonic()
        asked = [(" ".join(whole_characters(query).split()), top_k) for query in queries]
        futures = self._batcher.submit(asked)
        answers: list[list[Passage]] = []
        try:
            for future in futures:
                left = started + self._deadline_s - time.monotonic()
                answers.append(future.result(max(0.0, left)))
        except FutureTimeoutError:
            for query, future in zip(asked, futures, strict=True):
                self._batcher.give_up(query, future)
            self._count(failure="timeout")
            raise RetrievalError("timeout", f"no answer within {self._deadline_s:g} s") from None
        except RetrievalError as error:
            self._count(failure=error.status)
            # A copy: several episodes may wait for the same answer, each with its own traceback.
            raise RetrievalError(error.status, error.reason) from None
        finally:
            self._count(waiting_s=time.monotonic() - started)
        return answers

    @property
    def batch_counts(self) -> BatchCounts:
        """How many queries were asked, and how many needed no request of their own."""
        return self._batcher.counts

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _count(
        self,
        *,
        sent: int = 0,
        failed_attempt: str | None = None,
        failure: str | None = None,
        waiting_s: float = 0.0,
    ) -> None:
        with self._lock:
            self.counts.requests += sent > 0
            self.counts.queries_sent += sent
            self.counts.waiting_s += waiting_s
            if failed_attempt:
                self.counts.attempts_failed[failed_attempt] += 1
            if failure:
                self.counts.failures[failure] += 1

    def _ask_until_answered(
        self, queries: list[str], top_k: int
    ) -> Sequence[list[Passage] | RetrievalError]:
        """Repeats a request until it is answered or the deadline is over.

        A batch that a server cannot answer is halved, so that a query it chokes on fails alone.
        """
        time_s = (1 - _HANDING_OVER) * self._deadline_s - self._batch_window_s
        deadline = time.monotonic() + time_s
        outcomes: dict[int, list[Passage] | RetrievalError] = {}
        parts = [list(range(len(queries)))]
        for attempt in itertools.count():
            failed: list[list[int]] = []
            for part in parts:
                server = self._health.pick()
                try:
                    answers = self._ask(server, [queries[i] for i in part], top_k, deadline)
                except RetrievalError as error:
                    self._health.failed(server)
                    is_cut_off = error.status == "timeout" and time.monotonic() >= deadline
                    latest = dict.fromkeys(part, error)
                    # What a server said tells more than that it was not heard out the last time.
                    outcomes = latest | outcomes if is_cut_off else outcomes | latest
                    failed += [part] if error.status in _SAYS_NOTHING_OF_QUERIES else _halves(part)
                else:
                    self._health.succeeded(server)
                    outcomes |= dict(zip(part, answers, strict=True))
            pause = min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2**attempt) * random.random()
            if not failed or time.monotonic() + pause >= deadline:
                break
            parts = failed
            time.sleep(pause)
        return [outcomes[i] for i in range(len(queries))]

    def _ask(
        self, server: Server, queries: list[str], top_k: int, deadline: float
    ) -> list[list[Passage]]:
        """Asks one server once, in its dialect, or in one after the other while it is unknown."""
        if server.dialect is not None:
            return self._ask_in(server.dialect, server, queries, top_k, deadline)
        refusals: list[str] = []
        for dialect in DIALECTS:
            try:
                answers = self._ask_in(dialect, server, queries, top_k, deadline)
            except RetrievalError as error:
                # A server that is down or breaks says nothing of its dialect; one that answers
                # "bad request" does, and 500 is how some answer a field they do not know.
                if error.status.startswith("http_"):
                    refusals.append(f"{dialect}: {error}")
                    continue
                raise
            server.dialect = dialect
            return answers
        raise RetrievalError("dialect", f"it speaks neither dialect ({'; '.join(refusals)})")

    def _ask_in(
        self, dialect: Dialect, server: Server, queries: list[str], top_k: int, deadline: float
    ) -> list[list[Passage]]:
        if dialect == "list":
            return self._request(dialect, server, queries, top_k, deadline)
        answers: list[list[Passage]] = []
        for query in queries:
            answers += self._request(dialect, server, [query], top_k, deadline)
        return answers

    def _request(
        self, dialect: Dialect, server: Server, queries: list[str], top_k: int, deadline: float
    ) -> list[list[Passage]]:
        self._count(sent=len(queries))
        try:
            body = self._post(server.url, request_body(dialect, queries, top_k), deadline)
            reply = read_reply(body, queries=len(queries), top_k=top_k)
        except RetrievalError as error:
            self._count(failed_attempt=error.status)
            raise
        self._count_dropped(server, reply.dropped)
        return reply.passages

    def _count_dropped(self, server: Server, dropped: int) -> None:
        """Counts passages without a text; says so once."""
        if not dropped:
            return
        with self._lock:
            is_first = self.counts.passages_dropped == 0
            self.counts.passages_dropped += dropped
        if is_first:
            logger.warning(
                "%s answers with passages that hold no text: they are left out and counted.",
                server.url,
            )

    def _post(self, url: str, body: dict, deadline: float) -> bytes:
        """Sends a request and reads the reply piece by piece, watching the deadline."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise RetrievalError("timeout", "no time was left to ask")
        timeout = httpx.Timeout(
            min(self._read_timeout_s, remaining), connect=min(self._connect_timeout_s, remaining)
        )
        pieces: list[bytes] = []
        size = 0
        try:
            with self._client.stream("POST", url, json=body, timeout=timeout) as reply:
                if reply.status_code != httpx.codes.OK:
                    raise RetrievalError(f"http_{reply.status_code}", reply.reason_phrase)
                for piece in reply.iter_bytes():
                    pieces.append(piece)
                    size += len(piece)
                    if time.monotonic() >= deadline:
                        raise RetrievalError("timeout", "the reply was not complete in time")
                    if size > _MAX_REPLY_BYTES:
                        raise RetrievalError("wrong_shape", f"a reply beyond {_MAX_REPLY_BYTES} B")
        except httpx.TimeoutException as error:
            raise RetrievalError("timeout", f"{type(error).__name__} at {url}") from None
        except httpx.ConnectError as error:
            raise RetrievalError("refused", f"{error} at {url}") from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise RetrievalError("broken_reply", f"{error or type(error).__name__}") from None
        return b"".join(pieces)


def _halves(part: list[int]) -> list[list[int]]:
    middle = len(part) // 2
    return [part[:middle], part[middle:]] if middle else [part]
