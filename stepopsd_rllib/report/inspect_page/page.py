"""The page itself: facts, curves and episodes of one or several runs put into one HTML file.

What a model wrote is data here and never markup: it stands in `<script type="application/json">`
blocks, in which no character can end the block, and the page's own script writes it as text nodes.
The page's security policy allows that one script and nothing from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stepopsd_rllib.report.comparison import bootstrap_interval
from stepopsd_rllib.report.inspect_page import charts, overview
from stepopsd_rllib.report.inspect_page.inspected_files import (
    InspectedTrial,
    inspected_folders,
    read_inspected,
)

PAGE = "inspect.html"
_PACKAGE = "stepopsd_rllib.report.inspect_page"
PRESENT = 20
"""Most trials on a page: beyond, colours and columns cannot be told apart."""

# Within a script block, only these could end it or begin another; U+2028 and U+2029 end lines.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
_SCRIPTS = ("values.js", "views.js", "episode.js", "main.js")


def write_page(runs: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Writes the page of a run, or of several to compare.

    Args:
        runs: Run folders or trial folders.
        output: The file; `inspect.html` in the first run folder by default, or a page of its name
            in the current folder where nothing can be written there.

    Returns:
        The file written.

    Raises:
        ValueError: A folder is no run, or the file cannot be written.
    """
    html = page_of(runs)
    path = Path(output) if output is not None else Path(runs[0]) / PAGE
    if output is None and not os.access(path.parent, os.W_OK):  # read-only storage
        path = Path.cwd() / f"{path.parent.resolve().name}.html"
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be written ({error.strerror}). Name another place: --output FILE."
        ) from error
    return path


def page_of(runs: Sequence[str | Path]) -> str:
    """The page as text.

    Raises:
        ValueError: A folder is no run.
    """
    folders = [(Path(run), folder) for run in runs for folder in inspected_folders(run)]
    names = _names(folders, len(runs))
    trials = [
        read_inspected(folder, name)
        for (_, folder), name in zip(folders[:PRESENT], names, strict=False)
    ]
    if len(folders) > PRESENT:
        trials[0].notes.append(
            f"{len(folders)} trials: the first {PRESENT} are shown. Name trial folders to choose."
        )
    script = "\n".join(_source(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(str(resources.files(_PACKAGE) / "templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=" and ".join(Path(run).resolve().name for run in runs),
        trials=[_facts(trial, i) for i, trial in enumerate(trials)],
        panels=overview.panels(trials),
        types=overview.type_rows(trials),
        configs=overview.config_rows(trials),
        pairs=[_pair(trials[0], other) for other in trials[1:]],
        first=trials[0].name,
        training_colour=charts.COLOURS[overview.TRAINING_STYLE],
        style=Markup(_source("style.css")),  # our own files, not a run's
        script=Markup(script),
        digest=digest,
        data=_data_blocks(trials),
    )


def json_block(value: Any) -> Markup:
    """JSON that stands in a script block whatever texts are in it."""
    return Markup(json.dumps(_finite(value), separators=(",", ":")).translate(_ESCAPES))


def _data_blocks(trials: Sequence[InspectedTrial]) -> Iterable[tuple[str, Markup]]:
    """The index of all episodes, then each sampled episode by itself: read when it is looked at."""
    index: dict[str, Any] = {
        "trials": [trial.name for trial in trials],
        "colours": charts.COLOURS,
        "episodes": [],
    }
    blocks: list[tuple[str, Markup]] = []
    for i, trial in enumerate(trials):
        for sample in trial.samples:
            blocks.append((f"e{len(index['episodes'])}", json_block(sample)))
            index["episodes"].append(_entry(i, "sample", sample))
    for i, trial in enumerate(trials):
        index["episodes"] += [_entry(i, "evaluation", row) for row in trial.evaluation_rows]
    return [("index", json_block(index)), *blocks]


def _entry(trial: int, source: str, row: dict[str, Any]) -> dict[str, Any]:
    turns = row.get("turns", 0)
    listed = turns if isinstance(turns, list) else []
    return {
        "trial": trial,
        "source": source,
        "update": row.get("update", row.get("iteration", 0)),
        "group": row.get("group"),
        "rollout": row.get("rollout"),
        "task": str(row.get("task_id", "")),
        "type": str(row.get("task_type", "")),
        "status": str(row.get("status", "")),
        "won": bool(row.get("won", row.get("status") == "success")),
        "return": _number(row.get("return")),
        "score": _number(row.get("task_score")),
        "turns": len(listed) if isinstance(turns, list) else turns,
        "tokens": sum(len(turn.get("tokens", ())) for turn in listed) if listed else None,
        "invalid": sum(turn.get("is_action_valid") is False for turn in listed) if listed else None,
    }


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) else None


def _facts(inspected: InspectedTrial, number: int) -> dict[str, Any]:
    return {
        "name": inspected.name,
        "folder": str(inspected.trial.folder),
        "colour": charts.COLOURS[number % len(charts.COLOURS)],
        "headline": overview.headline(inspected),
        "notes": inspected.notes,
        "errors": overview.errors_by_name(inspected),
        "written": overview.written_rows(inspected),
        "source": str(inspected.asked.get("source", "")),
        "time": [
            (name, seconds, charts.COLOURS[i % len(charts.COLOURS)])
            for i, (name, seconds) in enumerate(overview.time_parts(inspected))
        ],
        "time_bar": charts.bars(overview.time_parts(inspected)),
        "num_samples": len(inspected.samples),
    }


def _pair(base: InspectedTrial, other: InspectedTrial) -> dict[str, Any]:
    """How another trial did on the tasks that both were evaluated on last, against the first."""
    wins = [_last_wins(base), _last_wins(other)]
    shared = sorted(set(wins[0]) & set(wins[1]))
    differences = np.array([[float(wins[1][t]) - float(wins[0][t]) for t in shared]])
    low, high = bootstrap_interval(differences) if shared else (float("nan"),) * 2
    return {
        "name": other.name,
        "tasks": len(shared),
        "better": int((differences > 0).sum()),
        "worse": int((differences < 0).sum()),
        "mean": f"{100 * differences.mean():+.1f} %" if shared else "–",
        "interval": f"[{100 * low:+.1f}, {100 * high:+.1f}]" if shared else "",
    }


def _last_wins(inspected: InspectedTrial) -> dict[str, bool]:
    rows = inspected.evaluation_rows
    last = max((row["iteration"] for row in rows), default=None)
    return {
        str(row["task_id"]): bool(row["won"])
        for row in rows
        if row["iteration"] == last and not str(row["status"]).endswith("_error")
    }


def _names(folders: Sequence[tuple[Path, Path]], num_runs: int) -> list[str]:
    """A name for each trial that tells it from the others."""
    counts = {run: sum(other == run for other, _ in folders) for run, _ in folders}
    names = []
    for run, folder in folders:
        name = run.resolve().name if counts[run] == 1 else folder.name
        names.append(f"{run.resolve().name}/{name}" if num_runs > 1 and counts[run] > 1 else name)
    return [
        name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})"
        for i, name in enumerate(names)
    ]


def _finite(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _source(name: str) -> str:
    return (resources.files(_PACKAGE) / "templates" / name).read_text(encoding="utf-8")
