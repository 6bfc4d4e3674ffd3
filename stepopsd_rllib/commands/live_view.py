"""What a terminal shows of a run while it goes on: how far it is, when it ends, its last values.

One trial has a bar and a sparkline for each value; several have a row each, and a bar for all. The
time left counts down between results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stepopsd_rllib.commands.progress import clock, evaluation_line
from stepopsd_rllib.commands.time_left import TimeLeft

BARS = "▁▂▃▄▅▆▇█"
# Tune tells of a trial when its model is loaded: a pending one waits for its turn, or loads.
WAITING, STARTING, RUNNING, ENDED, FAILED = "pending", "started", "running", "ended", "failed"
# Result key, name, how the value is written.
Column = tuple[str, str, Callable[[float], str]]
SCORE: Column = ("env_runners/task_score_mean", "score", "{:.1%}".format)
"""Shown where the environment grades."""
COLUMNS: tuple[Column, ...] = (
    ("env_runners/success_rate", "success", "{:.1%}".format),
    SCORE,
    ("env_runners/episode_return_mean", "return", "{:.2f}".format),
    ("learners/default_policy/entropy", "entropy", "{:.2f}".format),
    ("evaluation/success_rate", "evaluation", "{:.1%}".format),
)
MORE: tuple[Column, ...] = (
    ("env_runners/valid_action_ratio", "valid", "{:.0%}".format),
    ("env_runners/turns_mean", "turns", "{:.1f}".format),
    ("learners/default_policy/effect_size", "effect", "{:.2%}".format),
    ("time_this_iter_s", "seconds", "{:.1f}".format),
)
"""Shown too where there is one trial, which has the room."""
ITERATION = "training_iteration"
_NONE = "–"
_SPARKS, _BAR, _SHORT_BAR = 24, 40, 12
_NARROW = 100
"""Width of a terminal below which the table has two values only, characters."""
_LONGEST_NAME = 32
_STYLES = {FAILED: "red", WAITING: "dim", STARTING: "dim"}
_AROUND_ROWS = 6
"""Lines of a terminal that the table of trials leaves free."""


@dataclass
class Followed:
    """One trial as far as its results have come.

    Attributes:
        name: What it is called.
        stop: Result key -> number that ends it.
        left: Foresees its end.
        rows: Its results, nested keys joined by "/".
        state: Pending, started, running, ended or failed.
        since: When the state or the last result came, seconds of the monotonic clock.
        more: Result key -> label, the key `progress_metrics`.
    """

    name: str
    stop: Mapping[str, float]
    left: TimeLeft
    rows: list[dict[str, Any]] = field(default_factory=list)
    state: str = WAITING
    since: float = field(default_factory=time.monotonic)
    more: Mapping[str, str] = field(default_factory=dict)

    def take(self, row: dict[str, Any]) -> None:
        """The next result."""
        self.left.take(row)
        self.rows.append(row)
        self.enter(RUNNING)

    def enter(self, state: str) -> None:
        """The state that begins now."""
        self.state, self.since = state, time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in (ENDED, FAILED)

    @property
    def done(self) -> int:
        """Iterations so far."""
        return self.rows[-1][ITERATION] if self.rows else 0

    @property
    def total(self) -> float | None:
        """Iterations at its end; None where another criterion ends it."""
        return self.stop.get(ITERATION)

    def seconds_left(self) -> float | None:
        """Until its end, less what has gone by since the last result; None if unforeseen."""
        if self.is_over or not self.rows:
            return None
        seconds = self.left.seconds(self.rows[-1])
        return None if seconds is None else max(0.0, seconds - (time.monotonic() - self.since))

    def ending(self) -> str:
        """Time left, or why there is none."""
        left = self.seconds_left()
        if left is not None:
            return clock(left)
        return _NONE if self.state == RUNNING else self.state


@dataclass
class LiveView:
    """A renderable of trials as they are when it is drawn.

    Attributes:
        title: The run.
        trials: Of the run; the view keeps the list, not a copy.
        began: When the run began, seconds of the monotonic clock; None for a run of elsewhere.
    """

    title: str
    trials: Sequence[Followed]
    began: float | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws it for the size of the console."""
        del options
        if len(self.trials) == 1:
            yield _one(self.title, self.trials[0], self._gone(), console.width)
        else:
            yield _several(self.title, self.trials, self._gone(), console.width, console.height)

    def _gone(self) -> str:
        return "" if self.began is None else f"{clock(time.monotonic() - self.began)} gone"


def sparkline(values: Sequence[float], width: int = _SPARKS) -> str:
    """Values as bars between their lowest and highest; the last `width` of them."""
    kept = [value for value in values if value == value][-width:]
    if not kept:
        return ""
    low, span = min(kept), max(kept) - min(kept)
    return "".join(BARS[round((v - low) / span * 7) if span else 3] for v in kept)


