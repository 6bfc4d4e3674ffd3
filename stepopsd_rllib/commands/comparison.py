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
      margin: 0.05                                    # optional; difference that counts as none
      learning_rate:                                  # optional; see `learning_rates`
        {grid: [2.0e-4, 4.0e-4], seeds: [100], split: valid_seen}

Every method gets the same base, tasks, seeds and stop; only its own keys differ, and none of those
by which results are measured. The last evaluation is what is compared, so a run has to end with
one. The file is the plan: the number of comparisons that p-values are corrected for is its number
of methods, also where only a part of it was run (`--only`, `--seeds`). Parts are shown together by
naming their run folders.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial

from stepopsd_rllib.commands import preflight, trackers, training_run, tuned, yaml_files
from stepopsd_rllib.commands.learning_rates import (
    RateChoice,
    best_rates,
    examples_of_choice,
    rate_choice,
    rates_folder,
    with_rates,
)
from stepopsd_rllib.commands.ray_start import running_ray
from stepopsd_rllib.commands.restarts import run_with_restarts
from stepopsd_rllib.commands.run_file import COMPARE, Run, planned
from stepopsd_rllib.commands.storage import Storage, locked, open_storage, require_free
from stepopsd_rllib.commands.trials import ERROR_FILE
from stepopsd_rllib.report.budget_verdicts import verdict_tables, verdicts_by_budget
from stepopsd_rllib.report.comparison import (
    comparison_table,
    read_methods,
    trial_folder,
    type_table,
)
from stepopsd_rllib.report.comparison_curves import PICTURE, draw_comparison
from stepopsd_rllib.report.comparison_parts import finished, missing, one_plan
from stepopsd_rllib.report.equal_compute import compute_table
from stepopsd_rllib.report.protocol import PROTOCOL, require_one_protocol
from stepopsd_rllib.report.verdict_figure import VERDICTS, draw_verdicts
from stepopsd_rllib.report.verdicts import DEFAULT_MARGIN

