"""Parts of one comparison, run apart: what is finished, what is missing, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepopsd_envs.text_files import read_json

from stepopsd_rllib.report.comparison import Method, trial_folder
from stepopsd_rllib.report.protocol import RUN_FILE

_ITERATIONS = "training_iteration"


def one_plan(folders: Sequence[Path]) -> Mapping[str, Any]:
    """The plan that run folders are parts of; {} where they know of none.

    Raises:
        ValueError: They are parts of two plans.
    """
    first: tuple[Path, Mapping[str, Any]] | None = None
    for folder in folders:
        plan = _run_file(folder).get("plan", {})
        if first is not None and plan.get("file") != first[1].get("file"):
            raise ValueError(
                f"{folder}: is a part of another comparison than {first[0]}: their files differ. "
                "Show each by itself."
            )
        first = first or (folder, plan)
    return first[1] if first else {}


def finished(
    methods: Sequence[Method], unevaluated: Sequence[str], *, folders: Sequence[Path]
) -> tuple[list[Method], list[str]]:
    """The runs that came to their end.

    Args:
        methods: As read.
        unevaluated: Trials without an evaluation.
        folders: The run folders.

    Returns:
        Methods with their finished runs, and a line for every trial that is left out.
    """
    notes = [f"{name} has no evaluation" for name in unevaluated]
    stops = {
        name: trial.get("stop", {}).get(_ITERATIONS)
        for folder in folders
        for name, trial in _run_file(folder).get("trials", {}).items()
    }
    kept = []
    for method in methods:
        ended = {}
        for seed, trial in method.trials.items():
            at, stop = trial.evaluations[-1].iteration, stops.get(trial.folder.name)
            if stop is None or at >= stop:
                ended[seed] = trial
            else:
                notes.append(f"{trial.folder.name} is unfinished ({at} of {stop} iterations)")
        if ended:
            iterations = sorted(trial.evaluations[-1].iteration for trial in ended.values())
            kept.append(
                replace(
                    method,
                    trials=ended,
                    outcomes={seed: method.outcomes[seed] for seed in ended},
                    task_scores={s: found for s, found in method.task_scores.items() if s in ended},
                    iterations=iterations,
                )
            )
    return kept, notes


def missing(plan: Mapping[str, Any], methods: Sequence[Method]) -> list[str]:
    """A line that names what the plan has and the folders have not; [] for the whole."""
    have = {trial_folder(method.name, seed) for method in methods for seed in method.trials}
    planned = [
        trial_folder(label, seed)
        for label in plan.get("methods", ())
        for seed in plan.get("seeds", ())
    ]
    lacking = [name for name in planned if name not in have]
    if not lacking:
        return []
    return [
        f"{len(lacking)} of {len(planned)} planned trials are not in these folders, so this is a "
        f"part of the comparison: {', '.join(lacking)}"
    ]


def _run_file(folder: Path) -> Mapping[str, Any]:
    file = folder / RUN_FILE
    return read_json(file) if file.is_file() else {}
