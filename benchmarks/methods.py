"""Every method on every environment with the embedded models, each in its own process.

    python benchmarks/methods.py [--iterations 20] [--environments search_qa_tiny]
                                 [--only sdar opid] [--jobs 2] [--output FILE]

Trains each tuned example and prints what it costs and what became of it: processor time a turn that
was played, relative to GRPO (the median over the second half of the iterations, in which ADRS's
reward acts, too; an iteration's number of turns changes as a policy learns), the ratio of whole
iterations, and success and task score in training in the first and the last iterations. Processes
that share a core inflate each other's processor time: give all of them the same company (`--jobs`),
and no other. All diagnostics of all iterations go to the output, one JSON object a line; a loss or
gradient that is not finite ends the run.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

EXAMPLES = Path("tuned_examples")
ENVIRONMENTS = ("alfworld_tiny", "search_qa_tiny", "webshop_tiny")
NOT_A_METHOD = ("compare",)
LEFT_OUT = ("_window", "_as_coded")
"""Other protocols, and other values of the same keys."""
RESULT = "RESULT "
MUST_BE_FINITE = ("total_loss", "policy_loss", "gradient_norm")
SHOWN_ITERATIONS = 5
"""At the beginning and at the end of a run, whose training success is averaged."""


def examples(only: list[str], environments: Sequence[str]) -> list[Path]:
    """GRPO's files, then those of the other methods, the environments in turn."""
    found = [
        path
        for env in environments
        for path in sorted(EXAMPLES.glob(f"*/{env}*.yaml"))
        if path.parent.name not in NOT_A_METHOD and not path.stem.endswith(LEFT_OUT)
    ]
    kept = [path for path in found if not only or path.parent.name in (*only, "grpo")]
    return sorted(kept, key=lambda path: (path.parent.name != "grpo", path.parent.name))


def run_one(file: str, iterations: int) -> None:
    """Trains in this process; prints processor seconds and results of every iteration."""
    import ray

    from stepopsd_rllib.commands import tuned

    (config,) = tuned.configs(tuned.read(file, ["evaluation_interval="]))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    algorithm = config.build_algo()
    rows = []
    for _ in range(iterations):
        started = time.process_time()
        results = algorithm.train()
        learner, sampled = results["learners"]["default_policy"], results["env_runners"]
        rows.append(
            {
                "seconds": time.process_time() - started,
                "success_rate": sampled["success_rate"],
                "task_score_mean": sampled.get("task_score_mean"),
                "turns": sampled["num_episodes"] * sampled["turns_mean"],
                # The mean of nothing is nan: a method that had nothing to score says so.
                **{k: v for k, v in learner.items() if isinstance(v, float | int) and v == v},
            }
        )
    algorithm.stop()
    ray.shutdown()
    print(RESULT + json.dumps(rows))


def run_apart(path: Path, iterations: int) -> list[dict[str, Any]]:
    """`run_one` in a process of its own, so that no method inherits another's memory."""
    command = [sys.executable, __file__, "--one", str(path), "--iterations", str(iterations)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not lines:
        raise RuntimeError(f"{path} failed:\n{done.stderr[-2000:]}")
    return json.loads(lines[-1].removeprefix(RESULT))


def name_of(path: Path) -> tuple[str, str]:
    """Method, with the variant of its file, and environment."""
    env = next(env for env in ENVIRONMENTS if path.stem.startswith(env))
    variant = path.stem.removeprefix(env).lstrip("_")
    return f"{path.parent.name} {variant}".strip(), env


def measure(path: Path, iterations: int) -> list[dict[str, Any]]:
    """Trains one example; refuses a loss or gradient that is not finite."""
    rows = run_apart(path, iterations)
    for number, row in enumerate(rows, start=1):
        broken = [key for key in MUST_BE_FINITE if not math.isfinite(row.get(key, math.nan))]
        if broken:
            raise RuntimeError(f"{path}, iteration {number}: {broken} not finite")
    return rows


def line(path: Path, rows: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    """A row of the table."""

    def ratio(value: Callable[[dict[str, Any]], float]) -> float:
        own, others = ([value(row) for row in found[len(found) // 2 :]] for found in (rows, base))
        return statistics.median(own) / statistics.median(others)

    method, env = name_of(path)
    success, score = (_first_and_last(rows, key) for key in ("success_rate", "task_score_mean"))
    by_turn = ratio(lambda row: row["seconds"] / row["turns"])
    whole = ratio(lambda row: row["seconds"])
    return f"| {method} | {env} | {by_turn:.2f} | {whole:.2f} | {success} | {score} |"


def _first_and_last(rows: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows]
    if None in values:  # the environment does not grade
        return "-"
    ends = (values[:SHOWN_ITERATIONS], values[-SHOWN_ITERATIONS:])
    return " to ".join(f"{statistics.fmean(part):.1%}" for part in ends)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--environments", nargs="*", choices=ENVIRONMENTS, default=ENVIRONMENTS)
    parser.add_argument("--only", nargs="*", default=[], help="folders; GRPO is always run")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--output", type=Path, default=Path("methods.jsonl"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options.one, options.iterations)
        return
    print("| method | environment | a turn | an iteration | success | task score |")
    print("|---|---|--:|--:|--:|--:|", flush=True)
    paths = examples(options.only, options.environments)
    base: dict[str, list[dict[str, Any]]] = {}
    with ThreadPoolExecutor(options.jobs) as pool, options.output.open("w") as output:
        # Results in the order of the examples, so that GRPO's are there first.
        measured = pool.map(lambda path: measure(path, options.iterations), paths)
        for path, rows in zip(paths, measured, strict=True):
            method, env = name_of(path)
            base.setdefault(env, rows)
            print(line(path, rows, base[env]), flush=True)
            for number, row in enumerate(rows, start=1):
                head = {"method": method, "environment": env, "iteration": number}
                output.write(json.dumps(head | row) + "\n")


if __name__ == "__main__":
    main()
