"""Tuned examples: YAML files in RLlib's form, read strictly and mapped to Ray Tune.

One file holds one experiment:

    grpo_alfworld_tiny:                # name of the run folder
      run: GRPO                        # one of ours, or "module:Class"
      env: stepopsd/ALFWorld-v0
      stop: {training_iteration: 60}
      config: {group_size: 8, lr: 1.0e-4}

`config` is the flat dict that `Tuner(param_space=...)` takes, `grid_search` included; its keys are
the attributes of the algorithm's config, and the config itself refuses a key or value it does not
know. Here each such message gets the name of the file in front.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.experiment import Trial
from ray.tune.search.variant_generator import generate_variants

from stepopsd_rllib.algorithms import ALGORITHMS
from stepopsd_rllib.commands import trackers, yaml_files
from stepopsd_rllib.commands.failures import one_line
from stepopsd_rllib.commands.kept_checkpoints import KeptCheckpoints
from stepopsd_rllib.commands.paths import with_absolute_paths
from stepopsd_rllib.commands.stop_keys import check_number, check_stop, nearest
from stepopsd_rllib.commands.storage import open_storage
from stepopsd_rllib.models import hub


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedExample:
    """One experiment as written in its file, overrides applied.

    Attributes:
        source: The file, as the user named it; every message starts with it.
        name: Name of the experiment, the YAML's only top-level key.
        run: Algorithm: a key of `ALGORITHMS`, or "module:Class".
        env: Gymnasium id with RLlib's module prefix, such as "stepopsd/ALFWorld-v0".
        stop: Result key -> number; reaching any of them ends a trial.
        config: Attributes of the algorithm's config; values may be {"grid_search": [...]}.
        num_samples: How often each variant of the grid runs.
        checkpoint_freq: Iterations between checkpoints; 0 writes only the last one.
        keep_checkpoints_num: Checkpoints kept in each trial; None keeps all.
        checkpoint_score_attribute: Result whose largest values decide which checkpoints are kept,
            such as evaluation/success_rate; the newest is kept as well. Without it the newest are.
        max_failures: How often a failed trial goes on from its checkpoint; -1 is without end. One
            that lost a process (its own, a learner, a node) does once in any case.
        preemption_grace_s: Seconds that an iteration and its checkpoint may take after Ctrl-C or
            SIGTERM; then the iteration is dropped and the last checkpoint stands.
        log_to: Trackers that get the results too, such as wandb:PROJECT; see `trackers`.
    """

    source: str
    name: str
    run: str
    env: str | None
    stop: Mapping[str, float]
    config: Mapping[str, Any] = field(default_factory=dict)
    num_samples: int = 1
    checkpoint_freq: int = 10
    keep_checkpoints_num: int | None = 2
    checkpoint_score_attribute: str | None = None
    max_failures: int = 0
    preemption_grace_s: float = 120.0
    log_to: Sequence[str] = ()


RUN_KEYS = tuple(item.name for item in fields(TunedExample) if item.name not in ("source", "name"))
LEAST = {"num_samples": 1, "checkpoint_freq": 0, "keep_checkpoints_num": 1, "max_failures": -1}
"""Whole numbers among the keys, and the least that each can be."""


def read(path: str | Path, overrides: Sequence[str] = ()) -> TunedExample:
    """Reads a tuned example and applies `KEY=VALUE` overrides.

    Args:
        path: The YAML file. A name that is not found is looked up among the installed examples.
        overrides: Each `KEY=VALUE`; the value is read as YAML. A bare key belongs to `config`,
            `env_config.size` to a dict in it; `run`, `env`, `stop.<key>` and the other keys of
            the experiment are meant by their own names.

    Raises:
        ValueError: For a missing file, broken YAML, an unknown key or a value of wrong type.
    """
    source = str(path)
    name, body = experiment(yaml_files.read(locate(path), source), source)
    apply_overrides(overrides, body)
    return checked(source, name, body)


def experiment(document: Any, source: str) -> tuple[str, dict[str, Any]]:
    """Name and keys of the one experiment in a document.

    Top-level keys that begin with "x-" or "." only hold what aliases refer to.
    """
    found = (
        {k: v for k, v in document.items() if not str(k).startswith((".", "x-"))}
        if isinstance(document, dict)
        else {}
    )
    if len(found) != 1:
        raise ValueError(
            f"{source}: has {len(found) or 'no'} top-level keys; a tuned example has one, the name "
            "of the experiment, with run, env, stop and config under it."
        )
    name, body = next(iter(found.items()))
    if not isinstance(body, dict):
        raise ValueError(f"{source}: {name} holds no keys. Write run, env, stop and config.")
    # What an alias shares with another place is copied before anything is written into it.
    return str(name), copy.deepcopy(body)


def locate(path: str | Path) -> Path:
    """The file itself, or the installed example of that name when there is no such file here."""
    if Path(path).is_file():
        return Path(path)
    installed = Path(__file__).parents[1] / Path(path)
    if Path(path).parts[:1] == ("tuned_examples",) and installed.is_file():
        return installed
    raise ValueError(
        f"{path}: no such file. Tuned examples are in tuned_examples/<algorithm>/ of the clone."
    )


def pinned(example: TunedExample) -> TunedExample:
    """The example with the commit that a model's name on the hub means now written behind it.

    A run that is gone on with then reads the same weights; every node resolves its own copy.
    """
    model = example.config.get("model")
    if isinstance(model, dict) and isinstance(model.get("grid_search"), list):
        model = {"grid_search": [hub.pinned(name) for name in model["grid_search"]]}
    elif isinstance(model, str):
        model = hub.pinned(model)
    if model == example.config.get("model"):
        return example
    return replace(example, config={**example.config, "model": model})


def algorithm_class(example: TunedExample) -> type[Algorithm]:
    """The class that `run` names."""
    if example.run in ALGORITHMS:
        return ALGORITHMS[example.run]
    module_name, _, class_name = example.run.partition(":")
    if class_name:
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{example.source}: run={example.run!r} cannot be imported: {error}."
            ) from error
        if isinstance(found, type) and issubclass(found, Algorithm):
            return found
        raise ValueError(f"{example.source}: run={example.run!r} is not an RLlib Algorithm.")
    raise ValueError(
        f"{example.source}: run={example.run!r} is not an algorithm"
        f"{nearest(example.run, ALGORITHMS)}. "
        f"Known: {', '.join(sorted(ALGORITHMS))}; your own is named 'module:Class'."
    )


def configs(example: TunedExample) -> list[AlgorithmConfig]:
    """The validated config of every variant of the grid, in Tune's order.

    Raises:
        ValueError: With the config's own message after the file's name.
    """
    return [_config(example, variant) for variant in variants(example)]


def variants(example: TunedExample) -> Iterator[dict[str, Any]]:
    """The param_space of every variant of the grid, in Tune's order."""
    try:
        for _, variant in generate_variants(param_space(example)):
            yield variant
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        problem = one_line(str(error))
        raise ValueError(f"{example.source}: config: its grid is none: {problem}") from error


