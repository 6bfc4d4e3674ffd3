"""Gathers the queries of many episodes: together in one request, equal ones once, answers kept."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from stepopsd_envs.search_qa.retriever import Passage, RetrievalError

Query = tuple[str, int]
"""Text and the number of passages wanted."""

Answer = list[Passage]
Send = Callable[[list[str], int], Sequence[Answer | RetrievalError]]


@dataclass(kw_only=True, slots=True)
class BatchCounts:
    """What a batcher has done.

    Attributes:
        queries: Queries submitted.
        cache_hits: Answered from the cache.
        shared: Joined to an equal query that was under way.
    """

    queries: int = 0
    cache_hits: int = 0
    shared: int = 0


class QueryBatcher:
    """Turns single queries into batches. Thread-safe.

    A batch is sent from a thread of its own, so that whoever waits can stop waiting at any time,
    whatever the sending hangs on.
    """

    def __init__(self, send: Send, *, window_s: float, max_batch: int, cache_size: int):
        """Makes a batcher.

        Args:
            send: Answers several queries; for one that has no answer, with what failed.
            window_s: How long a query waits for others, in seconds.
            max_batch: Most queries of one call of `send`.
            cache_size: Answers kept, the least recently used dropped first.
        """
        self.counts = BatchCounts()
        self._send = send
        self._window_s = window_s
        self.max_batch = max_batch
        self._cache_size = cache_size
        self._cache: OrderedDict[Query, Answer] = OrderedDict()
        self._in_flight: dict[Query, Future[Answer]] = {}
        self._pending: list[tuple[Query, Future[Answer]]] = []
        self._lock = threading.Lock()

    def submit(self, queries: Sequence[Query]) -> list[Future[Answer]]:
        """Returns the answers to come. Failures are not kept."""
        with self._lock:
            self.counts.queries += len(queries)
            is_collecting = bool(self._pending)
            futures = [self._future(query) for query in queries]
            if self._pending and not is_collecting:
                threading.Thread(target=self._collect, daemon=True).start()
        return futures

    def give_up(self, query: Query, future: Future[Answer]) -> None:
        """Forgets a query that hangs, so that the next one like it is asked anew."""
        with self._lock:
            if self._in_flight.get(query) is future:
                del self._in_flight[query]

    def _future(self, query: Query) -> Future[Answer]:
        """Finds a query in the cache or under way, or makes it pending. The lock is held."""
        if query in self._cache:
            self._cache.move_to_end(query)
            self.counts.cache_hits += 1
            future: Future[Answer] = Future()
            future.set_result(self._cache[query])
            return future
        if query in self._in_flight:
            self.counts.shared += 1
            return self._in_flight[query]
        self._in_flight[query] = future = Future()
        self._pending.append((query, future))
        return future

    def _collect(self) -> None:
        """Waits for company and sends what has gathered, at most `max_batch` in one thread."""
        time.sleep(self._window_s)
        with self._lock:
            gathered, self._pending = self._pending, []
        batches = []
        for top_k in sorted({top_k for (_, top_k), _ in gathered}):
            same = [entry for entry in gathered if entry[0][1] == top_k]
            starts = range(0, len(same), self.max_batch)
            batches += [(same[start : start + self.max_batch], top_k) for start in starts]
        for batch in batches[1:]:
            threading.Thread(target=self._settle, args=batch, daemon=True).start()
        self._settle(*batches[0])

    def _settle(self, batch: list[tuple[Query, Future[Answer]]], top_k: int) -> None:
        try:
            outcomes = self._send([text for (text, _), _ in batch], top_k)
        except Exception as error:
            # The thread would die with it; those who wait are told instead.
            outcomes = [RetrievalError("internal", f"{type(error).__name__}: {error}")] * len(batch)
        with self._lock:
            for (query, future), outcome in zip(batch, outcomes, strict=True):
                if self._in_flight.get(query) is future:
                    del self._in_flight[query]
                if self._cache_size and not isinstance(outcome, RetrievalError):
                    self._cache[query] = outcome
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, RetrievalError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
