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

import contextlib
import copy
import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.experiment import Trial
from ray.tune.search.variant_generator import generate_variants

from stepopsd_rllib.algorithms import ALGORITHMS
from stepopsd_rllib.commands.failures import one_line

STOP_KEYS = ("training_iteration", "time_total_s", "num_env_steps_sampled_lifetime")
STOP_SECTIONS = ("env_runners/", "evaluation/", "learners/")


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
        keep_checkpoints_num: Newest checkpoints kept in each trial; None keeps all.
        max_failures: How often a failed trial resumes from its checkpoint; -1 is without end.
    """

    source: str
    name: str
    run: str
    env: str | None
    stop: Mapping[str, float]
    config: Mapping[str, Any] = field(default_factory=dict)
    num_samples: int = 1
    checkpoint_freq: int = 0
    keep_checkpoints_num: int | None = None
    max_failures: int = 0


RUN_KEYS = tuple(item.name for item in fields(TunedExample) if item.name not in ("source", "name"))
WHOLE_NUMBERS = ("num_samples", "checkpoint_freq", "keep_checkpoints_num", "max_failures")


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
    try:
        text = locate(path).read_text(encoding="utf-8")
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: is not valid YAML: {_one_line(error)}") from error
    if not isinstance(document, dict) or len(document) != 1:
        keys = len(document) if isinstance(document, dict) else "no"
        raise ValueError(
            f"{source}: has {keys} top-level keys; a tuned example has one, the name of the "
            "experiment, with run, env, stop and config under it."
        )
    name, body = next(iter(document.items()))
    if not isinstance(body, dict):
        raise ValueError(f"{source}: {name} holds no keys. Write run, env, stop and config.")
    for override in overrides:
        _apply(override, body)
    return checked(source, str(name), body)


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
    nearest = _nearest(example.run, ALGORITHMS)
    raise ValueError(
        f"{example.source}: run={example.run!r} is not an algorithm{nearest}. "
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
    for _, variant in generate_variants(param_space(example)):
        yield variant


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
        storage: Folder of all runs.
        name: Folder of this run in `storage`; the example's name by default.
        callbacks: Tune callbacks of the driver.
        stopper: Takes the place of `example.stop`.
    """
    return tune.Tuner(
        algorithm_class(example),
        param_space=param_space(example),
        tune_config=tune.TuneConfig(
            num_samples=example.num_samples, trial_dirname_creator=_trial_folder
        ),
        run_config=tune.RunConfig(
            name=name or example.name,
            storage_path=str(Path(storage).resolve()),
            stop=stopper if stopper is not None else dict(example.stop),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=example.checkpoint_freq,
                checkpoint_at_end=True,
                num_to_keep=example.keep_checkpoints_num,
            ),
            failure_config=tune.FailureConfig(max_failures=example.max_failures),
            callbacks=list(callbacks),
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
                f"{source}: {name}.{key} is not a key of a tuned example{_nearest(key, RUN_KEYS)}. "
                f"Known: {', '.join(RUN_KEYS)}; keys of the algorithm stand under config."
            )
    for key in ("run", "stop"):
        if not body.get(key):
            raise ValueError(f"{source}: {name}.{key} is missing. {_MISSING[key]}")
    for key in ("stop", "config"):
        if not isinstance(body.get(key, {}), dict):
            raise ValueError(f"{source}: {name}.{key}={body[key]!r} is not a mapping of keys.")
    for key, value in body["stop"].items():
        _check_stop(source, key, value)
    for key in WHOLE_NUMBERS:
        value = body.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{source}: {name}.{key}={value!r} is not a whole number.")
    example = TunedExample(source=source, name=name, env=None, **_without(body, "env"))
    return replace(example, env=body.get("env"))


def _check_stop(source: str, key: str, value: object) -> None:
    if key not in STOP_KEYS and not str(key).startswith(STOP_SECTIONS):
        raise ValueError(
            f"{source}: stop.{key} is not a result that can end a run{_nearest(key, STOP_KEYS)}. "
            f"Known: {', '.join(STOP_KEYS)}, and paths such as evaluation/success_rate."
        )
    check_number(f"{source}: stop.{key}", value)


def check_number(where: str, value: object) -> None:
    """Refuses text where a number belongs; YAML reads `1e-6`, without a point, as text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return
    advice = "Write a number."
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            advice = f"Write {yaml_number(float(value))}."
        raise ValueError(f"{where}={value!r} is text. {advice}")
    raise ValueError(f"{where}={value!r} is not a number. {advice}")


def parse_override(override: str) -> tuple[str, Any]:
    """Key and value of a `KEY=VALUE` text, the value read as YAML."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"--set {override}: is not KEY=VALUE. Write --set lr=1.0e-6.")
    try:
        return key.strip(), yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        problem = _one_line(error)
        raise ValueError(f"--set {override}: the value is not YAML: {problem}") from error


def _apply(override: str, body: dict[str, Any]) -> None:
    """Writes one `KEY=VALUE` into the experiment; dotted keys reach into nested mappings."""
    key, value = parse_override(override)
    steps = key.split(".")
    path = steps if steps[0] in RUN_KEYS else ["config", *steps]
    target = body
    for step in path[:-1]:
        target = target.setdefault(step, {})
        if not isinstance(target, dict):
            raise ValueError(f"--set {override}: {step} holds one value, not keys.")
    target[path[-1]] = value


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key} is written twice", problem_mark=key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


_MISSING = {
    "run": "Name the algorithm, for example run: GRPO.",
    "stop": "Say when to end, for example stop: {training_iteration: 60}.",
}


def _nearest(name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def yaml_number(value: float) -> str:
    """A number as YAML 1.1 reads it: an exponent needs a decimal point before it."""
    text = repr(value)
    mantissa, separator, exponent = text.partition("e")
    return f"{mantissa}.0e{exponent}" if separator and "." not in mantissa else text


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{problem} (line {mark.line + 1})." if mark else " ".join(problem.split())


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}
