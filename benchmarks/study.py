"""The record of a study: one line a trial, from run folders that are too large to publish.

    python benchmarks/study.py RUN [RUN ...] > docs/results/study/search_qa_tiny.jsonl

A line has what the tables of `stepopsd compare RUN ...` are made from, in sums: evaluations by
iteration, compute, learning rate; and the SHA-256 of the trial's `result.json` and
`evaluation.jsonl`, which have each task's outcome. The same command on the same versions plays the
same episodes; times differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

from stepopsd_rllib.report.comparison import read_methods
from stepopsd_rllib.report.equal_compute import COMPUTES, compute_used
from stepopsd_rllib.report.protocol import RUN_FILE, planned_trial

HASHED = ("result.json", "evaluation.jsonl")


def records(*folders: Path) -> list[dict[str, object]]:
    """One record a finished trial, in the order of methods and seeds."""
    methods, _ = read_methods(*folders)
    found = []
    for method in methods:
        for seed, trial in sorted(method.trials.items()):
            plan = planned_trial(trial.folder)
            last = max(compute_used(trial, "tokens"))
            found.append(
                {
                    "method": method.name,
                    "seed": seed,
                    "run": plan["run"],
                    "learning_rate": plan["config"]["lr"],
                    "model": plan["model"],
                    "tasks": plan["tasks"],
                    "won": {each.iteration: each.total.won for each in trial.evaluations},
                    "of": trial.evaluations[-1].total.episodes,
                    **{each: round(compute_used(trial, each)[last], 1) for each in COMPUTES},
                    "sha256": {
                        name: hashlib.sha256((trial.folder / name).read_bytes()).hexdigest()
                        for name in HASHED
                    },
                }
            )
    return found


def main() -> None:
    """Writes the records of the folders named on the command line to standard output."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help=f"folders with a {RUN_FILE}")
    for record in records(*parser.parse_args().runs):
        json.dump(record, sys.stdout)
        print()


if __name__ == "__main__":
    main()
