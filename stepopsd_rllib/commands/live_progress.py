"""Progress of a run for whoever looks: a view that moves on a terminal, else lines for a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console
from rich.live import Live

from stepopsd_rllib.commands.live_view import ENDED, FAILED, STARTING, Followed, LiveView
from stepopsd_rllib.commands.progress import ProgressLines, StopConditions
from stepopsd_rllib.commands.run_file import PlannedTrial
from stepopsd_rllib.commands.time_left import TimeLeft

REFRESHES_A_SECOND = 2


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

    def starting(self, trial: Trial, label: str) -> None:
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
    with Live(view, console=console, refresh_per_second=REFRESHES_A_SECOND):
        yield progress
