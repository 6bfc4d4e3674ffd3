"""Faults of whole commands: a run killed, its learner killed, its storage full or locked.

    python benchmarks/faulty_commands.py --driver-kills 20 --others 5 --save costs.json

Every run is on tiny houses; what a run of `--resume` ends with is compared with one that nothing
happened to, byte for byte. Faults of the storage need a small file system in memory, which only the
superuser can mount.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks.faults import Cost, table

ROOT = Path(__file__).parents[1]
RUNS = {
    "GRPO, dynamic sampling": (
        "grpo/alfworld_tiny.yaml",
        ("dynamic_sampling=true", "dynamic_sampling_rounds=2"),
    ),
    "StepOPSD, stale teacher": (
        "stepopsd/alfworld_tiny.yaml",
        ("teacher_refresh_interval=5",),
    ),
}
SETTINGS = (
    "groups_per_step=2",
    "group_size=4",
    "evaluation_interval=10",
    "eval_num_tasks=4",
    "sampler=transformers",
    "checkpoint_freq=1",
    "env_config.max_turns=6",
)
STORAGE_BYTES = 96 * 2**20
HANG_S = 600.0
LEARNER = "_WrappedExecutable"  # title of the process of a learner, as RLlib starts it


@dataclass
class Command:
    """A run of `stepopsd train` in a folder of its own.

    Attributes:
        folder: Holds the log and the storage.
        example: A tuned example of this repository.
        settings: `KEY=VALUE` texts.
        storage: Where the run folder goes.
    """

    folder: Path
    example: str
    settings: tuple[str, ...]
    storage: Path

    def start(self, name: str, *, resume: bool = False) -> subprocess.Popen:
        """Begins a run of that name, or goes on with it."""
        words = ["--resume", str(self.storage / name)]
        if not resume:
            keys = [word for text in self.settings for word in ("--set", text)]
            example = str(ROOT / "tuned_examples" / self.example)
            words = [example, *keys, "--storage", str(self.storage), "--name", name]
        environment = {"PYTHONPATH": f"{ROOT / 'envs'}:{ROOT}", "RAY_ADDRESS": "local"}
        with (self.folder / "log").open("a") as log:
            command = [sys.executable, "-m", "stepopsd_cli", "train", *words]
            return subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)

    def log(self) -> str:
        """What was printed so far."""
        return (self.folder / "log").read_text()

    def wait_for(self, text: str, process: subprocess.Popen) -> None:
        """Until a text stands in the log, or the process has ended."""
        end = time.monotonic() + HANG_S
        while text not in self.log() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)

    def checkpoints(self, name: str) -> list[Path]:
        """Of a run of one trial, oldest first."""
        return sorted((self.storage / name).glob("*/checkpoint_[0-9]*"))

    def outcome(self, name: str) -> tuple[bytes, str]:
        """Last weights, and every evaluation."""
        last = self.checkpoints(name)[-1]
        (evaluations,) = (self.storage / name).glob("*/evaluation.jsonl")
        return (last / "model/model.safetensors").read_bytes(), evaluations.read_text()


def kill_driver(kind: str, kills: int, iterations: int, cost: Cost, folder: Path) -> None:
    """Kills the driver at random moments, goes on each time, and compares the end."""
    example, more = RUNS[kind]
    stop = f"stop.training_iteration={iterations}"
    command = Command(folder, example, (*SETTINGS, *more, stop), folder / "runs")
    assert _ended(command.start("whole"), cost) == 0, command.log()
    is_cut, killed = False, 0
    while True:
        began = time.monotonic()
        process = command.start("cut", resume=is_cut)
        moment = random.uniform(2.0, 25.0) if killed < kills else HANG_S
        try:
            code = process.wait(moment)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
            cost.seconds.append(time.monotonic() - began)
            print(f"  {kind}: killed after {moment:.1f} s, {_iteration(command)}", flush=True)
        is_cut = (command.storage / "cut/run.json").exists()
    same = code == 0 and command.outcome("cut") == command.outcome("whole")
    cost.injected += killed
    cost.told += killed
    cost.survived += killed * same
    cost.wrong_weights += not same
    print(f"  {kind}: {killed} kills, final weights and evaluations equal: {same}", flush=True)


def kill_process(title: str, shape: str, cost: Cost, folder: Path) -> None:
    """Kills the trial's learner or the trial itself once; the command goes on by itself."""
    example, more = RUNS["GRPO, dynamic sampling"]
    settings = (*SETTINGS, *more, "stop.training_iteration=10", shape)
    command = Command(folder, example, settings, folder / "runs")
    process = command.start("cut")
    command.wait_for(f"iteration {random.randint(1, 3):2d}/", process)
    began = time.monotonic()
    time.sleep(random.uniform(0.0, 2.0))
    children = psutil.Process(process.pid).children(recursive=True)
    victims = [child for child in children if title in " ".join(_command_line(child))]
    random.choice(victims).kill()
    code = _ended(process, cost)
    cost.injected += 1
    cost.told += "lost a process and goes on" in command.log()
    cost.survived += code == 0
    cost.seconds.append(time.monotonic() - began)