KEYS = (
    "base",
    "seeds",
    "stop",
    "config",
    "baseline",
    "max_concurrent",
    "methods",
    "margin",
    "learning_rate",
)
DEFAULT_BASELINE = "GRPO"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One comparison as written in its file.

    Attributes:
        source: The file; every message starts with it.
        name: Name of the comparison, the file's only top-level key.
        methods: Label -> the tuned example that it stands for, with a grid over the seeds.
        seeds: Seeds of every method.
        baseline: Label that the others are paired with; None if no method has it.
        max_concurrent: Trials at a time; 0 is as many as fit.
        margin: Largest difference of success that counts as none.
        rates: How learning rates are chosen; None where the base's serves all.
        fingerprint: Fingerprint of the file.
    """

    source: str
    name: str
    methods: Mapping[str, tuned.TunedExample]
    seeds: Sequence[int]
    baseline: str | None
    max_concurrent: int = 0
    margin: float = DEFAULT_MARGIN
    rates: RateChoice | None = None
    fingerprint: str = ""

    def part(self, only: Sequence[str], seeds: Sequence[int]) -> Comparison:
        """The chosen methods and seeds; () for all of either.

        Raises:
            ValueError: The file has no such method, or seed.
        """
        for name, chosen, known in (("only", only, self.methods), ("seeds", seeds, self.seeds)):
            for each in chosen:
                if each not in known:
                    raise ValueError(
                        f"--{name} {each}: is not in {self.source}. It has "
                        f"{', '.join(map(str, known))}."
                    )
        kept = [seed for seed in self.seeds if not seeds or seed in seeds]
        grid = {"seed": {"grid_search": kept}}
        methods = {
            label: dataclasses.replace(example, config=dict(example.config) | grid)
            for label, example in self.methods.items()
            if not only or label in only
        }
        return dataclasses.replace(self, methods=methods, seeds=kept)

    def plan(self) -> dict[str, Any]:
        """What the file plans, as `run.json` keeps it."""
        return {
            "file": self.fingerprint,
            "methods": list(self.methods),
            "seeds": list(self.seeds),
            "margin": self.margin,
            "baseline": self.baseline,
        }


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
    margin = body.get("margin", DEFAULT_MARGIN)
    if type(margin) not in (int, float) or not 0 < margin < 1:
        raise ValueError(f"{source}: {name}.margin={margin!r}: a share of success, such as 0.05.")
    for label, example in examples.items():
        for config in tuned.configs(example):
            _require_last_evaluation(source, label, example, config)
        _require_protocol(source, label, (body["methods"] or {})[label] or {})
    return Comparison(
        source=source,
        name=str(name),
        methods=examples,
        seeds=seeds,
        baseline=baseline,
        max_concurrent=max_concurrent,
        margin=float(margin),
        rates=rate_choice(source, body.get("learning_rate"), seeds=seeds, methods=examples),
        fingerprint=hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16],
    )


def run(
    files: Sequence[str],
    *,
    storage: str,
    name: str | None,
    dashboard: bool,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    log_to: Sequence[str] = (),
) -> int:
    """Runs a comparison to its end, or shows one that was run; returns the exit status.

    Args:
        files: The YAML file, or run folders of a comparison and its parts.
        storage: Folder of all run folders.
        name: Name of the run folder; the comparison's by default.
        dashboard: Whether Ray starts its dashboard.
        only: Methods to run; all by default.
        seeds: Seeds to run; all by default.
        log_to: Trackers that get the results too, in place of the base's.

    Raises:
        ValueError: A mistake that is found before the run starts.
    """
    if all(Path(file).is_dir() for file in files):
        show([Path(file) for file in files])
        return training_run.SUCCESS
    if len(files) > 1:
        raise ValueError(f"{files[1]}: one file is run at a time; several run folders are shown.")
    training_run.quiet_ray()
    planned_ = read(files[0])
    if log_to:
        methods = {
            label: dataclasses.replace(example, log_to=list(log_to))
            for label, example in planned_.methods.items()
        }
        planned_ = dataclasses.replace(planned_, methods=methods)
    trackers.require("log_to", next(iter(planned_.methods.values())).log_to)
    comparison = planned_.part(only, seeds)
    where = open_storage(storage)
    name = name or comparison.name
    require_free(where, name)
    if comparison.rates is not None:
        status, comparison = _with_rates(comparison, comparison.rates, where, dashboard)
        if status != training_run.SUCCESS:
            return status
    return begin(comparison, planned_.plan(), where, name, dashboard=dashboard)


def _with_rates(
    comparison: Comparison, choice: RateChoice, where: Storage, dashboard: bool
) -> tuple[int, Comparison]:
    """The comparison with the chosen rates, and the exit status of the runs that choose them.

    Each method has a run folder for its choice, which all parts of the comparison share: what was
    run before in this storage is not run again.
    """
    if not where.is_local:
        raise ValueError(
            f"--storage {where.location}: learning_rate chooses from files on this machine. Give a "
            "folder, or write the rates into the file."
        )
    chosen: dict[str, float] = {}
    for label, example in comparison.methods.items():
        name = rates_folder(comparison.name, label)
        if not where.exists(name):
            trials = examples_of_choice({label: example}, choice)
            runs = dataclasses.replace(
                comparison, methods=trials, seeds=choice.seeds, baseline=None, rates=None
            )
            plan = {"file": comparison.fingerprint}
            status = begin(runs, plan, where, name, dashboard=dashboard)
            if status != training_run.SUCCESS:
                training_run.say("then        the same command once more")
                return status, comparison
        folder = Path(where.path, name)
        if one_plan([folder]).get("file") != comparison.fingerprint:
            raise ValueError(
                f"{folder}: its learning rates were tried for another text of {comparison.source}. "
                "Give the comparison another name, or another --storage."
            )
        tried, _ = finished(*read_methods(folder), folders=[folder])
        chosen |= best_rates([label], choice, tried)
        training_run.say(f"learning rate of {label}: {chosen[label]:g}")
    return training_run.SUCCESS, dataclasses.replace(
        comparison, methods=with_rates(comparison.methods, chosen)
    )


def begin(
    comparison: Comparison, plan: Mapping[str, Any], where: Storage, name: str, *, dashboard: bool
) -> int:
    """Runs a comparison, or a part of a plan, in a new run folder; returns the exit status."""
    run_ = dataclasses.replace(_planned(comparison), plan=plan)
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
        restore: Checkpoints by trial, as in `trials.run_trials`.
    """
    with locked(storage, name):
        trials, interruption, _ = run_with_restarts(run_, storage, name, training_run.say, restore)
    failed = [trial for trial in trials if trial.status == Trial.ERROR]
    for trial in failed:
        training_run.say(f"failed: {trial.custom_dirname}: {trial.path}/{ERROR_FILE}")
    if interruption.status is not None:
        where = shlex.quote(storage.run(name))
        training_run.say(f"go on       stepopsd {run_.kind} --resume {where}")
        return interruption.status
    if storage.is_local:
        show([Path(storage.path, name)], run_.baseline)
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


def show(folders: Sequence[Path], baseline: str | None = DEFAULT_BASELINE) -> None:
    """Prints the tables of a comparison, or of its parts, and draws its picture; reads files only.

    Args:
        folders: Run folders.
        baseline: Label that the others are paired with; where no run says another one.

    Raises:
        ValueError: They are of two plans, or of two protocols, or have the same trial.
    """
    plan = one_plan(folders)
    methods, notes = finished(*read_methods(*folders), folders=folders)
    require_one_protocol(methods)
    for note in [*notes, *missing(plan, methods)]:
        training_run.say(f"left out: {note}")
    if not methods:
        return
    baseline = plan.get("baseline", baseline)
    training_run.say(f"\n{comparison_table(methods, baseline)}\n\n{type_table(methods)}\n")
    training_run.say(f"{compute_table(methods, baseline)}\n")
    by_budget = verdicts_by_budget(methods, baseline, plan)
    for table in verdict_tables(by_budget):
        training_run.say(f"{table}\n")
    picture = draw_comparison(methods, folders[0] / PICTURE, folders[0].name)
    training_run.say(f"curves      {picture}")
    if any(budget.verdicts for budget in by_budget):
        picture = draw_verdicts(by_budget, folders[0] / VERDICTS, folders[0].name)
        training_run.say(f"verdicts    {picture}")


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


def _require_protocol(source: str, label: str, keys: Mapping[str, Any]) -> None:
    """Refuses a method that would be measured in another way than the others."""
    for key in PROTOCOL:
        if key in keys:
            raise ValueError(
                f"{source}: methods.{label}.{key}: a method cannot be measured in a way of its "
                "own. Write the key into `config`, for all methods."
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
