"""Faults of whole commands: a run killed, its learner killed, its storage full or locked.

    python benchmarks/faulty_commands.py --driver-kills 20 --others 5 --save costs.json

Every run is on tiny houses; what a run of `--resume` ends with is compared with one that nothing
happened to: weights byte for byte, evaluations, iterations and lifetime counts. Faults of the
storage need a small file system in memory, which only the superuser can mount.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import psutil

from benchmarks.command_run import DYNAMIC, RUNS, SETTINGS, Command, ended
from benchmarks.faults import Cost, table

STORAGE_BYTES = 96 * 2**20
LOADED = "loaded:"  # printed when a trial begins to train
LEFT_S = 120.0  # longest that Ray may take to end after its driver
LEARNER = "_WrappedExecutable"  # title of the process of a learner, as RLlib starts it


def kill_driver(kind: str, kills: int, iterations: int, ray: str, cost: Cost, folder: Path) -> None:
    """Kills the driver at random moments, goes on each time, and compares the end."""
    example, more = RUNS[kind]
    stop = f"stop.training_iteration={iterations}"
    command = Command(folder, example, (*SETTINGS, *more, stop), folder / "runs", ray)
    began, process = time.monotonic(), command.start("whole")
    command.wait_for(LOADED, process)
    start_s = time.monotonic() - began
    assert ended(process, cost) == 0, command.log()
    weights = [(c / "model/model.safetensors").read_bytes() for c in command.checkpoints("whole")]
    assert len(set(weights)) == len(weights) > 1, "weights that never move would always be equal"
    is_cut, killed = False, 0
    process = command.start("cut")
    while killed < kills:
        where = _wait_for_a_moment(command, process, start_s)
        if process.poll() is not None:  # it was quicker
            break
        _kill(process)
        killed += 1
        print(f"  {kind}: killed {where}, {_newest(command)}", flush=True)
        is_cut = (command.storage / "cut/run.json").exists()
        began, iterations = time.monotonic(), command.log().count("\niteration")
        process = command.start("cut", resume=is_cut)
        if killed == kills:
            command.wait_for("\niteration", process, iterations + 1)
            cost.seconds.append(time.monotonic() - began)
    assert ended(process, cost) == 0, command.log()
    cut, whole = command.outcome("cut"), command.outcome("whole")
    other = [name for name in whole if cut[name] != whole[name]]
    cost.injected += killed
    cost.told += killed
    cost.survived += killed * (not other)
    cost.wrong_weights += "weights" in other
    print(f"  {kind}: {killed} kills, what differs at the end: {other or 'nothing'}", flush=True)
    for name in other:
        if name != "weights":
            print(f"  {name}: {cut[name]}\n  not {whole[name]}", flush=True)


def _wait_for_a_moment(command: Command, process: subprocess.Popen, start_s: float) -> str:
    """Waits for a random moment: of the start, of an iteration, or of a checkpoint's writing."""
    log = command.log()
    starts, iterations = log.count(LOADED), log.count("\niteration")
    aim = random.choices(("starting", "iterating", "writing"), (2, 6, 2))[0]
    if aim == "starting":
        time.sleep(random.uniform(0.0, start_s))
        return "while starting"
    command.wait_for(LOADED, process, starts + 1)
    if aim == "iterating":
        command.wait_for("\niteration", process, iterations + random.randint(1, 2))
        time.sleep(random.uniform(0.0, 1.5 * _seconds(command)))
        return "in an iteration"
    while process.poll() is None and not list(command.storage.glob("cut/*/checkpoint.partial")):
        time.sleep(0.002)
    time.sleep(random.uniform(0.0, 0.2))
    return "while a checkpoint was written"


def _seconds(command: Command) -> float:
    """Of the last iteration that was printed, such as "... entropy 0.36  2.9 s  0:00 left"."""
    found = re.findall(r"\niteration.* (\d+\.\d) s", command.log())
    return float(found[-1])


def _kill(process: subprocess.Popen) -> None:
    """Kills a command as the kernel would, and waits until a Ray of its own has noticed."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(family, timeout=LEFT_S)
    assert not left, f"processes outlive their driver by {LEFT_S:g} s: {left}"


def kill_process(title: str, shape: str, cost: Cost, folder: Path) -> None:
    """Kills the trial's learner or the trial itself once; the command goes on by itself."""
    example, more = RUNS[DYNAMIC]
    settings = (*SETTINGS, *more, "stop.training_iteration=10", shape)
    command = Command(folder, example, settings, folder / "runs")
    process = command.start("cut")
    command.wait_for(f"iteration {random.randint(1, 3):2d}/", process)
    began = time.monotonic()
    time.sleep(random.uniform(0.0, 2.0))
    children = psutil.Process(process.pid).children(recursive=True)
    victims = [child for child in children if title in " ".join(_command_line(child))]
    random.choice(victims).kill()
    code = ended(process, cost)
    cost.injected += 1
    cost.told += "lost a process and goes on" in command.log()
    cost.survived += code == 0
    if code:
        print(command.log()[-2000:], flush=True)
    cost.seconds.append(time.monotonic() - began)


def fill_disk(while_: str, cost: Cost, folder: Path) -> None:
    """Fills a small disk while a run writes to it, or locks it; makes room, and goes on."""
    example, more = RUNS[DYNAMIC]
    with small_disk(folder / "disk") as disk:
        frequency = "checkpoint_freq=2" if while_ == "checkpoints" else "checkpoint_freq=3"
        settings = (*SETTINGS, *more, "stop.training_iteration=6", frequency)
        command = Command(folder, example, settings, disk)
        process = command.start("cut")
        command.wait_for("iteration 1/" if while_ != "results" else "checkpoint_", process)
        began = time.monotonic()
        filler = disk / "filler"
        if while_ == "locked":
            # Over the path, for files that are open to be written keep a mount from being locked.
            _mount("--bind", str(disk), str(disk))
            _mount("-o", "remount,bind,ro", str(disk))
        else:
            _fill(filler, leave=2**20 if while_ == "checkpoints" else 0)
        code = ended(process, cost)
        if while_ == "locked":
            subprocess.run(["umount", "-l", str(disk)], check=True)
        filler.unlink(missing_ok=True)
        last = command.log().splitlines()[-1] if command.log() else ""
        cost.injected += 1
        is_told = code in (1, 2) and "Traceback" not in command.log() and "stepopsd" in last
        cost.told += is_told
        print(f"  {while_}: exit {code}, {last if is_told else command.log()}", flush=True)
        again = ended(command.start("cut", resume=True), cost)
        whole = command.start("whole")
        same = ended(whole, cost) == 0 and command.outcome("cut") == command.outcome("whole")
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


def _newest(command: Command) -> str:
    return next((found.name for found in reversed(command.checkpoints("cut"))), "no checkpoint")


def main() -> None:
    """Runs the faults and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver-kills", type=int, default=20, help="of three runs together")
    parser.add_argument("--iterations", type=int, default=12, help="of these three runs")
    parser.add_argument("--ray", default="local", help="address of a Ray that killed runs join")
    parser.add_argument("--others", type=int, default=1, help="of each other kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", help="only those that contain one of these texts")
    parser.add_argument("--save", type=Path, help="file for the costs, as JSON")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    kinds: list[tuple[str, Callable[[Cost, Path], None]]] = []
    if arguments.driver_kills:
        for number, run in enumerate(RUNS):
            kills = (arguments.driver_kills + number) // len(RUNS)
            strike = partial(kill_driver, run, kills, arguments.iterations, arguments.ray)
            kinds.append((f"kill -9 of the driver, then --resume ({run})", strike))
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