def fill_disk(while_: str, cost: Cost, folder: Path) -> None:
    """Fills a small disk while a run writes to it, or locks it; makes room, and goes on."""
    example, more = RUNS["GRPO, dynamic sampling"]
    with small_disk(folder / "disk") as disk:
        frequency = "checkpoint_freq=2" if while_ == "checkpoints" else "checkpoint_freq=3"
        settings = (*SETTINGS, *more, "stop.training_iteration=6", frequency)
        command = Command(folder, example, settings, disk)
        process = command.start("cut")
        command.wait_for("iteration 1/" if while_ != "results" else "checkpoint_", process)
        began = time.monotonic()
        filler = disk / "filler"
        if while_ == "locked":
            _mount("-o", f"remount,ro,size={STORAGE_BYTES}", str(disk))
        else:
            _fill(filler, leave=2**20 if while_ == "checkpoints" else 0)
        code = _ended(process, cost)
        if while_ == "locked":
            _mount("-o", f"remount,rw,size={STORAGE_BYTES}", str(disk))
        filler.unlink(missing_ok=True)
        last = command.log().splitlines()[-1] if command.log() else ""
        cost.injected += 1
        cost.told += code in (1, 2) and "Traceback" not in command.log() and "stepopsd" in last
        print(f"  {while_}: exit {code}, {last}", flush=True)
        again = _ended(command.start("cut", resume=True), cost)
        whole = command.start("whole")
        same = _ended(whole, cost) == 0 and command.outcome("cut") == command.outcome("whole")
        cost.survived += again == 0
        cost.wrong_weights += not same
        cost.seconds.append(time.monotonic() - began)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of `STORAGE_BYTES` in memory."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={STORAGE_BYTES}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _fill(file: Path, leave: int) -> None:
    free = os.statvfs(file.parent)
    size = max(0, free.f_bavail * free.f_frsize - leave)
    with file.open("wb") as content:
        os.posix_fallocate(content.fileno(), 0, size)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _iteration(command: Command) -> str:
    lines = [line for line in command.log().splitlines() if line.startswith("iteration")]
    return " ".join(lines[-1].split()[:2]) if lines else "no iteration yet"


def _ended(process: subprocess.Popen, cost: Cost) -> int:
    """The exit status; a command that does not end is a hang and is killed."""
    try:
        return process.wait(HANG_S)
    except subprocess.TimeoutExpired:
        cost.hangs += 1
        process.send_signal(signal.SIGKILL)
        return process.wait()


def main() -> None:
    """Runs the faults and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver-kills", type=int, default=20, help="of each of two runs")
    parser.add_argument("--iterations", type=int, default=60, help="of these two runs")
    parser.add_argument("--others", type=int, default=1, help="of each other kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", help="only those that contain one of these texts")
    parser.add_argument("--save", type=Path, help="file for the costs, as JSON")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    kinds: list[tuple[str, Callable[[Cost, Path], None]]] = []
    if arguments.driver_kills:
        limits = arguments.driver_kills, arguments.iterations
        kinds += [
            (f"kill -9 of the driver, then --resume ({run})", partial(kill_driver, run, *limits))
            for run in RUNS
        ]
    for _ in range(arguments.others):
        kinds += [
            ("kill -9 of the learner", partial(kill_process, LEARNER, "num_learners=1")),
            ("kill -9 of one of two learners", partial(kill_process, LEARNER, "num_learners=2")),
            ("kill -9 of the trial", partial(kill_process, "ray::GRPO", "num_learners=0")),
            ("disk full while checkpointing", partial(fill_disk, "checkpoints")),
            ("disk full while writing results", partial(fill_disk, "results")),
            ("storage becomes read-only", partial(fill_disk, "locked")),
        ]
    costs: dict[str, Cost] = defaultdict(Cost)
    for name, strike in kinds:
        if arguments.kinds and not any(text in name for text in arguments.kinds):
            continue
        with tempfile.TemporaryDirectory() as folder:
            strike(costs[name], Path(folder))
        print(f"{name}: {asdict(costs[name])}", flush=True)
    if arguments.save:
        saved = {kind: asdict(cost) for kind, cost in costs.items()}
        arguments.save.write_text(json.dumps(saved, indent=1) + "\n")
    print(table(costs))


if __name__ == "__main__":
    main()
