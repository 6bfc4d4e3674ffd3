"""Several methods times several seeds as one Tune experiment, and the tables at its end.

One file holds one comparison:

    alfworld_tiny:                                    # name of the run folder
      base: tuned_examples/grpo/alfworld_tiny.yaml    # or its keys: {env: ..., config: {...}}
      seeds: [0, 1, 2]
      stop: {training_iteration: 40}                  # optional; the base's by default
      config: {evaluation_interval: 10}               # optional; keys of all methods
      baseline: GRPO                                  # optional; whom the others are paired with
      max_concurrent: 2                               # optional; trials at a time
      methods:
        GRPO: {}                                      # label: keys that differ from the base
        SDAR: {skills: alfworld_brief, skill_max_tokens: 512}
        SDAR entropy: {run: SDAR, gate: entropy}      # a label that is no algorithm names one

Every method gets the same base, tasks, seeds and stop; only its own keys differ. The last
evaluation is what is compared, so a run has to end with one.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial

from stepopsd_rllib.commands import preflight, training_run, tuned, yaml_files
from stepopsd_rllib.commands.ray_start import running_ray
from stepopsd_rllib.commands.run_file import COMPARE, Run, planned
from stepopsd_rllib.commands.storage import Storage, locked, open_storage, require_free
from stepopsd_rllib.commands.trials import run_trials
from stepopsd_rllib.report.comparison import (
    comparison_table,
    read_methods,
    trial_folder,
    type_table,
)
from stepopsd_rllib.report.comparison_curves import PICTURE, draw_comparison

KEYS = ("base", "seeds", "stop", "config", "baseline", "max_concurrent", "methods")
DEFAULT_BASELINE = "GRPO"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One comparison as written in its file.

    Attributes:
        source: The file; every message starts with it.
        name: Name of the comparison, the file's only top-level key.
        methods: Label -> the tuned example that it stands for, with a grid over the seeds.
        seeds: Of every method.
        baseline: Label that the others are paired with; None if no method has it.
        max_concurrent: Trials at a time; 0 is as many as fit.
    """

    source: str
    name: str
    methods: Mapping[str, tuned.TunedExample]
    seeds: Sequence[int]
    baseline: str | None
    max_concurrent: int = 0


def read(path: str | Path) -> Comparison:
    """Reads and checks a comparison; every config of every method is built and validated.

    Raises:
        ValueError: For a missing file, an unknown key, or a config that its algorithm refuses.
    """
    source = str(path)
    if not Path(path).is_file():
        path = tuned.locate(path)
    name, body = tuned.experiment(yaml_files.read(Path(path), source), source)
    for key in body:
        if key not in KEYS:
            raise ValueError(
                f"{source}: {name}.{key} is not a key of a comparison. Known: {', '.join(KEYS)}."
            )
    seeds, methods = body.get("seeds"), body.get("methods")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"{source}: {name}.seeds={seeds!r}: write whole numbers: [0, 1, 2].")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{source}: {name}.seeds={seeds!r}: a seed is written twice.")
    if not isinstance(methods, dict) or not methods:
        raise ValueError(f"{source}: {name}.methods={methods!r}: write label: {{keys}} for each.")
    base = _base(source, body)
    examples = {
        str(label): _example(source, str(label), keys or {}, base, seeds)
        for label, keys in methods.items()
    }
    baseline = body.get("baseline", DEFAULT_BASELINE if DEFAULT_BASELINE in examples else None)
    if baseline is not None and baseline not in examples:
        raise ValueError(
            f"{source}: {name}.baseline={baseline!r} is none of the methods: {', '.join(examples)}."
        )
    max_concurrent = body.get("max_concurrent", 0)
    if type(max_concurrent) is not int or max_concurrent < 0:
        raise ValueError(f"{source}: {name}.max_concurrent={max_concurrent!r}: a number of trials.")
    for label, example in examples.items():
        for config in tuned.configs(example):
            _require_last_evaluation(source, label, example, config)
    return Comparison(
        source=source,
        name=str(name),
        methods=examples,
        seeds=seeds,
        baseline=baseline,
        max_concurrent=max_concurrent,
    )


def run(file: str, *, storage: str, name: str | None, dashboard: bool) -> int:
    """Runs a comparison to its end, or shows one that was run; returns the exit status.

    Args:
        file: The YAML file, or the run folder of a comparison.
        storage: Folder of all run folders.
        name: Name of the run folder; the comparison's by default.
        dashboard: Whether Ray starts its dashboard.
    """
    if Path(file).is_dir():
        show(Path(file), DEFAULT_BASELINE)
        return training_run.SUCCESS
    training_run.quiet_ray()
    comparison = read(file)
    where = open_storage(storage)
    name = name or comparison.name
    require_free(where, name)
    run_ = _planned(comparison)
    examples = list(comparison.methods.values())
    configs = [config for example in examples for config in tuned.configs(example)]
    with training_run.beginning(run_, where, name, comparison.name):
        training_run.say(
            f"{comparison.name}: {', '.join(comparison.methods)}; seeds "
            f"{', '.join(map(str, comparison.seeds))}\nrun folder  {where.run(name)}\n"
            f"versions    {training_run.versions()}\n"
        )
        algorithm = tuned.algorithm_class(examples[0])
        with running_ray(algorithm, configs, dashboard=dashboard):
            return run_and_show(run_, where, name)


