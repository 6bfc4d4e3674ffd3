"""`run.json` of a run folder: what was asked for, so that a run goes on without its YAML file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepopsd_rllib.commands import tuned
from stepopsd_rllib.commands.storage import Storage
from stepopsd_rllib.models.hub import pinned
from stepopsd_rllib.training.agent_config import AgentConfig
from stepopsd_rllib.training.checkpoint_files import FORMAT, package_version, small_files
from stepopsd_rllib.training.checkpointed_algorithm import require_known_version

RUN_FILE = "run.json"
TRAIN, COMPARE = "train", "compare"
_EDGE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTrial:
    """One trial of a run.

    Attributes:
        folder: Name of its folder in the run folder.
        label: What its lines begin with where there are several.
        example: What it runs; no grid, one sample.
        model: Fingerprint of the model that it begins with, or "".
        tasks: Fingerprint of its task lists, or "" where they were not looked at.
        restarts: How often it lost a process, or failed, and went on from a checkpoint.
    """

    folder: str
    label: str
    example: tuned.TunedExample
    model: str = ""
    tasks: str = ""
    restarts: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as it was asked for.

    Attributes:
        kind: `TRAIN` or `COMPARE`.
        trials: Trials in Tune's order.
        baseline: Baseline of a comparison.
        max_concurrent: Trials at a time; 0 is as many as fit.
        package: Version of this package that began the run.
        plan: What a comparison planned, of which this run may be a part.
    """

    kind: str
    trials: Sequence[PlannedTrial]
    baseline: str | None = None
    max_concurrent: int = 0
    package: str = field(default_factory=package_version)
    plan: Mapping[str, Any] = field(default_factory=dict)

    @property
    def example(self) -> tuned.TunedExample:
        """What all trials share: source, stop, checkpoints."""
        return self.trials[0].example


def planned(example: tuned.TunedExample, tasks: Sequence[str]) -> list[PlannedTrial]:
    """A trial for every sample of every variant of an example's grid.

    Args:
        example: With its grid.
        tasks: Fingerprints of the variants' task lists; see `preflight`.
    """
    variants = list(tuned.variants(example))
    varying = [k for k in variants[0] if any(v.get(k) != variants[0].get(k) for v in variants)]
    name = tuned.algorithm_class(example).__name__
    trials = []
    for number in range(example.num_samples * len(variants)):
        variant = dict(variants[number % len(variants)])
        for key in ("model", "language_model"):
            if isinstance(variant.get(key), str):  # a name of the hub may mean another one later
                variant[key] = pinned(variant[key])
        env = variant.pop("env", None)
        one = dataclasses.replace(example, config=variant, env=env, num_samples=1)
        label = " ".join(f"{key}={variant[key]}" for key in varying if key in variant)
        trials.append(
            PlannedTrial(
                folder=f"{name}_{number:05d}",
                label=label or f"{number:05d}",
                example=one,
                model=model_fingerprint(tuned.configs(one)[0]),
                tasks=tasks[number % len(variants)],
            )
        )
    return trials


def write(storage: Storage, name: str, run: Run) -> None:
    """Writes `run.json` into a run folder.

    Raises:
        ValueError: It cannot be written there.
    """
    trials = {
        trial.folder: {
            "label": trial.label,
            "model": trial.model,
            "tasks": trial.tasks,
            "restarts": trial.restarts,
            **dataclasses.asdict(trial.example),
        }
        for trial in run.trials
    }
    content = {
        "format": FORMAT,
        "package": run.package,
        "kind": run.kind,
        "baseline": run.baseline,
        "max_concurrent": run.max_concurrent,
        "plan": run.plan,
        "trials": trials,
    }
    where = posixpath.join(storage.path, name, RUN_FILE)
    try:
        with storage.filesystem.open_output_stream(where) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise ValueError(f"--storage {storage.location}: cannot be written ({reason}).") from error


def parse(content: bytes, where: str) -> Run:
    """Reads what `write` wrote.

    Args:
        content: Content of the file.
        where: The run folder, for messages.

    Raises:
        ValueError: It is damaged, or a newer version wrote it.
    """
    try:
        found = json.loads(content)
        require_known_version(where, str(found["package"]))
        trials = []
        for folder, entry in found["trials"].items():
            own = {key: entry.pop(key) for key in ("label", "model", "tasks")}
            own["restarts"] = entry.pop("restarts", 0)  # runs before 0.2 have none
            entry["log_to"] = entry.get("log_to") or ()  # JSON has no tuples
            example = tuned.TunedExample(**entry)
            trials.append(PlannedTrial(folder=folder, example=example, **own))
        return Run(
            kind=found["kind"],
            trials=trials,
            baseline=found["baseline"],
            max_concurrent=found["max_concurrent"],
            package=found["package"],
            plan=found.get("plan", {}),
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: its {RUN_FILE} is damaged, so it cannot go on.") from error


def model_fingerprint(config: Any) -> str:
    """Names the content of a config's model: small files whole, weights by size and both ends."""
    if not isinstance(config, AgentConfig):
        return ""
    folder = Path(config.model_path())
    small = small_files(folder)
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name in small and file.suffix in (".json", ".jinja", ".txt", ".model"):
            digest.update(file.name.encode() + small[file.name])
        elif file.is_file() and file.name.endswith((".safetensors", ".bin")):
            digest.update(f"{file.name}{file.stat().st_size}".encode() + _ends(file))
    return digest.hexdigest()[:16]


def _ends(file: Path) -> bytes:
    with file.open("rb") as content:
        first = content.read(_EDGE_BYTES)
        content.seek(max(0, file.stat().st_size - _EDGE_BYTES))
        return first + content.read()


def tasks_fingerprint(*lists: Sequence[str]) -> str:
    """Names the content of task lists."""
    return hashlib.sha256(json.dumps(lists).encode()).hexdigest()[:16]


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether JSON holds a config without loss."""
    try:
        return json.loads(json.dumps(config)) == config
    except (TypeError, ValueError):
        return False
