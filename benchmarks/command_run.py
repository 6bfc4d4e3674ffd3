"""Runs of `stepopsd train` in processes of their own, and what they ended with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import Cost

ROOT = Path(__file__).parents[1]
HANG_S = 1200.0
DYNAMIC = "GRPO with dynamic sampling"
RUNS = {
    "GRPO": ("grpo/alfworld_tiny.yaml", ()),
    DYNAMIC: (
        "grpo/alfworld_tiny.yaml",
        ("dynamic_sampling=true", "dynamic_sampling_rounds=2"),
    ),
    "StepOPSD with a stale teacher": (
        "stepopsd/alfworld_tiny.yaml",
        # The sampler's own log-probs hang, in their last digits, on which requests it batched.
        ("teacher_refresh_interval=3", "student_log_probs=recomputed"),
    ),
}
SETTINGS = (
    "groups_per_step=2",
    "group_size=4",
    "evaluation_interval=4",
    "eval_num_tasks=4",
    "sampler=transformers",
    "checkpoint_freq=1",
    "env_config.max_turns=12",
    "entropy_coeff=0.01",  # groups of one return move the weights, too
)


@dataclass
class Command:
    """A run of `stepopsd train` in a folder of its own.

    Attributes:
        folder: Holds the log and the storage.
        example: A tuned example of this repository.
        settings: `KEY=VALUE` texts; of two for a key the later one holds.
        storage: Where the run folder goes.
        ray: Address of the Ray that it joins; "local" for one of its own.
    """

    folder: Path
    example: str
    settings: tuple[str, ...]
    storage: Path
    ray: str = "local"

    def start(self, name: str, *, resume: bool = False) -> subprocess.Popen:
        """Begins a run of that name, or goes on with it."""
        words = ["--resume", str(self.storage / name)]
        if not resume:
            last = {text.partition("=")[0]: text for text in self.settings}
            keys = [word for text in last.values() for word in ("--set", text)]
            example = str(ROOT / "tuned_examples" / self.example)
            words = [example, *keys, "--storage", str(self.storage), "--name", name]
        environment = {"PYTHONPATH": f"{ROOT / 'envs'}:{ROOT}", "RAY_ADDRESS": self.ray}
        with (self.folder / "log").open("a") as log:
            command = [sys.executable, "-m", "stepopsd_cli", "train", *words]
            return subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)

    def log(self) -> str:
        """What was printed so far."""
        return (self.folder / "log").read_text()

    def wait_for(self, text: str, process: subprocess.Popen, times: int = 1) -> None:
        """Until a text stands so often in the log, or the process has ended."""
        end = time.monotonic() + HANG_S
        while self.log().count(text) < times and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)

    def checkpoints(self, name: str) -> list[Path]:
        """Of a run of one trial, oldest first."""
        return sorted((self.storage / name).glob("*/checkpoint_[0-9]*"))

    def results(self, name: str) -> list[dict[str, Any]]:
        """Of a run of one trial."""
        (file,) = (self.storage / name).glob("*/result.json")
        return [json.loads(line) for line in file.read_text().splitlines()]

    def outcome(self, name: str) -> dict[str, Any]:
        """What a run ended with."""
        *_, last = self.checkpoints(name)
        (evaluations,) = (self.storage / name).glob("*/evaluation.jsonl")
        results = self.results(name)
        return {
            "weights": (last / "model/model.safetensors").read_bytes(),
            "evaluations": evaluations.read_text(),
            "iterations": [row["training_iteration"] for row in results],
            "lifetime": dict(_lifetime(results[-1])),
        }


def _lifetime(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Counts over the whole run, by name; not those of seconds."""
    for key, value in result.items():
        if isinstance(value, Mapping):
            yield from _lifetime(value, f"{prefix}{key}/")
        elif "lifetime" in key and "throughput" not in key:
            yield f"{prefix}{key}", value


def ended(process: subprocess.Popen, cost: Cost) -> int:
    """The exit status; a command that does not end is a hang and is killed."""
    try:
        return process.wait(HANG_S)
    except subprocess.TimeoutExpired:
        cost.hangs += 1
        process.kill()
        return process.wait()
