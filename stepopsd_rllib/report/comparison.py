"""What a comparison says: success with bootstrap intervals, by task type, paired with a baseline.

A comparison is a run folder with one trial folder for each method and seed, `<method>_seed<n>`.
Intervals are percentile intervals of a bootstrap that draws seeds and evaluation tasks anew, each
with replacement: a method's success varies with the run as well as with the tasks. A difference is
taken within a seed and a task first, as both methods start from the same model, see the same
training tasks and are evaluated on the same ones. Three seeds know little of the spread between
runs, so the intervals are rather too narrow. The interquartile mean is over the success rates of
task types and seeds (Agarwal et al., arXiv:2108.13264). Where the environment grades tasks, a
second table says the same of their scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap, trim_mean

from stepopsd_rllib.evaluation.intervals import CONFIDENCE
from stepopsd_rllib.report.run_files import (
    EPISODES,
    ERROR_STATUS,
    Trial,
    read_episodes,
    read_trial,
    trial_folders,
)
from stepopsd_rllib.report.tables import aligned

SEED_MARK = "_seed"
RESAMPLES = 9999
QUARTILE = 0.25
_ROUNDING = 1e-9  # of a mean of scores: equal ones must not count as better
_BY_TYPE = {"success": "task type", "task score": "task score"}

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """All runs of one method.

    Attributes:
        name: Label of the method in the comparison.
        trials: By seed.
        outcomes: Last evaluation of each seed: task -> 1 where it was won, else 0.
        task_scores: The same with the environment's grades, 0 to 1; empty where it gives none.
        task_types: Task -> its type.
        iterations: Iterations of the last evaluation of the seeds, sorted; equal where all ended.
    """

    name: str
    trials: Mapping[int, Trial]
    outcomes: Mapping[int, Mapping[str, float]]
    task_scores: Mapping[int, Mapping[str, float]]
    task_types: Mapping[str, str]
    iterations: Sequence[int]

    def graded(self) -> Method | None:
        """The same runs with task scores for outcomes; None if the environment gives none."""
        return replace(self, outcomes=self.task_scores) if self.task_scores else None

    def scores(self, seeds: Sequence[int], tasks: Sequence[str]) -> np.ndarray:
        """The outcome of each task with each seed, float [seeds, tasks]."""
        return np.array(
            [[self.outcomes[seed][task] for task in tasks] for seed in seeds], dtype=float
        )

    def tasks(self) -> list[str]:
        """Tasks that every seed finished, sorted."""
        return sorted(set.intersection(*(set(found) for found in self.outcomes.values())))

    def seed_rates(self) -> list[float]:
        """Success rate, or mean score, of each seed."""
        return [float(np.mean(list(found.values()))) for found in self.outcomes.values()]

    def type_rates(self) -> dict[str, list[float]]:
        """Task type -> success rate, or mean score, of each seed."""
        rates: dict[str, list[float]] = {}
        for outcomes in self.outcomes.values():
            by_type: dict[str, list[float]] = {}
            for task, outcome in outcomes.items():
                by_type.setdefault(self.task_types[task], []).append(outcome)
            for name, found in sorted(by_type.items()):
                rates.setdefault(name, []).append(float(np.mean(found)))
        return rates


def trial_folder(method: str, seed: int) -> str:
    """Name of a trial folder of a comparison."""
    return f"{method}{SEED_MARK}{seed}"


def read_methods(*runs: str | Path) -> tuple[list[Method], list[str]]:
    """The methods of a comparison's run folder, or of several that are its parts.

    Returns:
        The methods in the order of their names, and the names of trials that never finished an
        evaluation and are left out.

    Raises:
        ValueError: There is no comparison in the folders, none of its trials was evaluated, or two
            folders have the same trial.
    """
    by_name: dict[str, dict[int, Path]] = {}
    left_out: list[str] = []
    for folder in (folder for run in runs for folder in trial_folders(run)):
        name, mark, seed = folder.name.rpartition(SEED_MARK)
        if not (mark and seed.isdigit()):
            continue
        if not _last_evaluation(folder):
            left_out.append(folder.name)
            continue
        found = by_name.setdefault(name, {})
        if int(seed) in found:
            raise ValueError(
                f"{folder}: {found[int(seed)]} is the same trial of another folder. Leave one out."
            )
        found[int(seed)] = folder
    if not by_name:
        raise ValueError(
            f"{', '.join(map(str, runs))}: no evaluated trial in folders <method>{SEED_MARK}<n>, "
            "so there is nothing to compare. Set evaluation_interval in the base."
        )
    return [_method(name, folders) for name, folders in sorted(by_name.items())], left_out


def method_at(method: Method, iterations: Mapping[int, int]) -> Method:
    """The method as it was evaluated after fewer iterations, given for each seed."""
    folders = {seed: method.trials[seed].folder for seed in iterations}
    return _method(method.name, folders, iterations)


def bootstrap_means(scores_SM: np.ndarray) -> np.ndarray:
    """Means under resampled seeds and resampled tasks, drawn independently of each other.

    Args:
        scores_SM: Float [seeds, tasks], at least one of each.

    Returns:
        Float [resamples].
    """
    num_seeds, num_tasks = scores_SM.shape
    # scipy refuses a sample of one, which says the same twice.
    seeds = np.arange(num_seeds) if num_seeds > 1 else np.zeros(2, dtype=int)
    tasks = np.arange(num_tasks) if num_tasks > 1 else np.zeros(2, dtype=int)
    return bootstrap(
        (seeds, tasks),
        lambda drawn_seeds, drawn_tasks: scores_SM[np.ix_(drawn_seeds, drawn_tasks)].mean(),
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=0,
    ).bootstrap_distribution


def bootstrap_interval(scores_SM: np.ndarray) -> Interval:
    """95 % percentile interval of the mean under resampled seeds and resampled tasks.

    Args:
        scores_SM: Float [seeds, tasks].

    Returns:
        Low and high end; the mean itself where nothing varies.
    """
    if scores_SM.size == 0 or np.ptp(scores_SM) == 0:
        mean = float(scores_SM.mean()) if scores_SM.size else float("nan")
        return mean, mean
    return percentile_interval(bootstrap_means(scores_SM))


def percentile_interval(means: np.ndarray) -> Interval:
    """The middle 95 % of resampled means."""
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def comparison_table(methods: Sequence[Method], baseline: str | None) -> str:
    """One line a method: success, seeds, interquartile mean, difference from the baseline.

    Graded tasks have a second table, of their scores.
    """
    return _of_both(methods, lambda shown, name: _comparison_table(shown, baseline, name))


def type_table(methods: Sequence[Method]) -> str:
    """Success, and scores, by task type or data source, with intervals; one column a method."""
    return _of_both(methods, _type_table)


def _of_both(methods: Sequence[Method], table: Callable[[Sequence[Method], str], str]) -> str:
    graded = [found for method in methods if (found := method.graded()) is not None]
    tables = [table(methods, "success"), *([table(graded, "task score")] if graded else [])]
    return "\n\n".join(tables)


def _comparison_table(methods: Sequence[Method], baseline: str | None, outcome: str) -> str:
    base = next((method for method in methods if method.name == baseline), None)
    header = ["method", "iteration", f"{outcome}, 95 %", "seeds", "IQM"]
    rows = [[*_summary(method), *_paired_cells(method, base)] for method in methods]
    if base is not None:
        header += [f"minus {base.name}, paired", "tasks better : worse"]
    return columns([header, *rows])


def _type_table(methods: Sequence[Method], outcome: str) -> str:
    types = sorted({kind for method in methods for kind in method.task_types.values()})
    rows = [[kind, *(_type_cell(method, kind) for method in methods)] for kind in types]
    if len(types) > 1:
        means = [np.mean([np.mean(found) for found in m.type_rates().values()]) for m in methods]
        rows.append(["mean of the above", *(f"{mean:.1%}" for mean in means)])
    return columns([[_BY_TYPE[outcome], *(method.name for method in methods)], *rows])


def paired_scores(method: Method, base: Method) -> np.ndarray:
    """Differences on the seeds and tasks both have, float [seeds, tasks].

    Raises:
        ValueError: They have no seed, or no task, in common.
    """
    seeds = sorted(set(method.outcomes) & set(base.outcomes))
    tasks = sorted(set(method.tasks()) & set(base.tasks()))
    if not seeds or not tasks:
        raise ValueError(
            f"{method.name} and {base.name} have no seed, or no evaluation task, in common. Give "
            "both the same seeds, eval_split and eval_num_tasks."
        )
    return method.scores(seeds, tasks) - base.scores(seeds, tasks)


def paired_difference(method: Method, base: Method) -> tuple[float, Interval, int, int]:
    """Mean difference, its interval, tasks better and worse; see `paired_scores`."""
    differences_SM = paired_scores(method, base)
    by_task = differences_SM.mean(axis=0)
    interval = bootstrap_interval(differences_SM)
    return (
        float(differences_SM.mean()),
        interval,
        int((by_task > _ROUNDING).sum()),
        int((by_task < -_ROUNDING).sum()),
    )


def interquartile_mean(method: Method) -> float:
    """Mean of the middle half of the success rates of all task types and seeds."""
    return float(
        trim_mean([rate for found in method.type_rates().values() for rate in found], QUARTILE)
    )


def _summary(method: Method) -> list[str]:
    rates = method.seed_rates()
    return [
        method.name,
        " to ".join(str(at) for at in dict.fromkeys((method.iterations[0], method.iterations[-1]))),
        _mean_cell(method.scores(list(method.outcomes), method.tasks())),
        f"{len(rates)}: {min(rates):.1%} to {max(rates):.1%}",
        f"{interquartile_mean(method):.1%}",
    ]


def _type_cell(method: Method, kind: str) -> str:
    tasks = [task for task in method.tasks() if method.task_types[task] == kind]
    return _mean_cell(method.scores(list(method.outcomes), tasks)) if tasks else "-"


def _mean_cell(scores_SM: np.ndarray) -> str:
    low, high = bootstrap_interval(scores_SM)
    return f"{scores_SM.mean():.1%} [{low:.1%}, {high:.1%}]"


def _paired_cells(method: Method, base: Method | None) -> list[str]:
    if base is None:
        return []
    if method is base:
        return ["", ""]
    mean, (low, high), better, worse = paired_difference(method, base)
    return [f"{mean:+.1%} [{low:+.1%}, {high:+.1%}]", f"{better} : {worse}"]


def _method(name: str, folders: Mapping[int, Path], at: Mapping[int, int] | None = None) -> Method:
    outcomes: dict[int, dict[str, float]] = {}
    task_scores: dict[int, dict[str, float]] = {}
    task_types: dict[str, str] = {}
    iterations: list[int] = []
    for seed, folder in sorted(folders.items()):
        rows = _last_evaluation(folder, at[seed] if at else None)
        iterations.append(rows[0]["iteration"])
        outcomes[seed] = {row["task_id"]: float(row["won"]) for row in rows}
        if all("task_score" in row for row in rows):
            task_scores[seed] = {row["task_id"]: float(row["task_score"]) for row in rows}
        task_types |= {row["task_id"]: row["task_type"] for row in rows}
    return Method(
        name=name,
        trials={seed: read_trial(folder) for seed, folder in sorted(folders.items())},
        outcomes=outcomes,
        task_scores=task_scores if len(task_scores) == len(outcomes) else {},
        task_types=task_types,
        iterations=sorted(iterations),
    )


def _last_evaluation(folder: Path, at: int | None = None) -> list[dict[str, Any]]:
    """One row a task that ended as an outcome of the policy; of the last evaluation by default."""
    rows = read_episodes(folder) if (folder / EPISODES).is_file() else []
    last = max((row["iteration"] for row in rows), default=None) if at is None else at
    kept = {
        row["task_id"]: row
        for row in rows
        if row["iteration"] == last and not row["status"].endswith(ERROR_STATUS)
    }
    return list(kept.values())


def columns(rows: list[list[str]]) -> str:
    """Rows as text in columns; the first row is the header, and no row is a sum."""
    lines = aligned(rows).splitlines()
    rule = lines[1]
    return "\n".join(line for i, line in enumerate(lines) if line != rule or i == 1)
