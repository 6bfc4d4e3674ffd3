"""Whether runs may be compared: one protocol, one model, one list of tasks, one version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepopsd_envs.text_files import read_json

from stepopsd_rllib.report.comparison import Method

PROTOCOL = (
    "env",
    "env_config",
    "evaluation_interval",
    "eval_split",
    "eval_temperature",
    "eval_num_tasks",
)
"""Keys of a config that decide what is measured, not how it was learnt."""
RUN_FILE = "run.json"
_SAID = {
    "package": "the version of stepopsd-rllib",
    "tasks": "the lists of tasks (data)",
    "model": "the files of the model",
}


def require_one_protocol(methods: Sequence[Method]) -> None:
    """Refuses runs that were measured in different ways.

    Raises:
        ValueError: It names two runs and what they differ in.
    """
    for method in methods:
        _require_one_config(method)
    first: tuple[str, dict[str, Any]] | None = None
    for name, folder, config in _runs(methods):
        said = {f"config.{key}": config[key] for key in PROTOCOL if key in config}
        said |= _of_run_file(folder)
        if first is None:
            first = name, said
            continue
        for key in sorted(set(said) & set(first[1])):
            if said[key] != first[1][key]:
                raise ValueError(
                    f"{name}: {_SAID.get(key, key)} is {said[key]!r}, that of {first[0]} "
                    f"{first[1][key]!r}, so their results are of two protocols. Run one of them "
                    "again as the other, or compare each with its own kind."
                )


def _require_one_config(method: Method) -> None:
    """Refuses runs of one method that differ in more than the seed."""
    first: tuple[str, Mapping[str, Any]] | None = None
    for trial in method.trials.values():
        name = f"{trial.folder.parent.name}/{trial.folder.name}"
        config = planned_trial(trial.folder).get("config", {})
        first = first or (name, config)
        for key in sorted({*config, *first[1]} - {"seed"}):
            if config.get(key) != first[1].get(key):
                raise ValueError(
                    f"{name}: config.{key} is {config.get(key)!r}, that of {first[0]} "
                    f"{first[1].get(key)!r}, so they are no two runs of {method.name}. Give one of "
                    "them another label."
                )


def _runs(methods: Sequence[Method]) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    for method in methods:
        for trial in method.trials.values():
            name = f"{trial.folder.parent.name}/{trial.folder.name}"
            yield name, trial.folder, trial.config


def _of_run_file(folder: Path) -> dict[str, Any]:
    """Version, fingerprints and stop that `run.json` records of a trial; {} without one."""
    file = folder.parent / RUN_FILE
    if not file.is_file():
        return {}
    trial = planned_trial(folder)
    said = {"package": read_json(file).get("package"), "stop": trial.get("stop")}
    # "" where the tasks, or the model, were not looked at
    return said | {key: trial[key] for key in ("model", "tasks") if trial.get(key)}


def planned_trial(folder: Path) -> Mapping[str, Any]:
    """What `run.json` planned for a trial; {} without one."""
    file = folder.parent / RUN_FILE
    return read_json(file).get("trials", {}).get(folder.name, {}) if file.is_file() else {}
