"""Ends a run early and in order: Ctrl-C, and the SIGTERM of a scheduler or of `ray job stop`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from stepopsd_rllib.commands.progress import StopConditions

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses of a run that was ended by Ctrl-C and by SIGTERM: 128 plus the signal."""


class GraceOver(KeyboardInterrupt):
    """The iteration did not end within the grace; no `except Exception` of Tune may catch it."""


class Interruption:
    """Whether a run was asked to end, and how it should end.

    Attributes:
        status: Exit status that the signal demands; None before any.
        is_over: Whether the grace went by before the iteration ended.
        others_alarm: What takes alarms that no signal to this run has set; None for nobody.
    """

    def __init__(self, stop: StopConditions, grace_s: float, write: Callable[[str], None]):
        self.status: int | None = None
        self.is_over = False
        self.others_alarm: object = None
        self._stop, self._grace_s, self._write = stop, grace_s, write

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Ends the run after this iteration, with a checkpoint; a second Ctrl-C ends it at once."""
        if self._stop.is_interrupted:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # schedulers repeat themselves
        self._stop.interrupt()
        self.status = 128 + number
        again = " Press it again to end at once, without one." if number == signal.SIGINT else ""
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        self._write(
            f"\n{name}: ending after this iteration, with a checkpoint, within "
            f"{self._grace_s:g} s (preemption_grace_s).{again}"
        )
        signal.setitimer(signal.ITIMER_REAL, max(self._grace_s, 1e-3))

    def on_alarm(self, number: int, frame: FrameType | None) -> None:
        """Ends the run where its iteration outlasts the grace; another's alarm is handed on."""
        if self.status is None:
            if callable(self.others_alarm):
                self.others_alarm(number, frame)
            return
        self.is_over = True
        raise GraceOver


@contextmanager
def ending_early(
    stop: StopConditions, grace_s: float, write: Callable[[str], None]
) -> Iterator[Interruption]:
    """Lets signals end the run inside; a run whose grace went by leaves the block like others.

    Args:
        stop: Told to end the trials.
        grace_s: Seconds from the signal to the end of the iteration and its checkpoint.
        write: Where a line for the user goes.
    """
    interruption = Interruption(stop, grace_s, write)
    if threading.current_thread() is not threading.main_thread():  # nobody can signal a thread
        yield interruption
        return
    handlers = {
        signal.SIGINT: interruption.on_signal,
        signal.SIGTERM: interruption.on_signal,
        signal.SIGALRM: interruption.on_alarm,
    }
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    interruption.others_alarm = previous[signal.SIGALRM]
    try:
        yield interruption
    except GraceOver:
        write(
            f"preemption_grace_s={grace_s:g}: the iteration did not end in time and is dropped; "
            "the last checkpoint stands."
        )
    finally:
        if interruption.status is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in previous.items():
            signal.signal(number, handler)