def _one(title: str, trial: Followed, gone: str, width: int) -> RenderableType:
    head = Table.grid(padding=(0, 2))
    head.add_row(
        _progress_bar([trial], _BAR) if trial.total else "",
        _iterations([trial]),
        Text(_ending(trial), style=_STYLES.get(trial.state, "")),
        Text(gone, style="dim"),
    )
    values = Table.grid(padding=(0, 2))
    values.add_column(style="dim")
    values.add_column(justify="right")
    values.add_column(style="cyan", no_wrap=True)
    own = tuple((key, label, "{:.4g}".format) for key, label in trial.more.items())
    for key, name, write in (*COLUMNS[:-1], *MORE, *own):
        numbers = _numbers(trial.rows, key)
        if numbers:
            spark = sparkline(numbers, max(8, min(2 * _SPARKS, width - 30)))
            values.add_row(name, write(numbers[-1]), spark)
    parts: list[RenderableType] = [Text(title, style="bold"), head, values]
    if trial.rows and "evaluation/iteration" in trial.rows[-1]:
        parts.append(Text(evaluation_line(trial.rows[-1]).strip()))
    return Group(*parts)


def _ending(trial: Followed) -> str:
    if trial.state == WAITING:
        return "loading the model and its engines"
    if trial.state == STARTING:
        return "first iteration"
    return f"{trial.ending()} left" if trial.seconds_left() is not None else trial.ending()


def _several(
    title: str, trials: Sequence[Followed], gone: str, width: int, height: int
) -> RenderableType:
    is_graded = any(SCORE[0] in row for trial in trials for row in trial.rows[-1:])
    columns = [column for column in COLUMNS if is_graded or column is not SCORE]
    columns = columns if width >= _NARROW else [columns[0], columns[-1]]
    longest = min(_LONGEST_NAME, max(len(trial.name) for trial in trials))
    # Beside the name: bar, iteration, time left, and a number before each sparkline.
    sparks = (width - longest - _SHORT_BAR - 26 - 9 * len(columns)) // len(columns)
    table = Table(box=None, pad_edge=False)
    table.add_column("trial", header_style="dim", max_width=longest, no_wrap=True)
    table.add_column("", width=_SHORT_BAR)
    for name in ("iteration", "left"):
        table.add_column(name, header_style="dim", justify="right", min_width=9, no_wrap=True)
    for _, name, _ in columns:
        table.add_column(name, header_style="dim", no_wrap=True)
    shown = sorted(trials, key=lambda trial: (trial.state == WAITING, trial.is_over))
    kept = shown[: max(3, height - _AROUND_ROWS)]
    for trial in sorted(kept, key=list(trials).index):
        table.add_row(
            escape(trial.name),
            _progress_bar([trial], _SHORT_BAR) if trial.total else "",
            _iterations([trial]),
            Text(trial.ending(), style=_STYLES.get(trial.state, "")),
            *(
                _cell(trial.rows, key, write, max(4, min(_SPARKS, sparks)))
                for key, _, write in columns
            ),
        )
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    hidden = f" · {len(shown) - len(kept)} not shown" if len(kept) < len(shown) else ""
    foot = Table.grid(padding=(0, 2))
    for _ in range(4):
        foot.add_column(no_wrap=True)
    foot.add_row(
        _progress_bar(trials, _SHORT_BAR) if all(trial.total for trial in trials) else "",
        _iterations(trials),
        Text(_left_of_all(trials)),
        Text(gone, style="dim"),
    )
    return Group(Text(title, style="bold"), table, foot, Text(counts + hidden, style="dim"))


def _left_of_all(trials: Sequence[Followed]) -> str:
    """Of all trials, at the pace of the present ones: what is left of work, shared by them."""
    running = [trial for trial in trials if trial.state == RUNNING]
    paces = [trial.left.seconds_an_iteration for trial in trials]
    known = [pace for pace in paces if pace is not None]
    if not running or not known or not all(trial.total for trial in trials):
        return ""
    mean = sum(known) / len(known)
    work = sum(
        max(0.0, (trial.total or 0) - trial.done) * (mean if pace is None else pace)
        for trial, pace in zip(trials, paces, strict=True)
        if not trial.is_over
    )
    longest = max(trial.seconds_left() or 0.0 for trial in running)
    return f"{clock(max(longest, work / len(running)))} left"


def _progress_bar(trials: Sequence[Followed], width: int) -> ProgressBar:
    total = sum(trial.total or 0 for trial in trials)
    return ProgressBar(total=total, completed=sum(trial.done for trial in trials), width=width)


def _iterations(trials: Sequence[Followed]) -> str:
    done, totals = sum(trial.done for trial in trials), [trial.total for trial in trials]
    if any(total is None for total in totals):
        return f"{done} iterations"
    return f"{done}/{sum(total or 0 for total in totals):.0f}"


def _cell(
    rows: Sequence[Mapping[str, Any]], key: str, write: Callable[[float], str], sparks: int
) -> str:
    values = _numbers(rows, key)
    return f"{write(values[-1])} {sparkline(values, sparks)}" if values else _NONE


def _numbers(rows: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    """Values of a key; an evaluation that later results repeat counts once."""
    by_iteration = {
        row["evaluation/iteration" if key.startswith("evaluation/") else ITERATION]: row[key]
        for row in rows
        if isinstance(row.get(key), (int, float))
    }
    return [float(value) for value in by_iteration.values()]
