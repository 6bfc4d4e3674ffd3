"""Every method on tiny ALFWorld and Search-QA with the embedded models, each in its own process.

    python benchmarks/methods.py cost [--iterations 6] [--only sdar opid]
    python benchmarks/methods.py train [--iterations 20] [--output FILE.jsonl]

`cost` compares processor time of an iteration with GRPO's. The learning rate is 0, so that all
methods but those that change the prompts sample the same episodes: what differs is what a method
adds. Processor time, which other load on the machine hardly changes; runner and learner share the
process, the first iteration is left out, and updates with an old snapshot as teacher are among the
others.

`train` trains with the examples' own learning rate and prints what each method says of itself in
its last iteration; all diagnostics of all iterations go to the output, one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EXAMPLES = Path("tuned_examples")
ENVIRONMENTS = ("alfworld_tiny", "search_qa_tiny")
NOT_A_METHOD = ("compare",)
RESULT = "RESULT "
# Settings that begin to act late in their examples act from the start here.
COST_OVERRIDES = {"adrs": ["first_update=1"]}


def examples(only: list[str]) -> list[Path]:
    """GRPO's two files, then those of the other methods; window protocols and sweeps left out."""
    found = [
        path
        for env in ENVIRONMENTS
        for path in sorted(EXAMPLES.glob(f"*/{env}*.yaml"))
        if path.parent.name not in NOT_A_METHOD and "window" not in path.stem
    ]
    kept = [path for path in found if not only or path.parent.name in (*only, "grpo")]
    return sorted(kept, key=lambda path: path.parent.name != "grpo")


def run_one(file: str, overrides: list[str], iterations: int) -> None:
    """Trains in this process; prints processor seconds and results of every iteration."""
    import ray

    from stepopsd_rllib import tuned

    (config,) = tuned.configs(tuned.read(file, ["evaluation_interval=", *overrides]))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm = config.build_algo()
    rows = []
    for _ in range(iterations):
        started = time.process_time()
        results = algorithm.train()
        learner = results["learners"]["default_policy"]
        rows.append(
            {
                "seconds": time.process_time() - started,
                "success_rate": results["env_runners"]["success_rate"],
                **{k: v for k, v in learner.items() if isinstance(v, float | int)},
            }
        )
    algorithm.stop()
    ray.shutdown()
    print(RESULT + json.dumps(rows))


def run_apart(path: Path, overrides: list[str], iterations: int) -> list[dict[str, Any]]:
    """`run_one` in a process of its own, so that no method inherits another's memory."""
    command = [sys.executable, __file__, "one", str(path), "--iterations", str(iterations)]
    done = subprocess.run([*command, *overrides], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not lines:
        raise RuntimeError(f"{path} failed:\n{done.stderr[-2000:]}")
    return json.loads(lines[-1].removeprefix(RESULT))


def name_of(path: Path) -> tuple[str, str]:
    """Method, with the variant of its file, and environment."""
    env = next(env for env in ENVIRONMENTS if path.stem.startswith(env))
    variant = path.stem.removeprefix(env).lstrip("_")
    return f"{path.parent.name} {variant}".strip(), env


def cost(options: argparse.Namespace) -> None:
    base: dict[str, float] = {}
    print("| method | environment | processor seconds | relative to GRPO |\n|---|---|--:|--:|")
    for path in examples(options.only):
        method, env = name_of(path)
        overrides = ["lr=0.0", *COST_OVERRIDES.get(path.parent.name, [])]
        rows = run_apart(path, overrides, options.iterations)
        seconds = statistics.median(row["seconds"] for row in rows[1:])
        base.setdefault(env, seconds)
        print(f"| {method} | {env} | {seconds:.2f} | {seconds / base[env]:.2f} |", flush=True)


def train(options: argparse.Namespace) -> None:
    with options.output.open("w", encoding="utf-8") as output:
        for path in examples(options.only):
            method, env = name_of(path)
            rows = run_apart(path, [], options.iterations)
            for number, row in enumerate(rows, start=1):
                broken = [k for k, v in row.items() if not math.isfinite(v)]
                if broken:
                    raise RuntimeError(
                        f"{path}: iteration {number}: {', '.join(broken)} not finite"
                    )
                line = {"method": method, "environment": env, "iteration": number} | row
                output.write(json.dumps(line) + "\n")
            shown = ("policy_loss", "distillation_loss", "effect_size", "gap_std", "gate_mean")
            last = {k: f"{rows[-1][k]:.3g}" for k in shown if k in rows[-1]}
            rates = [row["success_rate"] for row in rows]
            early, late = statistics.fmean(rates[:5]), statistics.fmean(rates[-5:])
            print(
                f"{method:32} {env:16} training success, first and last 5 iterations: "
                f"{early:.1%} -> {late:.1%}  {last}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command")
    for name, run, iterations in (("cost", cost, 6), ("train", train, 20)):
        command = commands.add_parser(name)
        command.add_argument("--iterations", type=int, default=iterations)
        command.add_argument("--only", nargs="*", default=[], help="folders; GRPO is always run")
        command.set_defaults(run=run)
    commands.choices["train"].add_argument("--output", type=Path, default=Path("methods.jsonl"))
    one = commands.add_parser("one")
    one.add_argument("file")
    one.add_argument("overrides", nargs="*")
    one.add_argument("--iterations", type=int, required=True)
    options = parser.parse_args()
    if options.command == "one":
        run_one(options.file, options.overrides, options.iterations)
    else:
        options.run(options)


if __name__ == "__main__":
    main()