def run_and_show(
    run_: Run, storage: Storage, name: str, restore: Mapping[str, str | None] | None = None
) -> int:
    """Runs the trials of a comparison and shows its tables; returns the exit status.

    Args:
        run_: The comparison's run.
        storage: Where run folders are.
        name: The run folder.
        restore: As `trials.run_trials` takes it.
    """
    with locked(storage, name):
        trials, interruption, _ = run_trials(run_, storage, name, training_run.say, restore)
    failed = [trial for trial in trials if trial.status == Trial.ERROR]
    for trial in failed:
        training_run.say(f"failed: {trial.custom_dirname}: {trial.path}/{training_run.ERROR_FILE}")
    if interruption.status is not None:
        where = shlex.quote(storage.run(name))
        training_run.say(f"go on       stepopsd {run_.kind} --resume {where}")
        return interruption.status
    if storage.is_local:
        show(Path(storage.path, name), run_.baseline)
    else:
        training_run.say(f"results     {storage.run(name)} (copy it here for `stepopsd compare`)")
    return training_run.RUN_FAILED if failed else training_run.SUCCESS


def _planned(comparison: Comparison) -> Run:
    """A trial for each method and seed."""
    trials = []
    for label, example in comparison.methods.items():
        tasks = preflight.check(comparison.source, tuned.configs(example))
        for trial in planned(example, tasks):
            folder = trial_folder(label, trial.example.config["seed"])
            trials.append(dataclasses.replace(trial, folder=folder, label=folder))
    return Run(
        kind=COMPARE,
        trials=trials,
        baseline=comparison.baseline,
        max_concurrent=comparison.max_concurrent,
    )


def show(folder: Path, baseline: str | None) -> None:
    """Prints the tables of a comparison's run folder and draws its picture; reads files only."""
    methods, without_evaluation = read_methods(folder)
    for name in without_evaluation:
        training_run.say(f"left out: {name} has no evaluation")
    training_run.say(f"\n{comparison_table(methods, baseline)}\n\n{type_table(methods)}\n")
    picture = draw_comparison(methods, folder / PICTURE, folder.name)
    training_run.say(f"curves      {picture}")


def _base(source: str, body: Mapping[str, Any]) -> tuned.TunedExample:
    """The tuned example that every method starts from."""
    base = body.get("base")
    if isinstance(base, str):
        example = tuned.read(base)
    elif isinstance(base, dict):
        example = tuned.checked(
            source, "base", {"run": DEFAULT_BASELINE, "stop": body.get("stop"), **base}
        )
    else:
        raise ValueError(f"{source}: base={base!r}: name a tuned example, or write its keys.")
    shared = body.get("config", {})
    if not isinstance(shared, dict):
        raise ValueError(f"{source}: config={shared!r}: write keys that all methods get.")
    changed = {"stop": body.get("stop", example.stop), "config": dict(example.config) | shared}
    return tuned.checked(source, "base", _keys_of(example) | changed)


def _require_last_evaluation(
    source: str, label: str, example: tuned.TunedExample, config: Any
) -> None:
    """Refuses runs that end between two evaluations: an earlier one would be compared."""
    end, interval = example.stop.get("training_iteration"), config.evaluation_interval
    if not interval or (end is not None and end % interval):
        raise ValueError(
            f"{source}: methods.{label}: evaluation_interval={interval} and "
            f"stop.training_iteration={end}: a run would not end with an evaluation, which is what "
            "is compared. Set config: {evaluation_interval: ...} to a divisor of the stop."
        )


def _keys_of(example: tuned.TunedExample) -> dict[str, Any]:
    return {key: getattr(example, key) for key in tuned.RUN_KEYS}


def _example(
    source: str, label: str, keys: Any, base: tuned.TunedExample, seeds: Sequence[int]
) -> tuned.TunedExample:
    if not isinstance(keys, dict):
        raise ValueError(f"{source}: methods.{label}={keys!r}: write keys, or {{}} for none.")
    if "/" in label or "seed" in keys:
        raise ValueError(f"{source}: methods.{label}: no '/' in a label, no seed in a method.")
    keys = dict(keys)
    run_ = keys.pop("run", label)
    config = dict(base.config) | keys | {"seed": {"grid_search": list(seeds)}}
    body = _keys_of(base) | {"run": run_, "config": config}
    return tuned.checked(f"{source}: methods.{label}", label, body)
