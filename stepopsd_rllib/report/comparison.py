"""What a comparison says: success with bootstrap intervals, by task type, paired with a baseline.

A comparison is a run folder with one trial folder for each method and seed, `<method>_seed<n>`. The
unit of every interval is the evaluation task: its score is the mean over the seeds, so seeds are
repeated measurements of one task and not independent evidence; how far they lie apart is shown
beside it. The interquartile mean is over the success rates of task types and seeds (Agarwal et al.,
arXiv:2108.13264).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap, trim_mean

from stepopsd_rllib.report.run_files import (
    ERROR_STATUS,
    Trial,
    read_episodes,
    read_trial,
    trial_folders,
)
from stepopsd_rllib.report.tables import CONFIDENCE, aligned

SEED_MARK = "_seed"
RESAMPLES = 9999
QUARTILE = 0.25

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """All runs of one method.

    Attributes:
        name: Its label in the comparison.
        trials: By seed.
        wins: Last evaluation of each seed: task -> whether it was won.
        task_types: Task -> its type.
        iteration: Of the last evaluation; the earliest among the seeds.
    """

    name: str
    trials: Mapping[int, Trial]
    wins: Mapping[int, Mapping[str, bool]]
    task_types: Mapping[str, str]
    iteration: int

    def task_scores(self) -> dict[str, float]:
        """Task -> share of the seeds in which it was won; tasks that every seed finished."""
        shared = set.intersection(*(set(wins) for wins in self.wins.values()))
        return {
            task: float(np.mean([wins[task] for wins in self.wins.values()]))
            for task in sorted(shared)
        }

    def seed_rates(self) -> list[float]:
        """Success rate of each seed."""
        return [float(np.mean(list(wins.values()))) for wins in self.wins.values()]

    def type_rates(self) -> dict[str, list[float]]:
        """Task type -> success rate of each seed."""
        rates: dict[str, list[float]] = {}
        for wins in self.wins.values():
            by_type: dict[str, list[bool]] = {}
            for task, won in wins.items():
                by_type.setdefault(self.task_types[task], []).append(won)
            for name, found in sorted(by_type.items()):
                rates.setdefault(name, []).append(float(np.mean(found)))
        return rates


def trial_folder(method: str, seed: int) -> str:
    """Name of a trial folder of a comparison."""
    return f"{method}{SEED_MARK}{seed}"


def read_methods(run: str | Path) -> list[Method]:
    """The methods of a comparison's run folder, in the order of their names.

    Raises:
        ValueError: There is no comparison in the folder, or a run without an evaluation.
    """
    by_name: dict[str, dict[int, Path]] = {}
    for folder in trial_folders(run):
        name, mark, seed = folder.name.rpartition(SEED_MARK)
        if mark and seed.isdigit():
            by_name.setdefault(name, {})[int(seed)] = folder
    if not by_name:
        raise ValueError(f"{run}: no folders <method>{SEED_MARK}<n>, so it is no comparison.")
    return [_method(name, folders) for name, folders in sorted(by_name.items())]


def bootstrap_interval(values: Sequence[float]) -> Interval:
    """95 % percentile bootstrap interval of a mean; the mean itself where nothing varies."""
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2 or np.ptp(sample) == 0:
        mean = float(sample.mean()) if len(sample) else float("nan")
        return mean, mean
    found = bootstrap(
        (sample,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=0,
    ).confidence_interval
    return float(found.low), float(found.high)


def comparison_table(methods: Sequence[Method], baseline: str | None) -> str:
    """One line a method: success, seeds, interquartile mean, difference from the baseline."""
    base = next((method for method in methods if method.name == baseline), None)
    header = ["method", "iteration", "success, 95 %", "seeds", "IQM"]
    rows = [[*_summary(method), *_paired_cells(method, base)] for method in methods]
    if base is not None:
        header += [f"minus {base.name}, paired", "tasks better : worse"]
    return _columns([header, *rows])


def type_table(methods: Sequence[Method]) -> str:
    """Success by task type, mean over seeds, one column a method."""
    rates = [method.type_rates() for method in methods]
    types = sorted({name for found in rates for name in found})
    rows = [
        [name, *(f"{np.mean(found[name]):.1%}" if name in found else "-" for found in rates)]
        for name in types
    ]
    return _columns([["task type", *(method.name for method in methods)], *rows])


def paired_difference(method: Method, base: Method) -> tuple[float, Interval, int, int]:
    """Mean difference of the task scores on the tasks both have, its interval, better and worse."""
    ours, theirs = method.task_scores(), base.task_scores()
    differences = [ours[task] - theirs[task] for task in ours if task in theirs]
    if not differences:
        raise ValueError(
            f"{method.name} and {base.name} have no evaluation task in common. Give both the same "
            "eval_split and eval_num_tasks."
        )
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return float(np.mean(differences)), bootstrap_interval(differences), better, worse


def interquartile_mean(method: Method) -> float:
    """Mean of the middle half of the success rates of all task types and seeds."""
    return float(
        trim_mean([rate for found in method.type_rates().values() for rate in found], QUARTILE)
    )


def _summary(method: Method) -> list[str]:
    scores = list(method.task_scores().values())
    low, high = bootstrap_interval(scores)
    rates = method.seed_rates()
    return [
        method.name,
        str(method.iteration),
        f"{np.mean(scores):.1%} [{low:.1%}, {high:.1%}]",
        f"{len(rates)}: {min(rates):.1%} to {max(rates):.1%}",
        f"{interquartile_mean(method):.1%}",
    ]


def _paired_cells(method: Method, base: Method | None) -> list[str]:
    if base is None:
        return []
    if method is base:
        return ["", ""]
    mean, (low, high), better, worse = paired_difference(method, base)
    return [f"{mean:+.1%} [{low:+.1%}, {high:+.1%}]", f"{better} : {worse}"]


def _method(name: str, folders: Mapping[int, Path]) -> Method:
    wins: dict[int, dict[str, bool]] = {}
    task_types: dict[str, str] = {}
    iterations: list[int] = []
    for seed, folder in sorted(folders.items()):
        rows = _last_evaluation(folder)
        iterations.append(rows[0]["iteration"])
        wins[seed] = {row["task_id"]: bool(row["won"]) for row in rows}
        task_types |= {row["task_id"]: row["task_type"] for row in rows}
    return Method(
        name=name,
        trials={seed: read_trial(folder) for seed, folder in sorted(folders.items())},
        wins=wins,
        task_types=task_types,
        iteration=min(iterations),
    )


def _last_evaluation(folder: Path) -> list[dict[str, Any]]:
    """Rows of the last evaluation that ended as an outcome of the policy, one a task."""
    rows = read_episodes(folder)
    last = max((row["iteration"] for row in rows), default=None)
    kept = {
        row["task_id"]: row
        for row in rows
        if row["iteration"] == last and not row["status"].endswith(ERROR_STATUS)
    }
    if not kept:
        raise ValueError(f"{folder}: no evaluation in it. Set evaluation_interval in the base.")
    return list(kept.values())


def _columns(rows: list[list[str]]) -> str:
    lines = aligned(rows).splitlines()
    rule = lines[1]
    return "\n".join(line for i, line in enumerate(lines) if line != rule or i == 1)
