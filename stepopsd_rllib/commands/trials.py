"""Runs the trials of a run in one Tune experiment, from the start or from their checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Experiment, Trial

from stepopsd_rllib.commands import trackers, tuned
from stepopsd_rllib.commands.interruption import Interruption, ending_early
from stepopsd_rllib.commands.kept_checkpoints import KeptCheckpoints
from stepopsd_rllib.commands.live_progress import shown_progress
from stepopsd_rllib.commands.progress import StopConditions
from stepopsd_rllib.commands.result_lines import ResultLines
from stepopsd_rllib.commands.run_file import PlannedTrial, Run
from stepopsd_rllib.commands.storage import Storage
from stepopsd_rllib.commands.tensorboard_samples import TensorBoardSamples
from stepopsd_rllib.training.checkpointed_algorithm import remove_partial

ERROR_FILE = "error.txt"
"""Where Tune writes what a trial died of, in the trial's folder."""


def run_trials(
    run: Run,
    storage: Storage,
    name: str,
    write: Callable[[str], None],
    restore: Mapping[str, str | None] | None = None,
) -> tuple[list[Trial], Interruption, StopConditions]:
    """Runs trials to their end, or until a signal.

    Args:
        run: What to run.
        storage: Where run folders are.
        name: The run folder.
        write: Takes a line for the user.
        restore: Folders of the trials that run -> checkpoint folder to begin from, or None. All
            trials from the start by default.

    Returns:
        The trials as Tune left them, how a signal ended them, and what was asked to end them.
    """
    chosen = [trial for trial in run.trials if restore is None or trial.folder in restore]
    stop = StopConditions(run.example.stop, write)
    keeper = _KeepTrials()
    with (
        ending_early(stop, run.example.preemption_grace_s, write) as interruption,
        shown_progress(name, {t.folder: t for t in chosen}, stop, write) as progress,
    ):
        experiments: Any = [
            _experiment(trial, storage, name, stop, (restore or {}).get(trial.folder))
            for trial in chosen
        ]
        tune.run(
            experiments,
            callbacks=[
                progress,
                ResultLines(),
                TensorBoardSamples(
                    {t.folder: {"run": t.example.run, **t.example.config} for t in chosen}
                ),
                *trackers.callbacks(
                    run.example.log_to,
                    Path(storage.path, name) if storage.is_local else Path.cwd(),
                    write,
                ),
                keeper,
                KeptCheckpoints(
                    run.example.keep_checkpoints_num,
                    run.example.checkpoint_score_attribute,
                    write,
                ),
            ],
            max_concurrent_trials=run.max_concurrent or None,
            raise_on_failed_trial=False,
            verbose=0,
        )
    if storage.is_local:
        for trial in chosen:
            with suppress(OSError):
                remove_partial(Path(storage.path, name, trial.folder))
    return keeper.trials, interruption, stop


def _experiment(
    trial: PlannedTrial, storage: Storage, name: str, stop: tune.Stopper, restore: str | None
) -> Any:
    """The `Experiment` of one trial: all share the run folder and the scheduling loop."""
    example = trial.example
    return Experiment(
        name=name,
        run=tuned.algorithm_class(example),
        config=tuned.param_space(example),
        stop=stop,
        storage_path=storage.path,
        storage_filesystem=storage.filesystem,
        # What a trial writes itself goes to a local storage at once, to another one with Tune.
        sync_config=tune.SyncConfig(sync_artifacts=not storage.is_local),
        checkpoint_config=tune.CheckpointConfig(
            checkpoint_frequency=example.checkpoint_freq, checkpoint_at_end=True
        ),
        restore=restore,
        # What trackers call it.
        trial_name_creator=lambda _trial: f"{name}_{trial.folder}",
        trial_dirname_creator=lambda _trial: trial.folder,
    )


class _KeepTrials(tune.Callback):
    """Keeps the trials: a signal may end Tune before it answers."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []

    def on_step_end(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        self.trials = list(trials)
