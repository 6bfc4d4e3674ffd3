"""Sampling beside the update: one batch ahead, in a thread of the driver, which only waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class SamplingAhead(Generic[T]):
    """Holds at most one batch: one that is being sampled, or one that waits to be used.

    Runners sample while the driver waits for learners, or is one. The thread dies with the process:
    Ctrl-C does not wait for it.
    """

    def __init__(self) -> None:
        self._batch: Future[T] | None = None

    def start(self, sample: Callable[[], T]) -> None:
        """Begins to sample; `take` gives what comes of it.

        Raises:
            RuntimeError: There is a batch already, which would be lost.
        """
        if self._batch is not None:
            raise RuntimeError("A batch that was sampled ahead has not been taken.")
        self._batch = batch = Future[T]()

        def run() -> None:
            try:
                batch.set_result(sample())
            except BaseException as error:  # handed over to `take`
                batch.set_exception(error)

        threading.Thread(target=run, name="sampling-ahead", daemon=True).start()

    def hold(self, batch: T) -> None:
        """Keeps a batch of a checkpoint in place of whatever is there."""
        self._batch = Future[T]()
        self._batch.set_result(batch)

    def drop(self) -> None:
        """Waits for the batch and throws it away."""
        if self._batch is not None:
            self._batch.exception()
        self._batch = None

    def wait(self) -> T | None:
        """Waits for the batch and leaves it; None where there is none.

        Raises:
            BaseException: What sampling raised.
        """
        return None if self._batch is None else self._batch.result()

    def take(self) -> T | None:
        """Waits for the batch and hands it over; None where there is none.

        Raises:
            BaseException: What sampling raised.
        """
        batch, self._batch = self._batch, None
        return None if batch is None else batch.result()

    @property
    def is_running(self) -> bool:
        """Whether runners are at work."""
        return self._batch is not None and not self._batch.done()
