"""`--resume RUN`: every unfinished trial of a run folder goes on from its last whole checkpoint."""

from __future__ import annotations

import dataclasses
import json
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepopsd_rllib.commands import comparison, preflight, trackers, training_run, tuned
from stepopsd_rllib.commands.ray_start import quiet_ray, running_ray
from stepopsd_rllib.commands.run_file import (
    COMPARE,
    RUN_FILE,
    PlannedTrial,
    Run,
    model_fingerprint,
    parse,
    write,
)
from stepopsd_rllib.commands.standing import Standing, cut_files, scratch_folder, standing
from stepopsd_rllib.commands.storage import Storage, is_locked, open_storage

SAFE = (
    "progress_metrics",
    "curve_metrics",
    "micro_batch_tokens",
    "gradient_checkpointing",
    "max_sampler_difference",
    "min_groups_fraction",
    "num_env_runners",
    "num_envs_per_env_runner",
    "num_cpus_per_env_runner",
    "num_gpus_per_env_runner",
    "num_gpus_per_learner",
    "num_learners",
    "sharding",
    "sampler",
    "sampler_config",
    "evaluation_interval",
    "eval_num_tasks",
    "eval_split",
    "eval_temperature",
)
"""Keys of the algorithm that say how a run is computed or measured, not what it learns. So do all
keys that end in `_timeout_s` or `_restarts_s`."""
_SAFE_ENDINGS = ("_timeout_s", "_restarts_s", "_concurrency")
_SAFE_OF_RUN = (
    "stop",
    "checkpoint_freq",
    "keep_checkpoints_num",
    "checkpoint_score_attribute",
    "max_failures",
    "preemption_grace_s",
    "log_to",
)
_PLACES = ("model", "language_model", "env_config.data", "env_config.retriever")
"""Where something is; it may have moved, if its content is the same."""


def resume(run_folder: str, overrides: Sequence[str], *, dashboard: bool) -> int:
    """Goes on with a run and returns the exit status.

    Args:
        run_folder: A run folder, or its address.
        overrides: `KEY=VALUE` texts for what is safe to change.
        dashboard: Whether Ray starts its dashboard.

    Raises:
        ValueError: It is no run, a finished one, one that another process trains, or one whose
            model or data is gone or changed.
    """
    quiet_ray()
    say = training_run.say
    storage, name = _locate(run_folder)
    where = storage.run(name)
    stored = _read(storage, name)
    if storage.is_local and is_locked(Path(storage.path, name)):
        raise ValueError(f"{where}: another process trains there. Wait, or end it first.")
    run = with_overrides(stored, overrides, where)
    trackers.require("log_to", run.example.log_to)
    with scratch_folder(storage) as scratch:
        standings = {
            trial.folder: standing(storage, name, trial, say, scratch) for trial in run.trials
        }
        unfinished = [trial for trial in run.trials if not standings[trial.folder].is_finished]
        if not unfinished:
            raise ValueError(
                f"{where}: is finished ({_stop_text(run)}). To go on with it, raise the stop: "
                f"--set stop.training_iteration={_further(run, standings)}"
            )
        configs = [config for trial in unfinished for config in tuned.configs(trial.example)]
        _require_same(where, unfinished, configs)
        methods = ", ".join(dict.fromkeys(trial.example.run for trial in unfinished))
        say(f"{methods} on {run.example.env}: goes on with {where}")
        for trial in run.trials:
            say(f"  {trial.folder}: {standings[trial.folder]}")
        say(f"versions    {training_run.versions()}\n")
        if run != stored:
            write(storage, name, run)
        for trial in unfinished:
            cut_files(storage, name, trial.folder, standings[trial.folder])
        go_on = comparison.run_and_show if run.kind == COMPARE else training_run.run_and_report
        with running_ray(tuned.algorithm_class(run.example), configs, dashboard=dashboard):
            restore = {trial.folder: standings[trial.folder].checkpoint for trial in unfinished}
            return go_on(run, storage, name, restore)


def with_overrides(run: Run, overrides: Sequence[str], where: str) -> Run:
    """The run with changed keys.

    Raises:
        ValueError: A key would make it another run; it is named.
    """
    for override in overrides:
        key, _ = tuned.parse_override(override)
        if not _is_safe(key):
            raise ValueError(
                f"--set {override}: {key} decides what the run learns, so a run that goes on keeps "
                f"it. Begin a new run, or change one of: {', '.join((*_SAFE_OF_RUN, *SAFE))}."
            )
    trials = []
    for trial in run.trials:
        example = trial.example
        body: dict[str, Any] = {
            key: getattr(example, key) for key in tuned.RUN_KEYS if key != "num_samples"
        }
        body = json.loads(json.dumps(body))
        if "model" in body["config"] and any(o.startswith("language_model=") for o in overrides):
            body["config"].pop("model")
        tuned.apply_overrides(overrides, body)
        changed = tuned.checked(example.source, example.name, body)
        changed = dataclasses.replace(changed, source=example.source)
        trials.append(dataclasses.replace(trial, example=changed))
    return dataclasses.replace(run, trials=trials)


def _is_safe(key: str) -> bool:
    return (
        key in SAFE
        or key in _PLACES
        or key.split(".")[0] in (*_SAFE_OF_RUN, "sampler_config")
        or key.endswith(_SAFE_ENDINGS)
    )


def _locate(run_folder: str) -> tuple[Storage, str]:
    text = run_folder.rstrip("/")
    parent, _, name = text.rpartition("/")
    storage = open_storage(parent or ("/" if text.startswith("/") else "."))
    if name in ("", ".", "..", "~"):
        path = Path(run_folder).expanduser().resolve()
        storage, name = open_storage(str(path.parent)), path.name
    return storage, name


def _read(storage: Storage, name: str) -> Run:
    where = storage.run(name)
    if not storage.exists(name):
        raise ValueError(f"{where}: no such run folder. `stepopsd runs` lists those there are.")
    if not storage.exists(name, RUN_FILE):
        raise ValueError(
            f"{where}: is no run folder of this package (no {RUN_FILE}). Name the folder that "
            "`stepopsd train` printed as its run folder."
        )
    with storage.filesystem.open_input_stream(posixpath.join(storage.path, name, RUN_FILE)) as file:
        return parse(file.read(), where)


def _require_same(where: str, trials: Sequence[PlannedTrial], configs: Sequence[Any]) -> None:
    """Refuses a model or task lists other than those that the run began with."""
    for trial, config in zip(trials, configs, strict=True):
        if trial.model and model_fingerprint(config) != trial.model:
            raise ValueError(
                f"{where}: config.model={config.language_model!r} is not the model that the run "
                "began with: its files have changed. Put that one back, or name where it is: "
                "--set model=FOLDER"
            )
    tasks = preflight.check(where, configs)
    for trial, now in zip(trials, tasks, strict=True):
        if trial.tasks and now and now != trial.tasks:
            raise ValueError(
                f"{where}: config.env_config: the tasks are not those that the run began with: its "
                "data have changed. Put them back, or begin a new run."
            )


def _stop_text(run: Run) -> str:
    return ", ".join(f"{key}={value:g}" for key, value in run.example.stop.items())


def _further(run: Run, standings: Mapping[str, Standing]) -> int:
    done = max(standing.iteration for standing in standings.values())
    return max(2 * done, int(run.example.stop.get("training_iteration", 0)) + 1)
