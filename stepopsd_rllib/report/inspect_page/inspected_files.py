"""Run files as a page needs them: what can be read, and one sentence for each thing that cannot.

A page is made to look at a run that went wrong too, so nothing here raises but for a folder that is
no run at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepopsd_rllib.report.run_files import EPISODES, RESULTS, Trial, trial_of

ERRORS = "errors.jsonl"
SAMPLES = "credit.jsonl"
RUN_FILE = "run.json"
SCHEMAS = (1, 2, 3, 4)
"""Versions of the records of `credit.jsonl` that can be shown."""
LACKS = dict.fromkeys((1, 2), "no prompts and no entropies") | {3: "no entropies"}
"""What records of an older version do not have."""
SAMPLE_BYTES = 20 * 2**20
"""Most bytes of `credit.jsonl` on a page; of a larger one, samples evenly spaced over the run."""

_MARKS = (RESULTS, EPISODES, ERRORS, SAMPLES, "params.json")
_PARAMETERS = "params.json"
_SHOWN_KEYS = {
    EPISODES: ("iteration", "task_id", "task_type", "won", "return", "turns", "status"),
    RESULTS: ("training_iteration",),
}

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectedTrial:
    """What one trial folder has to show.

    Attributes:
        name: How the page calls it.
        trial: Results, config and evaluations.
        evaluation_rows: Rows of `evaluation.jsonl`.
        error_rows: Rows of `errors.jsonl`.
        samples: Records of `credit.jsonl`, in order.
        notes: What is missing or could not be read, a sentence each.
        asked: What `run.json` says of the trial: method, keys as written, source; or {}.
    """

    name: str
    trial: Trial
    evaluation_rows: list[Row] = field(default_factory=list)
    error_rows: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    asked: Row = field(default_factory=dict)


def inspected_folders(run: str | Path) -> list[Path]:
    """The trial folders of a run folder, also those that have not reported anything yet.

    Raises:
        ValueError: There is no run.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise ValueError(f"{run}: is not a folder. Name a run folder or a trial folder in it.")
    if _is_trial(folder):
        return [folder]
    found = sorted(path for path in folder.iterdir() if path.is_dir() and _is_trial(path))
    if not found:
        raise ValueError(
            f"{run}: none of {', '.join(_MARKS)} in it or one level below, so it is not a run "
            "folder. Name the folder that `stepopsd train` printed as its run folder."
        )
    return found


def read_inspected(folder: Path, name: str) -> InspectedTrial:
    """Reads all that can be read of a trial folder."""
    notes: list[str] = []
    results = _rows(folder / RESULTS, notes, "no iteration has ended yet")
    evaluations = _rows(folder / EPISODES, notes, "nothing was evaluated")
    trial = trial_of(folder, results, evaluations if (folder / EPISODES).is_file() else None)
    if not results:
        trial = Trial(
            folder=folder,
            config=_parameters(folder),
            results=[],
            evaluations=trial.evaluations,
        )
    return InspectedTrial(
        name=name,
        trial=trial,
        evaluation_rows=evaluations,
        error_rows=_rows(folder / ERRORS, notes, ""),
        samples=_samples(folder / SAMPLES, notes),
        notes=notes,
        asked=asked_of(folder),
    )


def asked_of(folder: Path) -> Row:
    """What the run folder's `run.json` says of one of its trials; {} where it says nothing."""
    try:
        run = json.loads((folder.parent / RUN_FILE).read_text(encoding="utf-8"))
        found = run["trials"][folder.name]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    is_known = isinstance(found, dict) and isinstance(found.get("config", {}), dict)
    return {"package": run.get("package", ""), **found} if is_known else {}


def _is_trial(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in _MARKS)


def _rows(path: Path, notes: list[str], if_missing: str) -> list[Row]:
    """The rows that can be shown; a note says what is missing."""
    rows: list[Row] = []
    unreadable = 0
    keys = _SHOWN_KEYS.get(path.name, ())

    def take(row: Any, size: int) -> None:
        del size
        nonlocal unreadable
        if isinstance(row, dict) and all(key in row for key in keys):
            rows.append(row)
        else:
            unreadable += 1

    found = _each_line(path, take)
    if not found:
        notes.extend([f"{path.name} is missing: {if_missing}."] if if_missing else [])
    elif isinstance(found, str):
        notes.append(f"{path.name} cannot be read: {found}.")
    if unreadable:
        notes.append(f"{path.name}: {_lines(unreadable)} cannot be read and not shown.")
    return rows


def _samples(path: Path, notes: list[str]) -> list[Row]:
    """The sampled episodes, thinned out evenly where a page could not hold them all."""
    sizes: dict[int, int] = {}
    unreadable, unknown = 0, set()

    def weigh(row: Any, size: int) -> None:
        nonlocal unreadable
        if not (isinstance(row, dict) and isinstance(row.get("turns"), list) and _update(row)):
            unreadable += 1
        elif row.get("schema", 1) not in SCHEMAS:
            unknown.add(row["schema"])
        else:
            sizes[_update(row)] = sizes.get(_update(row), 0) + size

    found = _each_line(path, weigh)
    if not found:
        notes.append(
            f"{path.name} is missing: no episode was sampled, so there is none to look at. "
            "credit_trace_interval=1 samples every update."
        )
    elif isinstance(found, str):
        notes.append(f"{path.name} cannot be read: {found}.")
    if unreadable:
        notes.append(f"{path.name}: {_lines(unreadable)} cannot be read and not shown.")
    if unknown:
        notes.append(
            f"{path.name}: records of schema {', '.join(map(str, sorted(unknown, key=str)))} are "
            f"newer than this version, which shows {SCHEMAS[0]} to {SCHEMAS[-1]}. Update "
            "stepopsd-rllib."
        )
    kept = _fitting(sizes)
    if len(kept) < len(sizes):
        notes.append(
            f"{path.name} has {sum(sizes.values()) / 2**20:.0f} MB: samples of {len(kept)} of "
            f"{len(sizes)} updates are on the page, evenly spaced."
        )
    samples: list[Row] = []

    def take(row: Any, size: int) -> None:
        del size
        if isinstance(row, dict) and row.get("schema", 1) in SCHEMAS and _update(row) in kept:
            samples.append(row)

    _each_line(path, take)
    old = {row.get("schema", 1) for row in samples} & set(LACKS)
    if old:
        notes.append(
            f"{path.name} is of an older version (schema {', '.join(map(str, sorted(old)))}): it "
            f"has {LACKS[min(old)]}, and the page shows less."
        )
    return samples


def _update(row: Mapping[str, Any]) -> int:
    value = row.get("update", row.get("iteration"))
    return value if isinstance(value, int) else 0


def _fitting(sizes: Mapping[int, int]) -> set[int]:
    """Updates whose samples fit on a page: all, or every second, third ... of them."""
    updates = sorted(sizes)
    for step in range(1, len(updates) + 1):
        kept = updates[::-1][::step]
        if sum(sizes[update] for update in kept) <= SAMPLE_BYTES:
            return set(kept)
    return set(updates[-1:])


def _each_line(path: Path, take: Callable[[Any, int], None]) -> bool | str:
    """Gives `take` each line's value, None for what is no JSON; False without a file."""
    try:
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    take(_value(line), len(line))
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.strerror or type(error).__name__
    return True


def _value(line: bytes) -> Any:
    try:
        return json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _parameters(folder: Path) -> Row:
    try:
        found = json.loads((folder / _PARAMETERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"
