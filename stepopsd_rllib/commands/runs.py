"""`stepopsd runs`: what lies in a folder of runs, from the files alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs

from stepopsd_rllib.commands.kept_checkpoints import find, in_megabytes, size
from stepopsd_rllib.commands.progress import StopConditions
from stepopsd_rllib.commands.run_file import RUN_FILE, PlannedTrial, parse
from stepopsd_rllib.commands.storage import is_locked
from stepopsd_rllib.commands.training_run import say
from stepopsd_rllib.commands.trials import ERROR_FILE
from stepopsd_rllib.report.run_files import RESULTS, read_trial
from stepopsd_rllib.report.tables import aligned

HEADINGS = (
    "run",
    "state",
    "iteration",
    "success",
    "evaluation",
    "restarts",
    "last checkpoint",
)
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"


def show(directory: str) -> int:
    """Prints a table of the run folders in a folder; returns the exit status.

    Raises:
        ValueError: There is no such folder.
    """
    folder = Path(directory).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{directory}: is not a folder. Name the folder that holds run folders.")
    runs = [folder] if (folder / RUN_FILE).is_file() else sorted(folder.iterdir())
    rows = [row for run in runs if (run / RUN_FILE).is_file() for row in _rows(run)]
    if not rows:
        say(f"{directory}: no runs.")
        return 0
    say(aligned([HEADINGS, *rows]))
    if any(row[1] in (STOPPED, FAILED) for row in rows):
        say("\nstopped and failed runs go on with: stepopsd train --resume RUN")
    return 0


def _rows(run: Path) -> list[Sequence[str]]:
    try:
        planned = parse((run / RUN_FILE).read_bytes(), str(run)).trials
    except ValueError as error:
        return [(run.name, str(error), "", "", "", "", "")]
    is_running = is_locked(run)
    several = len(planned) > 1
    return [
        (f"{run.name}/{trial.folder}" if several else run.name, *_cells(run, trial, is_running))
        for trial in planned
    ]


def _cells(run: Path, trial: PlannedTrial, is_running: bool) -> Sequence[str]:
    """State, iteration, success, evaluation, restarts and last checkpoint of a trial."""
    folder = run / trial.folder
    results = read_trial(folder).results if (folder / RESULTS).is_file() else []
    last: Mapping[str, Any] = results[-1] if results else {}
    if last and StopConditions(trial.example.stop)(trial.folder, dict(last)):
        state = FINISHED
    elif is_running:
        state = RUNNING
    else:
        state = FAILED if (folder / ERROR_FILE).is_file() else STOPPED
    end = trial.example.stop.get("training_iteration")
    done = str(last.get("training_iteration", 0))
    return (
        state,
        f"{done}/{end:g}" if end is not None else done,
        _share(last.get("env_runners/success_rate"), last.get("env_runners/task_score_mean")),
        _share(last.get("evaluation/success_rate"), last.get("evaluation/task_score_mean")),
        str(trial.restarts),
        _last_checkpoint(folder),
    )


def _last_checkpoint(folder: Path) -> str:
    local = pyarrow.fs.LocalFileSystem()
    found = [checkpoint for checkpoint in find(local, str(folder)) if checkpoint.description]
    if not found:
        return "none"
    last = found[-1]
    age_s = max(0.0, time.time() - Path(last.path).stat().st_mtime)
    return (
        f"after {last.iteration} iterations, {in_megabytes(size(local, last.path))}, {_age(age_s)}"
    )


def _age(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def _share(rate: object, score: object = None) -> str:
    """A success rate, and the mean task score where tasks are graded."""
    shown = f"{rate:.1%}" if isinstance(rate, int | float) else "-"
    return f"{shown} (score {score:.1%})" if isinstance(score, int | float) else shown
