"""curves.png: what a run learned and what it cost, in small panels over training iterations.

Six panels, and one for each metric of the key `curve_metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stepopsd_rllib.evaluation import intervals
from stepopsd_rllib.report.run_files import Trial

CURVES = "curves.png"
# Okabe and Ito's colours, told apart with any colour vision.
TRAIN, TEST, COST = "#0072B2", "#D55E00", "#666666"
DOTS_PER_INCH = 144
SMOOTHING_HALF_LIFE = 3.0
"""Iterations after which a result weighs half in the bold line of a noisy panel."""


def draw_curves(trial: Trial, path: str | Path | None = None, title: str | None = None) -> Path:
    """Draws the panels of one trial.

    Args:
        trial: The trial to draw; it needs at least one result.
        path: The file to write, in the format of its name; `curves.png` in the trial folder by
            default.
        title: First line of the picture; the trial folder's name by default.

    Returns:
        The file written.
    """
    written = Path(path) if path is not None else trial.folder / CURVES
    curves_figure(trial, title).savefig(written, dpi=DOTS_PER_INCH)
    return written


def curves_figure(trial: Trial, title: str | None = None) -> Figure:
    """The panels of one trial, as a figure."""
    more = dict(trial.config.get("curve_metrics") or {})
    num_rows = 2 + math.ceil(len(more) / 3)
    figure = Figure(figsize=(11.0, 3.1 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title or trial.folder.name, fontsize=12, fontweight="bold")
    panels = figure.subplots(num_rows, 3, sharex=True)
    _draw_success(panels[0, 0], trial)
    _draw_series(panels[0, 1], trial.series("env_runners/episode_return_mean"), "Return an episode")
    _draw_series(
        panels[0, 2],
        trial.series("env_runners/valid_action_ratio"),
        "Valid actions",
        share=True,
    )
    _draw_series(panels[1, 0], trial.learner_series("entropy"), "Entropy of a token (nats)")
    _draw_series(panels[1, 1], trial.series("env_runners/turns_mean"), "Turns an episode")
    seconds = trial.series("time_this_iter_s")
    _draw_series(panels[1, 2], seconds, "Seconds an iteration", color=COST, floor=0.0)
    for panel, (key, name) in zip(panels[2:].flat, more.items(), strict=False):
        _draw_series(panel, trial.series(key), name)
    for i, panel in enumerate(panels.flat):
        if i >= 6 + len(more):
            panel.set_axis_off()
        elif i + 3 >= 6 + len(more):  # the lowest of its column
            panel.tick_params(labelbottom=True)
            panel.set_xlabel("Training iteration")
    return figure


def _draw_success(panel: Axes, trial: Trial) -> None:
    """Training success (thin, smoothed in bold) and evaluations with their Wilson intervals."""
    _style(panel, "Success rate", share=True)
    iterations, rates = trial.series("env_runners/success_rate")
    if iterations:
        panel.plot(iterations, rates, color=TRAIN, alpha=0.3, linewidth=0.8)
        panel.plot(iterations, smoothed(rates), color=TRAIN, linewidth=1.8, label="training tasks")
    if trial.evaluations:
        at = [evaluation.iteration for evaluation in trial.evaluations]
        found = [intervals.rate(e.total.won, e.total.episodes) for e in trial.evaluations]
        low, high = [rate.low for rate in found], [rate.high for rate in found]
        panel.fill_between(at, low, high, color=TEST, alpha=0.15)
        rates = [rate.value for rate in found]
        split = trial.config.get("eval_split", "evaluation")
        label = f"{split} tasks, 95 % interval"
        panel.plot(at, rates, color=TEST, linewidth=1.8, marker="o", markersize=4, label=label)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=8, loc="best")


def _draw_series(
    panel: Axes,
    series: tuple[Sequence[float], Sequence[float]],
    title: str,
    *,
    color: str = TRAIN,
    share: bool = False,
    floor: float | None = None,
) -> None:
    _style(panel, title, share=share)
    iterations, values = series
    if not iterations:
        panel.text(
            0.5, 0.5, "not reported", transform=panel.transAxes, ha="center", color=COST, fontsize=9
        )
        return
    panel.plot(iterations, values, color=color, alpha=0.3, linewidth=0.8)
    panel.plot(iterations, smoothed(values), color=color, linewidth=1.8)
    if floor is not None:
        panel.set_ylim(bottom=floor)


def _style(panel: Axes, title: str, *, share: bool) -> None:
    panel.set_title(title, fontsize=10, loc="left")
    panel.grid(color="0.92", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=8)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    if share:
        panel.set_ylim(-0.02, 1.02)
        panel.yaxis.set_major_formatter(_percent)


def smoothed(values: Sequence[float]) -> list[float]:
    """Exponentially weighted mean of the values so far, without the pull of a starting value."""
    keep = 0.5 ** (1.0 / SMOOTHING_HALF_LIFE)
    total = weight = 0.0
    means = []
    for value in values:
        if not math.isnan(value):
            total = keep * total + value
            weight = keep * weight + 1.0
        means.append(total / weight if weight else math.nan)
    return means


def _percent(value: float, _position: Any) -> str:
    return f"{value:.0%}"
