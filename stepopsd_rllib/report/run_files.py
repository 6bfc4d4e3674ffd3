"""Reads what a run leaves on disk: Tune's result.json and evaluation.jsonl of a trial folder.

A run folder (`Tuner`'s `storage_path/name`) holds one trial folder for every variant and sample.
In a trial folder, `result.json` has one JSON object a training iteration, and `evaluation.jsonl`
one for every episode of every evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepopsd_envs.text_files import is_blank, parse_json, read_lines

from stepopsd_rllib.evaluation import intervals
from stepopsd_rllib.evaluation.intervals import Estimate

RESULTS = "result.json"
EPISODES = "evaluation.jsonl"
DEFAULT_MODULE = "default_policy"
# Ends the status of an episode that broke and says nothing about the policy.
ERROR_STATUS = "_error"
_STATUS = "evaluation/status/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wins:
    """Successes among the episodes of one evaluation or of one task type in it."""

    won: int
    episodes: int
    score: Estimate | None = None
    """Mean of the task scores, where the environment grades."""

    @property
    def rate(self) -> float:
        """Share of episodes won; nan where none was played."""
        return self.won / self.episodes if self.episodes else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One pass over the fixed list of evaluation tasks.

    Attributes:
        iteration: Training iterations done when it was made; 0 is before any.
        total: Over all tasks.
        by_task_type: For each task type, in alphabetical order.
        errors: Episodes that broke and count nowhere else, by status.
    """

    iteration: int
    total: Wins
    by_task_type: Mapping[str, Wins]
    errors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What one trial folder says.

    Attributes:
        folder: The trial folder.
        config: The resolved config, as RLlib writes it into every result.
        results: One flat dict (keys joined by "/") a training iteration, in order.
        evaluations: Each evaluation once, in order.
    """

    folder: Path
    config: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Evaluation]

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Iterations and values of a result key, leaving out results that lack it."""
        found = [
            (float(row["training_iteration"]), float(row[key]))
            for row in self.results
            if isinstance(row.get(key), (int, float))
        ]
        return [iteration for iteration, _ in found], [value for _, value in found]

    def learner_series(self, key: str) -> tuple[list[float], list[float]]:
        """Iterations and values of a learner metric of the policy."""
        return self.series(f"learners/{DEFAULT_MODULE}/{key}")


def trial_folders(run: str | Path) -> list[Path]:
    """The trial folders of a run folder, or the folder itself if it is one."""
    folder = Path(run)
    if not folder.is_dir():
        raise ValueError(f"{run}: is not a folder. Name a run folder or a trial folder in it.")
    if (folder / RESULTS).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{RESULTS}"))
    if not found:
        raise ValueError(
            f"{run}: no {RESULTS} in it or one level below, so it is not a run folder."
        )
    return found


def read_trial(folder: str | Path) -> Trial:
    """Reads one trial folder. A last line cut short by a killed run is left out."""
    folder = Path(folder)
    rows = list(_json_lines(folder / RESULTS))
    return trial_of(folder, rows, read_episodes(folder) if (folder / EPISODES).is_file() else None)


def trial_of(
    folder: Path, rows: Sequence[Mapping[str, Any]], episodes: Sequence[Mapping[str, Any]] | None
) -> Trial:
    """A trial from the rows of its files; `episodes` is None where there is no evaluation.jsonl."""
    results = [flat_result(row) for row in rows]
    return Trial(
        folder=folder,
        # A trial that resumed from a checkpoint repeats iterations: the later one counts.
        results=list({row["training_iteration"]: row for row in results}.values()),
        config=rows[-1].get("config", {}) if rows else {},
        evaluations=_evaluations(results, episodes),
    )


def read_episodes(folder: str | Path) -> list[dict[str, Any]]:
    """Rows of evaluation.jsonl (iteration, split, task_id, task_type, won, return, turns …)."""
    return list(_json_lines(Path(folder) / EPISODES))


