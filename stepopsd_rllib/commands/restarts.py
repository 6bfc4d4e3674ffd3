"""A trial that lost a process goes on from its last checkpoint; each time is said and counted."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping

from ray.exceptions import RayActorError
from ray.tune.experiment import Trial

from stepopsd_rllib.commands import failures
from stepopsd_rllib.commands.interruption import Interruption
from stepopsd_rllib.commands.progress import StopConditions
from stepopsd_rllib.commands.run_file import Run, write
from stepopsd_rllib.commands.standing import cut_files, scratch_folder, standing
from stepopsd_rllib.commands.storage import Storage
from stepopsd_rllib.commands.trials import run_trials

TRACEBACK_LINES = 25
_LOST = re.compile(
    r"\b(ActorDiedError|ActorUnavailableError|RayActorError|NodeDiedError|WorkerCrashedError"
    r"|OutOfMemoryError|LearnerLost)\b"
    # What Ray says of a trial's own process, without the name of an exception.
    r"|^The actor (died unexpectedly|is dead because)",
    re.MULTILINE,
)
_OWN_ERROR = "raised in its creation task"
"""In Ray's text of an actor that died of its constructor's exception."""


def lost_a_process(error: BaseException | str) -> bool:
    """Whether a trial ended since its process, a learner or their node died; not of a bug."""
    text = str(error)  # of an error in a task: with the traceback of that process
    is_lost = isinstance(error, RayActorError) or _LOST.search(text) is not None
    return is_lost and _OWN_ERROR not in text


def run_with_restarts(
    run: Run,
    storage: Storage,
    name: str,
    say: Callable[[str], None],
    restore: Mapping[str, str | None] | None = None,
) -> tuple[list[Trial], Interruption, StopConditions]:
    """`run_trials`, and again for the trials that may go on, from their last whole checkpoints.

    A trial that lost a process may, once in any case; one that failed otherwise may as often as
    `max_failures` says, unless what it died of is the user's mistake. `run.json` counts it.

    Args:
        run: What to run.
        storage: Where run folders are.
        name: The run folder.
        say: Takes a line for the user.
        restore: As `run_trials` takes it.
    """
    trials, interruption, stop = run_trials(run, storage, name, say, restore)
    restarts: Counter[str] = Counter()
    while interruption.status is None:
        again = [t for t in trials if _may_go_on(t, restarts, run.example.max_failures)]
        if not again:
            break
        folders = {str(trial.custom_dirname) for trial in again}
        restarts.update(folders)
        run = _counted(run, folders)
        write(storage, name, run)
        with scratch_folder(storage) as scratch:
            standings = {
                trial.folder: standing(storage, name, trial, say, scratch)
                for trial in run.trials
                if trial.folder in folders
            }
            for trial in again:
                folder = str(trial.custom_dirname)
                _report(trial, f"{standings[folder]}, restart {restarts[folder]}", say)
                cut_files(storage, name, folder, standings[folder])
            checkpoints = {folder: found.checkpoint for folder, found in standings.items()}
            redone, interruption, stop = run_trials(run, storage, name, say, checkpoints)
        others = [t for t in trials if str(t.custom_dirname) not in folders]
        trials = [*others, *redone]
    return trials, interruption, stop


def _may_go_on(trial: Trial, restarts: Mapping[str, int], max_failures: int) -> bool:
    error = trial.get_error() if trial.status == Trial.ERROR else None
    if error is None:
        return False
    if lost_a_process(error):
        allowed = max_failures if max_failures < 0 else max(1, max_failures)
    else:
        allowed = 0 if failures.users_mistake(error) is not None else max_failures
    return allowed < 0 or restarts[str(trial.custom_dirname)] < allowed


def _counted(run: Run, folders: set[str]) -> Run:
    trials = [
        dataclasses.replace(trial, restarts=trial.restarts + (trial.folder in folders))
        for trial in run.trials
    ]
    return dataclasses.replace(run, trials=trials)


def _report(trial: Trial, how: str, say: Callable[[str], None]) -> None:
    error = trial.get_error()
    assert error is not None
    print(failures.last_lines(error, TRACEBACK_LINES), file=sys.stderr)
    why = "lost a process" if lost_a_process(error) else "failed"
    say(f"{trial.custom_dirname} {why} and goes on {how}")
