"""`stepopsd watch`: follows a run from its files, in another process or on another machine."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from stepopsd_rllib.commands.live_view import ENDED, FAILED, Followed, LiveView
from stepopsd_rllib.commands.progress import evaluation_line, iteration_line
from stepopsd_rllib.commands.time_left import TimeLeft
from stepopsd_rllib.report.inspect_page.inspected_files import asked_of, inspected_folders
from stepopsd_rllib.report.run_files import RESULTS, flat_result

SECONDS = 2.0
"""Between two looks at the files."""
ERROR_FILE = "error.txt"


class WatchedTrial(Followed):
    """A trial folder whose `result.json` is read on, line by line, as it grows."""

    def __init__(self, folder: Path):
        """Reads the stop conditions; no result yet."""
        asked = asked_of(folder)
        stop = asked.get("stop", {})
        config = asked.get("config", {})
        super().__init__(
            name=folder.name,
            stop=stop,
            left=TimeLeft(stop, config),
            more=config.get("progress_metrics") or {},
        )
        self.folder = folder
        self._offset = 0

    def read_on(self) -> list[dict[str, Any]]:
        """The results that have come since the last look; a line that is half written waits."""
        path = self.folder / RESULTS
        new: list[dict[str, Any]] = []
        if path.is_file():
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
                        self.take(row)
                        new.append(row)
        if (self.folder / ERROR_FILE).is_file():
            self.enter(FAILED)
        elif self.rows and self._has_reached(self.rows[-1]):
            self.enter(ENDED)
        return new

    def _has_reached(self, row: Mapping[str, Any]) -> bool:
        return any(row.get(key, float("-inf")) >= limit for key, limit in self.stop.items())


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
        if once or all(trial.is_over for trial in trials):
            return
        time.sleep(SECONDS)


def _follow_live(run: str, trials: list[WatchedTrial], once: bool, console: Console) -> None:
    view = LiveView(Path(run).resolve().name, trials)
    with Live(view, console=console, auto_refresh=False) as live:
        while True:
            for trial in trials:
                trial.read_on()
            live.refresh()
            if once or all(trial.is_over for trial in trials):
                return
            time.sleep(SECONDS)


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