def _evaluations(
    results: Sequence[Mapping[str, Any]], episodes: Sequence[Mapping[str, Any]] | None
) -> list[Evaluation]:
    """From evaluation.jsonl, which has them all; from the results where that file is missing."""
    found: dict[int, Evaluation] = {}
    if episodes is not None:
        rows: dict[int, dict[str, Mapping[str, Any]]] = {}
        for row in episodes:  # a resumed trial repeats rows: the later one counts
            rows.setdefault(row["iteration"], {})[row["task_id"]] = row
        found = {
            iteration: _evaluation_of_rows(iteration, list(by_task.values()))
            for iteration, by_task in rows.items()
        }
    else:  # RLlib repeats an evaluation in later results; `evaluation/iteration` tells them apart
        for row in results:
            if "evaluation/num_episodes" in row:
                evaluation = evaluation_of(row)
                found[evaluation.iteration] = evaluation
    return [found[iteration] for iteration in sorted(found)]


def _evaluation_of_rows(iteration: int, rows: Sequence[Mapping[str, Any]]) -> Evaluation:
    outcomes = [row for row in rows if not row["status"].endswith(ERROR_STATUS)]
    by_type: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(outcomes, key=lambda row: row["task_type"]):
        by_type.setdefault(row["task_type"], []).append(row)
    return Evaluation(
        iteration=iteration,
        total=_wins_of_rows(outcomes),
        by_task_type={name: _wins_of_rows(found) for name, found in by_type.items()},
        errors=Counter(row["status"] for row in rows if row["status"].endswith(ERROR_STATUS)),
    )


def _wins_of_rows(rows: Sequence[Mapping[str, Any]]) -> Wins:
    scores = [row["task_score"] for row in rows if "task_score" in row]
    return Wins(
        won=sum(row["won"] for row in rows),
        episodes=len(rows),
        score=intervals.mean(scores) if scores else None,
    )


def evaluation_of(row: Mapping[str, Any]) -> Evaluation:
    """The evaluation in one result, nested as the algorithm returns it or flat."""
    row = flat_result(row)
    return Evaluation(
        iteration=int(row["evaluation/iteration"]),
        total=_wins(row, "evaluation"),
        by_task_type={name: _wins(row, f"evaluation/task_type/{name}") for name in _types(row)},
        errors={
            key.removeprefix(_STATUS): round(count)
            for key, count in row.items()
            if key.startswith(_STATUS) and key.endswith(ERROR_STATUS) and count
        },
    )


def _types(row: Mapping[str, Any]) -> list[str]:
    prefix, suffix = "evaluation/task_type/", "/num_episodes"
    return sorted(
        key[len(prefix) : -len(suffix)]
        for key in row
        if key.startswith(prefix) and key.endswith(suffix)
    )


def _wins(row: Mapping[str, Any], prefix: str) -> Wins:
    return Wins(
        won=round(row[f"{prefix}/num_wins"]),
        episodes=round(row[f"{prefix}/num_episodes"]),
        score=_score(row, prefix),
    )


def _score(row: Mapping[str, Any], prefix: str) -> Estimate | None:
    if f"{prefix}/task_score_low" not in row:
        return None
    mean, low, high = (row[f"{prefix}/task_score_{part}"] for part in ("mean", "low", "high"))
    return Estimate(value=mean, low=low, high=high)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file. The run has not reported anything yet.")
    refusal: ValueError | None = None
    for number, line in enumerate(read_lines(path, ValueError), start=1):
        if refusal is not None:
            raise refusal
        try:
            if not is_blank(line):
                yield parse_json(line, f"{path}:{number}")
        except ValueError as error:
            refusal = error  # the last line of a run that was killed, unless another follows


def flat_result(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts with their keys joined by "/"; the training config is left out."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "config":
            continue
        if isinstance(value, dict):
            flat |= flat_result(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