def param_space(example: TunedExample) -> dict[str, Any]:
    """The dict that `Tuner(param_space=...)` takes."""
    space: dict[str, Any] = copy.deepcopy(dict(example.config))
    if example.env is not None:
        space["env"] = example.env
    return space


def tuner(
    example: TunedExample,
    *,
    storage: str | Path,
    name: str | None = None,
    callbacks: Iterable[tune.Callback] = (),
    stopper: tune.Stopper | None = None,
) -> tune.Tuner:
    """A Tuner that runs the example.

    Args:
        example: What to run.
        storage: Folder of all runs, or an address that pyarrow opens.
        name: Folder of this run in `storage`; the example's name by default.
        callbacks: Tune callbacks of the driver.
        stopper: Takes the place of `example.stop`.

    Raises:
        ValueError: The storage cannot be opened.
    """
    where = open_storage(str(storage))
    return tune.Tuner(
        algorithm_class(example),
        param_space=param_space(example),
        tune_config=tune.TuneConfig(
            num_samples=example.num_samples, trial_dirname_creator=_trial_folder
        ),
        run_config=tune.RunConfig(
            name=name or example.name,
            storage_path=where.location,
            stop=stopper if stopper is not None else dict(example.stop),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=example.checkpoint_freq,
                checkpoint_at_end=True,
            ),
            failure_config=tune.FailureConfig(max_failures=example.max_failures),
            callbacks=[
                *callbacks,
                KeptCheckpoints(example.keep_checkpoints_num, example.checkpoint_score_attribute),
            ],
            verbose=0,
        ),
    )


def _trial_folder(trial: Trial) -> str:
    """Tune's own name repeats the time and every grid value, too long for some file systems."""
    return f"{trial.trainable_name}_{trial.trial_id}"


