"""heatmap.png: the outcome of a grid over two config keys, one cell a pair of values.

The 95 % interval of a cell is Wilson's for one seed, over the tasks, and Student's for several,
over the seeds' rates; of training success, which has no fixed tasks, one seed has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stepopsd_rllib.evaluation import intervals
from stepopsd_rllib.evaluation.intervals import Estimate
from stepopsd_rllib.report.run_files import Trial

HEATMAP = "heatmap.png"
DOTS_PER_INCH = 144
RECENT_ITERATIONS = 10
"""Training iterations at the end that are averaged where a trial was never evaluated."""
NOT_A_KEY = frozenset({"seed"})


def grid_keys(trials: Sequence[Trial]) -> list[str]:
    """Config keys whose numbers differ between the trials, sorted; never the seed."""
    configs = [trial.config for trial in trials]
    return sorted(
        key
        for key, first in (configs[0] if configs else {}).items()
        if key not in NOT_A_KEY
        and _is_number(first)
        and any(config.get(key) != first for config in configs)
        and all(_is_number(config.get(key)) for config in configs)
    )


def cell_values(trials: Sequence[Trial], row_key: str, column_key: str) -> dict[tuple, list[float]]:
    """Success rate of every trial by its pair of values; several seeds of a pair are listed.

    The rate is that of the last evaluation; without one, the mean training success of the last 10
    iterations.
    """
    cells: dict[tuple, list[float]] = {}
    for trial in trials:
        rate = _success(trial)
        if not math.isnan(rate):
            pair = (trial.config[row_key], trial.config[column_key])
            cells.setdefault(pair, []).append(rate)
    return cells


def cell_interval(trials: Sequence[Trial]) -> Estimate:
    """Mean success of the trials of one cell with its 95 % interval; see the module."""
    rates = [rate for rate in map(_success, trials) if not math.isnan(rate)]
    if len(rates) > 1:
        return intervals.mean(rates)
    if len(trials) == 1 and trials[0].evaluations:
        last = trials[0].evaluations[-1].total
        return intervals.rate(last.won, last.episodes)
    return Estimate(value=_mean(rates), low=math.nan, high=math.nan)


def draw_heatmap(trials: Sequence[Trial], path: str | Path) -> Path | None:
    """Draws the success rates of a grid over exactly two numeric keys.

    Args:
        trials: The trials of one run.
        path: The file to write, in the format of its name.

    Returns:
        The file; None, and nothing is written, if the trials are no such grid.
    """
    figure = heatmap_figure(trials)
    if figure is None:
        return None
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return Path(path)


def heatmap_figure(trials: Sequence[Trial]) -> Figure | None:
    """The heatmap as a figure; None if the trials are no grid over exactly two numeric keys."""
    keys = grid_keys(trials)
    if len(keys) != 2:
        return None
    row_key, column_key = keys
    cells = cell_values(trials, row_key, column_key)
    if not cells:
        return None
    rows = sorted({row for row, _ in cells})
    columns = sorted({column for _, column in cells})
    means = [[_mean(cells.get((row, column), [])) for column in columns] for row in reversed(rows)]
    figure = Figure(figsize=(2.4 + 1.3 * len(columns), 1.8 + 0.8 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(means, cmap="cividis", aspect="auto", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(columns)), [f"{column:g}" for column in columns])
    axes.set_yticks(range(len(rows)), [f"{row:g}" for row in reversed(rows)])
    axes.set_xlabel(column_key)
    axes.set_ylabel(row_key)
    axes.set_title(_title(trials), fontsize=10)
    for y, row in enumerate(reversed(rows)):
        for x, column in enumerate(columns):
            rates = cells.get((row, column), [])
            of_cell = [
                trial
                for trial in trials
                if (trial.config[row_key], trial.config[column_key]) == (row, column)
            ]
            text = _cell_text(cell_interval(of_cell), len(rates))
            colour = "white" if not rates or _mean(rates) < 0.6 else "black"
            axes.text(x, y, text if rates else "–", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=axes, label="success rate")
    return figure


def _cell_text(found: Estimate, seeds: int) -> str:
    interval = "" if math.isnan(found.low) else f"\n[{found.low:.0%}, {found.high:.0%}]"
    return f"{found.value:.0%}{interval}" + (f"\n{seeds} seeds" if seeds > 1 else "")


def _title(trials: Sequence[Trial]) -> str:
    if all(trial.evaluations for trial in trials):
        episodes = {trial.evaluations[-1].total.episodes for trial in trials}
        played = f"{min(episodes)}" if len(episodes) == 1 else f"{min(episodes)} to {max(episodes)}"
        return f"Last evaluation, {played} tasks a trial"
    return f"Training, mean of the last {RECENT_ITERATIONS} iterations"


def _success(trial: Trial) -> float:
    if trial.evaluations:
        return trial.evaluations[-1].total.rate
    _, rates = trial.series("env_runners/success_rate")
    return _mean(rates[-RECENT_ITERATIONS:])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
