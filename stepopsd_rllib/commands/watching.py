"""`stepopsd watch`: follows a run from its files, in another process or on another machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from stepopsd_rllib.commands.progress import clock, evaluation_line, iteration_line
from stepopsd_rllib.commands.time_left import TimeLeft
from stepopsd_rllib.report.inspect_page.inspected_files import asked_of, inspected_folders
from stepopsd_rllib.report.run_files import RESULTS, flat_result

SECONDS = 2.0
"""Between two looks at the files."""
ERROR_FILE = "error.txt"
BARS = "▁▂▃▄▅▆▇█"
SPARKS = 24
"""Values of a sparkline."""
# Result key, column, how the value is written.
WATCHED: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("env_runners/success_rate", "success", "{:.1%}".format),
    ("env_runners/episode_return_mean", "return", "{:.2f}".format),
    ("learners/default_policy/entropy", "entropy", "{:.2f}".format),
    ("evaluation/success_rate", "evaluation", "{:.1%}".format),
)


class WatchedTrial:
    """A trial folder whose `result.json` is read on, line by line, as it grows.

    Attributes:
        name: Name of its folder.
        rows: Results so far, nested keys joined by "/".
        stop: Result key -> number that ends it; {} where the run does not say.
    """

    def __init__(self, folder: Path):
        """Reads the stop conditions; no result yet."""
        self.folder, self.name = folder, folder.name
        self.rows: list[dict[str, Any]] = []
        asked = asked_of(folder)
        self.stop: Mapping[str, float] = asked.get("stop", {})
        self.left = TimeLeft(self.stop, asked.get("config", {}))
        self._offset = 0

    def read_on(self) -> list[dict[str, Any]]:
        """The results that have come since the last look; a line that is half written waits."""
        path = self.folder / RESULTS
        new: list[dict[str, Any]] = []
        if not path.is_file():
            return new
        if path.stat().st_size < self._offset:  # the run was begun anew
            self._offset = 0
        with path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                row = _result(line)
                if row is not None:
                    self.left.take(row)
                    new.append(row)
        self.rows += new
        return new

    @property
    def has_ended(self) -> bool:
        """Whether the trial has reached its stop, or failed."""
        if (self.folder / ERROR_FILE).is_file():
            return True
        last = self.rows[-1] if self.rows else {}
        return any(last.get(key, float("-inf")) >= limit for key, limit in self.stop.items())


def watch(run: str, *, once: bool = False, console: Console | None = None) -> int:
    """Follows a run until all its trials have ended, or Ctrl-C.

    Args:
        run: A run folder or a trial folder.
        once: Shows what there is, and ends.
        console: Where to; the terminal by default. What is no terminal gets plain lines.

    Raises:
        ValueError: There is no run.
    """
    console = console or Console()
    trials = [WatchedTrial(folder) for folder in inspected_folders(run)]
    (_follow_live if console.is_terminal else _follow_lines)(run, trials, once, console)
    return 0


def _follow_lines(run: str, trials: list[WatchedTrial], once: bool, console: Console) -> None:
    del run
    shown: dict[str, float] = {}
    while True:
        for trial in trials:
            label = f"[{trial.name}] " if len(trials) > 1 else ""
            for row in trial.read_on():
                _say(console, label + iteration_line(row, trial.stop, trial.left.seconds(row)))
                made_at = row.get("evaluation/iteration")
                if made_at is not None and shown.get(trial.name) != made_at:
                    shown[trial.name] = made_at
                    _say(console, label + evaluation_line(row))
        if once or all(trial.has_ended for trial in trials):
            return
        time.sleep(SECONDS)


def _follow_live(run: str, trials: list[WatchedTrial], once: bool, console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            for trial in trials:
                trial.read_on()
            live.update(live_table(run, trials), refresh=True)
            if once or all(trial.has_ended for trial in trials):
                return
            time.sleep(SECONDS)


def live_table(run: str, trials: Sequence[WatchedTrial]) -> Table:
    """One row a trial: how far it is, when it will end, and its last values with sparklines."""
    table = Table(
        title=str(Path(run).resolve().name), title_justify="left", box=None, pad_edge=False
    )
    for name in ("trial", "", "iteration", "left", *(label for _, label, _ in WATCHED)):
        table.add_column(name, header_style="dim", justify="right" if name == "left" else "left")
    for trial in trials:
        last = trial.rows[-1] if trial.rows else {}
        done, total = last.get("training_iteration", 0), trial.stop.get("training_iteration")
        left = trial.left.seconds(last) if last else None
        table.add_row(
            trial.name,
            ProgressBar(total=total, completed=done, width=20) if total else "",
            f"{done}/{total:.0f}" if total else str(done),
            "ended" if trial.has_ended else clock(left) if left is not None else "–",
            *(_cell(trial.rows, key, write) for key, _, write in WATCHED),
        )
    return table


def sparkline(values: Sequence[float]) -> str:
    """Values as bars between their lowest and highest; the last `SPARKS` of them."""
    kept = [value for value in values if value == value][-SPARKS:]
    if not kept:
        return ""
    low, span = min(kept), max(kept) - min(kept)
    return "".join(BARS[round((v - low) / span * 7) if span else 3] for v in kept)


def _cell(rows: Sequence[Mapping[str, Any]], key: str, write: Callable[[float], str]) -> str:
    values = [float(row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    return f"{write(values[-1])} {sparkline(values)}" if values else "–"


def _result(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    is_result = isinstance(row, dict) and {"training_iteration", "time_this_iter_s"} <= row.keys()
    return flat_result(row) if is_result else None


def _say(console: Console, text: str) -> None:
    """A line as it is: rich would fold it, and read brackets as markup."""
    console.file.write(f"{text}\n")
    console.file.flush()
