"""Threads that call environments, each call with a deadline.

A thread cannot be stopped in Python. One whose call is overdue is left behind (it is a daemon: it
holds up neither its siblings nor the end of the process) and another one works in its place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from stepopsd_rllib.rollout.env_calls import EnvReply, EnvTimeout, error_text

T = TypeVar("T")

_LONGEST_POLL_S = 1.0


@dataclass(eq=False, slots=True)
class _Job:
    """A call, since when it runs, and whether anybody still waits for it."""

    key: Hashable | None
    call: Callable[[], Any]
    started: float | None = None
    is_abandoned: bool = False


class EnvThreads:
    """Calls environments in threads and hands out their replies, overdue ones as errors.

    Args:
        size: Number of threads.
        timeout_s: Seconds that a call may take, from when a thread takes it up.
    """

    def __init__(self, *, size: int, timeout_s: float):
        self._size, self._timeout_s = size, timeout_s
        self._poll_s = min(_LONGEST_POLL_S, timeout_s / 10)
        self._waiting: SimpleQueue[_Job | None] = SimpleQueue()
        self._finished: SimpleQueue[tuple[_Job, EnvReply]] = SimpleQueue()
        self._jobs: set[_Job] = set()
        self._num_threads = 0
        self.num_abandoned = 0

    @property
    def num_replies_due(self) -> int:
        """Number of calls whose reply somebody waits for."""
        return sum(job.key is not None for job in self._jobs)

    def call(self, key: Hashable | None, call: Callable[[], Any]) -> None:
        """Calls in a thread; the reply comes under `key`, with None nobody hears of it."""
        job = _Job(key, call)
        self._jobs.add(job)
        if self._num_threads < min(self._size, len(self._jobs)):
            self._start()
        self._waiting.put(job)

    def replies(self, *, block: bool) -> list[tuple[Hashable, EnvReply]]:
        """Every reply that is there, overdue ones included; with `block`, waits for the first."""
        found: list[tuple[Hashable, EnvReply]] = []
        while True:
            waits = block and not found and self.num_replies_due > 0
            try:
                job, reply = self._finished.get(waits, self._poll_s)
            except Empty:
                found += self._overdue()
                if found or not waits:
                    return found
                continue
            if not job.is_abandoned:
                self._jobs.discard(job)
                if job.key is not None:
                    found.append((job.key, reply))

    def close(self) -> None:
        """Ends the threads that are not stuck, after what they are doing."""
        for _ in range(self._num_threads):
            self._waiting.put(None)

    def _start(self) -> None:
        self._num_threads += 1
        threading.Thread(
            target=self._work, name=f"env_{self._num_threads + self.num_abandoned}", daemon=True
        ).start()

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            job.started = time.monotonic()
            try:
                reply = job.call()
            except BaseException as error:  # The episode boundary: SystemExit stays inside too.
                reply = EnvReply(error=error_text(error))
            self._finished.put((job, reply))
            if job.is_abandoned:
                return  # another thread works in this one's place
            del job, reply

    def _overdue(self) -> list[tuple[Hashable, EnvReply]]:
        """Gives up calls that take too long; their errors."""
        now = time.monotonic()
        late = [
            job
            for job in self._jobs
            if job.started is not None and now - job.started > self._timeout_s
        ]
        for job in late:
            job.is_abandoned = True
            self._jobs.discard(job)
            self._num_threads -= 1
            self.num_abandoned += 1
            self._start()
        error = error_text(EnvTimeout(f"no answer within {self._timeout_s:g} s"))
        return [
            (job.key, EnvReply(error=error, is_overdue=True)) for job in late if job.key is not None
        ]


def within(seconds: float, call: Callable[[], T]) -> T:
    """Calls in a thread of its own and waits for the answer.

    Raises:
        EnvTimeout: There was none in time; the thread is left behind.
        Exception: What the call raised; what would have ended the process comes as RuntimeError.
    """
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=work, name="env_call", daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except Empty:
        raise EnvTimeout(f"no answer within {seconds:g} s") from None
    if error is None:
        return answer
    if isinstance(error, Exception):
        raise error
    raise RuntimeError(error_text(error)) from error
