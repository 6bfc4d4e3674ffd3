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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import tune
from ray.tune.experiment import Experiment, Trial

from stepopsd_rllib.commands import training_run, tuned
from stepopsd_rllib.commands.progress import ProgressLines, StopConditions
from stepopsd_rllib.commands.ray_start import start_ray
from stepopsd_rllib.report.comparison import (
    comparison_table,
    read_methods,
    trial_folder,
    type_table,
)
from stepopsd_rllib.report.comparison_curves import PICTURE, draw_comparison

KEYS = ("base", "seeds", "stop", "config", "baseline", "max_concurrent", "methods")
DEFAULT_BASELINE = "GRPO"
ERROR_FILE = "error.txt"
"""Where Tune writes what a trial died of, in the trial's folder."""


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
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or len(document) != 1:
        raise ValueError(f"{source}: a comparison has one top-level key, its name.")
    name, body = next(iter(document.items()))
    if not isinstance(body, dict):
        raise ValueError(f"{source}: {name} holds no keys. Write base, seeds and methods.")
    for key in body:
        if key not in KEYS:
            raise ValueError(
                f"{source}: {name}.{key} is not a key of a comparison. Known: {', '.join(KEYS)}."
            )
    seeds, methods = body.get("seeds"), body.get("methods")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"{source}: {name}.seeds={seeds!r}: write whole numbers: [0, 1, 2].")
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
    folder = Path(storage).resolve() / (name or comparison.name)
    if folder.exists():
        raise ValueError(f"--name {folder.name}: {folder} exists already. Choose another name.")
    examples = list(comparison.methods.values())
    configs = [config for example in examples for config in tuned.configs(example)]
    training_run.say(
        f"{comparison.name}: {', '.join(comparison.methods)}; seeds "
        f"{', '.join(map(str, comparison.seeds))}\nrun folder  {folder}\n"
        f"versions    {training_run.versions()}\n"
    )
    start_ray(tuned.algorithm_class(examples[0]), configs, dashboard=dashboard)
    stop = StopConditions(examples[0].stop)
    try:
        with training_run.ending_on_ctrl_c(stop):
            trials = tune.run(
                experiments(comparison, folder, stop),
                callbacks=[ProgressLines(stop, training_run.say, label=_label)],
                max_concurrent_trials=comparison.max_concurrent or None,
                raise_on_failed_trial=False,
                verbose=0,
            ).trials
    finally:
        ray.shutdown()
    failed = [trial for trial in trials or [] if trial.status == Trial.ERROR]
    for trial in failed:
        name = str(trial.custom_dirname)
        training_run.say(f"failed: {name}: {folder / name / ERROR_FILE}")
    show(folder, comparison.baseline)
    return training_run.RUN_FAILED if failed else training_run.SUCCESS


def experiments(comparison: Comparison, folder: Path, stop: tune.Stopper) -> Any:
    """One `Experiment` a method (a list), all in one run folder and in one scheduling loop."""
    return [
        Experiment(
            name=folder.name,
            run=tuned.algorithm_class(example),
            config=tuned.param_space(example),
            stop=stop,
            storage_path=str(folder.parent),
            max_failures=example.max_failures,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True, num_to_keep=1),
            trial_dirname_creator=_folder_namer(label),
        )
        for label, example in comparison.methods.items()
    ]


def show(folder: Path, baseline: str | None) -> None:
    """Prints the tables of a comparison's run folder and draws its picture; reads files only."""
    methods, without_evaluation = read_methods(folder)
    for name in without_evaluation:
        training_run.say(f"left out: {name} has no evaluation")
    training_run.say(f"\n{comparison_table(methods, baseline)}\n\n{type_table(methods)}\n")
    picture = draw_comparison(methods, folder / PICTURE, folder.name)
    training_run.say(f"curves      {picture}")


def _label(trial: Trial) -> str:
    return str(trial.custom_dirname)  # method and seed


def _folder_namer(label: str) -> Any:
    return lambda trial: trial_folder(label, trial.config["seed"])


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