def _config(example: TunedExample, variant: dict[str, Any]) -> AlgorithmConfig:
    config = algorithm_class(example).get_default_config()
    try:
        config.update_from_dict(variant)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        where = "" if text.startswith("config.") else "config."
        raise ValueError(f"{example.source}: {where}{one_line(text)}") from error
    try:
        config.validate()
    except ValueError as error:
        raise ValueError(f"{example.source}: {one_line(str(error))}") from error
    return config


def checked(source: str, name: str, body: dict[str, Any]) -> TunedExample:
    """The example that a mapping of keys describes; see `read` for what is refused."""
    for key in body:
        if key not in RUN_KEYS:
            raise ValueError(
                f"{source}: {name}.{key} is not a key of a tuned example{nearest(key, RUN_KEYS)}. "
                f"Known: {', '.join(RUN_KEYS)}; keys of the algorithm stand under config."
            )
    for key in ("run", "stop"):
        if not body.get(key):
            raise ValueError(f"{source}: {name}.{key} is missing. {_MISSING[key]}")
    for key in ("stop", "config"):
        if not isinstance(body.get(key, {}), dict):
            raise ValueError(f"{source}: {name}.{key}={body[key]!r} is not a mapping of keys.")
    for key in ("run", "env"):
        if not isinstance(body.get(key, ""), str):
            raise ValueError(f"{source}: {name}.{key}={body[key]!r} is not a name.")
    for key, lowest in LEAST.items():
        value = body.get(key)
        if value is not None and (type(value) is not int or value < lowest):
            raise ValueError(
                f"{source}: {name}.{key}={value!r} is not a whole number of at least {lowest}."
            )
    score = body.get("checkpoint_score_attribute")
    if score is not None:
        check_stop(source, {score: 0.0}, body.get("config", {}), key="checkpoint_score_attribute")
    grace = body.get("preemption_grace_s", 0)
    check_number(f"{source}: {name}.preemption_grace_s", grace)
    if not 0 <= grace < float("inf"):
        raise ValueError(f"{source}: {name}.preemption_grace_s={grace}: seconds, at least 0.")
    trackers.parse(f"{source}: {name}.log_to", body.get("log_to", ()))
    if isinstance(body.get("log_to"), str):
        body = {**body, "log_to": [body["log_to"]]}
    config = with_absolute_paths(body.get("config", {}), source)
    _require_plain_config(source, config)
    check_stop(source, body["stop"], config)
    example = TunedExample(source=source, name=name, env=None, **_without(body, "env"))
    return replace(example, env=body.get("env"), config=config)


def _require_plain_config(source: str, config: Mapping[str, Any]) -> None:
    """Refuses keys that are no names, a key written under two names, and code."""
    if "model" in config and "language_model" in config:
        raise ValueError(
            f"{source}: config.model is written twice, once as language_model. Keep one."
        )
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if list(value) == ["eval"]:
                raise ValueError(
                    f"{source}: config: {{eval: ...}} is Python code for Tune to run. Write values."
                )
            for key in value:
                if not isinstance(key, str):
                    raise ValueError(
                        f"{source}: config: {key!r} is not the name of a key. Write a word, "
                        "in quotes if YAML takes it for a number or for true and false."
                    )
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif not isinstance(value, str | int | float | None):
            raise ValueError(
                f"{source}: config: {value!r} is a {type(value).__name__}. Write a number, true or "
                "false, or a text in quotes."
            )


def parse_override(override: str) -> tuple[str, Any]:
    """Key and value of a `KEY=VALUE` text, the value read as YAML."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"--set {override}: is not KEY=VALUE. Write --set lr=1.0e-6.")
    return key.strip(), yaml_files.parse(text, f"--set {override}")


def apply_overrides(overrides: Sequence[str], body: dict[str, Any]) -> None:
    """Writes each `KEY=VALUE` into the experiment; dotted keys reach into nested mappings."""
    given: dict[tuple[str, ...], str] = {}
    for override in overrides:
        key, value = parse_override(override)
        steps = key.split(".")
        path = steps if steps[0] in RUN_KEYS else ["config", *steps]
        if tuple(path) in given:
            raise ValueError(
                f"--set {override}: {key} is set twice, before by --set {given[tuple(path)]}."
            )
        given[tuple(path)] = override
        target = body
        for step in path[:-1]:
            if target.get(step) is None:
                target[step] = {}
            target = target[step]
            if not isinstance(target, dict):
                raise ValueError(f"--set {override}: {step} holds one value, not keys.")
        target[path[-1]] = value


_MISSING = {
    "run": "Name the algorithm, for example run: GRPO.",
    "stop": "Say when to end, for example stop: {training_iteration: 60}.",
}


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}
