"""Progress of a run for whoever looks: a view that moves on a terminal, else lines for a log."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console
from rich.live import Live
from rich.text import Text

from stepopsd_rllib.commands.live_view import ENDED, FAILED, STARTING, Followed, LiveView
from stepopsd_rllib.commands.progress import ProgressLines, StopConditions
from stepopsd_rllib.commands.run_file import PlannedTrial
from stepopsd_rllib.commands.time_left import TimeLeft

REFRESHES_A_SECOND = 2
_STDERR = 2


class LiveProgress(ProgressLines):
    """Follows every trial for a view; an evaluation stays above it as a line.

    Args:
        stop: As `ProgressLines` takes it.
        write: As `ProgressLines` takes it.
        trials: What runs.
    """

    def __init__(
        self,
        stop: StopConditions,
        write: Callable[[str], None],
        trials: Mapping[str, PlannedTrial],
    ):
        """Follows trials of which none has begun."""
        super().__init__(stop, write, label=lambda trial: trials[str(trial.custom_dirname)].label)
        self.trials = {
            folder: Followed(
                name=trial.label,
                stop=stop.stop,
                left=TimeLeft(stop.stop, trial.example.config),
                more=trial.example.config.get("progress_metrics") or {},
            )
            for folder, trial in trials.items()
        }

    def setup(self, *args: Any, **info: Any) -> None:
        """The view says it."""

    def started(self, trial: Trial, label: str) -> None:
        """The view says it."""
        del label
        self.trials[str(trial.custom_dirname)].enter(STARTING)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Counts the trial out."""
        super().on_trial_complete(iteration, trials, trial, **info)
        self.trials[str(trial.custom_dirname)].enter(ENDED)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Counts the trial out."""
        super().on_trial_error(iteration, trials, trial, **info)
        self.trials[str(trial.custom_dirname)].enter(FAILED)

    def result(self, trial: Trial, flat: dict[str, Any], label: str) -> None:
        """Into the view."""
        del label
        self.trials[str(trial.custom_dirname)].take(flat)


@contextmanager
def shown_progress(
    title: str,
    trials: Mapping[str, PlannedTrial],
    stop: StopConditions,
    write: Callable[[str], None],
    console: Console | None = None,
) -> Iterator[tune.Callback]:
    """The callback that shows a run's progress while the block lasts.

    Args:
        title: The run folder's name.
        trials: What runs, by folder.
        stop: The stop conditions.
        write: Takes a line for the user.
        console: The terminal by default. One that is no terminal gets lines.
    """
    console = console or Console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield ProgressLines(
            stop, write, label=lambda trial: trials[str(trial.custom_dirname)].label
        )
        return
    progress = LiveProgress(stop, write, trials)
    view = LiveView(title, list(progress.trials.values()), began=time.monotonic())
    # What is printed meanwhile, by Ray's workers too, goes above the view.
    with (
        Live(view, console=console, refresh_per_second=REFRESHES_A_SECOND),
        native_errors_above(console),
    ):
        yield progress


@contextmanager
def native_errors_above(console: Console) -> Iterator[None]:
    """Lets the console print what C and C++ libraries write to standard error.

    A library knows nothing of the view: it would write over it, and leave torn lines behind.
    Standard error that is no terminal stays as it is.
    """
    if not os.isatty(_STDERR):
        yield
        return
    before, (reading, writing) = os.dup(_STDERR), os.pipe()
    os.dup2(writing, _STDERR)
    os.close(writing)

    def pass_on() -> None:
        with open(reading, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                console.print(Text(line.rstrip("\n")))

    # Children that have inherited the pipe may keep it open: nobody waits for its end.
    threading.Thread(target=pass_on, daemon=True).start()
    try:
        yield
    finally:
        os.dup2(before, _STDERR)
        os.close(before)
