"""Nothing waits for a sampler without an end: every step is watched, every failure has a name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch

from stepopsd_rllib.rollout.env_calls import error_text
from stepopsd_rllib.sampling.contract import check_result
from stepopsd_rllib.sampling.sampler import Sampler, SampleRequest, SampleResult, SamplerRefusal

T = TypeVar("T")

# Steps without any finished response that a sampler may take beyond two for each token of its
# longest running request: prompts in pieces, requests that are put off and begun again.
SPARE_STEPS = 1000


class SamplerFailure(RuntimeError):
    """The sampler raised, hung or got nowhere: it must be started again.

    Attributes:
        is_stuck: Whether a thread is in it still, so that it cannot be closed.
    """

    def __init__(self, message: str, *, is_stuck: bool = False):
        super().__init__(message)
        self.is_stuck = is_stuck

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the message with its cause."""
        return _failure, (str(self), self.is_stuck)


def _failure(message: str, is_stuck: bool) -> SamplerFailure:
    return SamplerFailure(message, is_stuck=is_stuck)


class WatchedSampler:
    """A `Sampler` whose failures are `SamplerFailure`s and whose steps can be timed from outside.

    Args:
        sampler: The one that does the work.
    """

    def __init__(self, sampler: Sampler):
        self._sampler = sampler
        self._running: dict[str, SampleRequest] = {}
        self._steps_without_result = 0
        self.step_began: float | None = None
        self.is_discarded = False

    @property
    def weights_version(self) -> int:
        """Version of the weights."""
        return self._sampler.weights_version

    @property
    def max_context_tokens(self) -> int:
        """Most tokens of prompt and response together."""
        return self._sampler.max_context_tokens

    def submit(self, request: SampleRequest) -> None:
        """Queues a request."""
        self._guarded(self._sampler.submit, request)
        self._running[request.request_id] = request

    def step(self) -> list[SampleResult]:
        """Advances every running request; raises where none has finished for too many steps.

        Raises:
            SamplerFailure: The sampler raised or gets nowhere.
            SamplerContractError: What it returned is no result of a running request.
        """
        self.step_began = time.monotonic()
        try:
            finished = self._guarded(self._sampler.step)
        finally:
            self.step_began = None
        if self.is_discarded:
            raise SamplerFailure("This sampler was given up while it was stuck.")
        for result in finished:
            check_result(result, self._running)
            del self._running[result.request_id]
        self._steps_without_result = 0 if finished else self._steps_without_result + 1
        longest = max((request.max_tokens for request in self._running.values()), default=0)
        if self._steps_without_result > 2 * longest + SPARE_STEPS:
            raise SamplerFailure(
                f"The sampler took {self._steps_without_result} steps and finished no response, "
                f"though none may have more than {longest} tokens and every step must give each "
                "running one at least one."
            )
        return finished

    def is_idle(self) -> bool:
        """True when no request is queued or running."""
        return self._sampler.is_idle()

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Replaces all weights."""
        self._sampler.load_weights(weights, version)

    def sleep(self) -> None:
        """Gives the engine's memory back until the next `load_weights`, if it can."""
        sleep = getattr(self._sampler, "sleep", None)
        if sleep is not None:
            sleep()

    def score(self, token_ids: Sequence[int]) -> np.ndarray:
        """Log-probs of given tokens."""
        return self._sampler.score(token_ids)

    def close(self) -> None:
        """Frees the engine."""
        self._sampler.close()

    def _guarded(self, call: Callable[..., T], *arguments: Any) -> T:
        try:
            return call(*arguments)
        except SamplerRefusal:
            raise
        except Exception as error:
            raise SamplerFailure(f"The sampler raised {error_text(error)}") from error


def watched(
    call: Callable[[], T], sampler: WatchedSampler, *, step_timeout_s: float, timeout_s: float
) -> T:
    """Calls what drives a sampler, and gives it up where it gets stuck.

    Args:
        call: Drives `sampler`; runs in a thread of its own.
        sampler: What is watched.
        step_timeout_s: Seconds that one step may take.
        timeout_s: Seconds that the whole call may take.

    Raises:
        SamplerFailure: One of the limits passed. The thread is left behind, and ends when the step
            that it is in does.
        Exception: What the call raised.
    """
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=work, name="rollout", daemon=True).start()
    deadline = time.monotonic() + timeout_s
    poll_s = min(1.0, step_timeout_s / 10, timeout_s / 10)
    while True:
        try:
            answer, error = answers.get(timeout=poll_s)
        except Empty:
            now, began = time.monotonic(), sampler.step_began
            if began is not None and now - began > step_timeout_s:
                sampler.is_discarded = True
                raise SamplerFailure(
                    f"One step of the sampler has taken more than {step_timeout_s:g} s "
                    "(config.sampler_timeout_s).",
                    is_stuck=True,
                ) from None
            if now > deadline:
                sampler.is_discarded = True
                raise SamplerFailure(
                    f"The episodes were not played within {timeout_s:g} s "
                    "(config.sample_timeout_s).",
                    is_stuck=True,
                ) from None
            continue
        if error is not None:
            raise error
        return answer
