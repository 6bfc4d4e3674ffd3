"""Trains for a thousand iterations and writes down what the process holds: memory, files, threads.

    python benchmarks/endurance.py --iterations 1000 --out build/endurance
    ALFWORLD_DATA=/data python benchmarks/endurance.py --official --iterations 888

The run is the smallest there is (GRPO, two groups of two on tiny houses), so that iterations are
many. With `--official` every group plays an official game that no group played before.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import psutil
import ray

from stepopsd_rllib import GRPO, GRPOConfig

COLUMNS = ("megabytes", "files", "threads")
_BARE = {"think": "off", "instructions": False, "show_admissible_commands": False}


def config(*, official: bool, num_runners: int) -> GRPOConfig:
    """GRPO on the embedded model, with as little work an iteration as makes one."""
    env_config = {"data": "official"} if official else {"size": "tiny"}
    made = GRPOConfig().environment(
        "stepopsd/ALFWorld-v0", env_config={**_BARE, **env_config, "max_turns": 2}
    )
    made.agent(
        model="tiny",
        sampler="transformers",
        group_size=2,
        groups_per_step=4 if official else 2,
        max_response_tokens=4,
        max_context_tokens=1024 if official else 512,
        eval_num_tasks=1,
    )
    made.training(lr=1e-6, kl_coeff=0.0, entropy_coeff=0.01)
    return made.env_runners(num_env_runners=num_runners)


def held(processes: Sequence[psutil.Process]) -> dict[str, float]:
    """Megabytes that belong to processes alone, open files and threads, summed over them."""
    return {
        "megabytes": sum(p.memory_full_info().uss for p in processes) / 1e6,
        "files": sum(p.num_fds() for p in processes),
        "threads": sum(p.num_threads() for p in processes),
    }


def run(
    *, iterations: int, minutes: float, every: int, official: bool, num_runners: int, file: Path
) -> list[dict[str, Any]]:
    """Trains, and measures every so many iterations; each row is written to the file at once."""
    algorithm = GRPO(config=config(official=official, num_runners=num_runners))
    group = algorithm.env_runner_group
    pids: list[int] = group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)
    watched = {"driver": [psutil.Process()]}
    if pids:
        watched["runners"] = [psutil.Process(pid) for pid in pids]
    rows, began = [], time.perf_counter()
    with file.open("w", buffering=1) as lines:
        for iteration in range(1, iterations + 1):
            algorithm.train()
            seconds = time.perf_counter() - began
            if iteration % every == 0:
                for name, processes in watched.items():
                    row = {"process": name, "iteration": iteration, "seconds": seconds}
                    rows.append(row | held(processes))
                    lines.write(json.dumps(rows[-1]) + "\n")
            if iteration % 100 == 0:
                print(json.dumps(rows[-1]), flush=True)
            if seconds > 60 * minutes:
                break
    algorithm.stop()
    return rows


def growth(rows: Sequence[dict[str, Any]]) -> str:
    """A table: the first tenth after a warm-up of a tenth, the last tenth, growth between them."""
    lines = [
        "| process | what | iterations | first | last | a 1,000 iterations |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for process in dict.fromkeys(row["process"] for row in rows):
        own = [row for row in rows if row["process"] == process]
        tenth = max(1, len(own) // 10)
        early, late = own[tenth : 2 * tenth], own[-tenth:]
        span = statistics.mean(r["iteration"] for r in late) - statistics.mean(
            r["iteration"] for r in early
        )
        for column in COLUMNS:
            first, last = (statistics.mean(r[column] for r in part) for part in (early, late))
            rate = (last - first) / span * 1000
            done = own[-1]["iteration"]
            lines.append(
                f"| {process} | {column} | {done} | {first:.1f} | {last:.1f} | {rate:+.1f} |"
            )
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """A picture a column, a line a process."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(COLUMNS), figsize=(11, 3))
    for axis, column in zip(axes, COLUMNS, strict=True):
        for process in dict.fromkeys(row["process"] for row in rows):
            own = [row for row in rows if row["process"] == process]
            axis.plot([r["iteration"] for r in own], [r[column] for r in own], label=process)
        axis.set(title=column, xlabel="iteration", ylim=(0, None))
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    """Trains, writes `<out>.jsonl` and `<out>.svg`, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so many")
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--runners", type=int, default=0)
    parser.add_argument("--official", action="store_true", help="games of ALFWORLD_DATA")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir(), "endurance"))
    arguments = parser.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = run(
        iterations=arguments.iterations,
        minutes=arguments.minutes,
        every=arguments.every,
        official=arguments.official,
        num_runners=arguments.runners,
        file=arguments.out.with_suffix(".jsonl"),
    )
    draw(rows, arguments.out.with_suffix(".svg"))
    print(growth(rows))


if __name__ == "__main__":
    main()
