"""comparison.png: what every method learned, and where the methods ended.

Curves are means over the seeds, with bands from the lowest to the highest; the last panel has the
intervals of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from stepopsd_rllib.report.comparison import Method, bootstrap_interval
from stepopsd_rllib.report.curves import DOTS_PER_INCH, smoothed

PICTURE = "comparison.png"
_PERCENT = PercentFormatter(xmax=1.0, decimals=0)
# Okabe and Ito's colours, told apart with any colour vision; dashes tell the ninth from the first.
COLORS = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#D55E00",
    "#0072B2",
    "#CC79A7",
    "#F0E442",
)


def draw_comparison(methods: Sequence[Method], path: str | Path, title: str) -> Path:
    """Draws training and evaluation success of all methods.

    Args:
        methods: What to draw.
        path: The file to write.
        title: First line of the picture.

    Returns:
        The file written.
    """
    figure = Figure(figsize=(13.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    train, evaluation, last = figure.subplots(1, 3, width_ratios=(1.0, 1.0, 0.8))
    for number, method in enumerate(methods):
        style = {
            "color": COLORS[number % len(COLORS)],
            "linestyle": "-" if number < len(COLORS) else "--",
        }
        _draw(train, _training(method), style, method.name)
        _draw(evaluation, _evaluations(method), style, method.name)
        _draw_interval(last, number, method, style["color"])
    _dress(train, "Training tasks, smoothed")
    _dress(evaluation, "Evaluation tasks")
    evaluation.legend(frameon=False, fontsize=8, loc="best")
    last.set_yticks(range(len(methods)), [method.name for method in methods])
    last.invert_yaxis()
    last.set_title("Last evaluation, 95 % over seeds and tasks", fontsize=10, loc="left")
    last.xaxis.set_major_formatter(_PERCENT)
    last.grid(axis="x", color="0.92", linewidth=0.8)
    _open(last)
    figure.savefig(Path(path), dpi=DOTS_PER_INCH)
    return Path(path)


def _training(method: Method) -> list[Mapping[float, float]]:
    """Smoothed training success by iteration, one mapping a seed."""
    found = [trial.series("env_runners/success_rate") for trial in method.trials.values()]
    return [dict(zip(at, smoothed(rates), strict=True)) for at, rates in found]


def _evaluations(method: Method) -> list[Mapping[float, float]]:
    return [
        {float(found.iteration): found.total.rate for found in trial.evaluations}
        for trial in method.trials.values()
    ]


def _draw(
    panel: Axes, seeds: list[Mapping[float, float]], style: Mapping[str, str], name: str
) -> None:
    """Mean and range over the seeds, at the iterations that all of them have."""
    shared = sorted(set.intersection(*(set(seed) for seed in seeds)))
    if not shared:
        return
    values_SI = np.array([[seed[at] for at in shared] for seed in seeds])
    panel.plot(shared, values_SI.mean(axis=0), linewidth=1.8, label=name, **dict[str, Any](style))
    panel.fill_between(
        shared,
        values_SI.min(axis=0),
        values_SI.max(axis=0),
        color=style["color"],
        alpha=0.12,
        linewidth=0,
    )


def _draw_interval(panel: Axes, row: int, method: Method, color: str) -> None:
    """Mean of the last evaluation with its interval, and the seeds as small marks."""
    scores_SM = method.scores(list(method.outcomes), method.tasks())
    low, high = bootstrap_interval(scores_SM)
    panel.plot([low, high], [row, row], color=color, linewidth=2.0)
    panel.plot([scores_SM.mean()], [row], "o", color=color, markersize=7)
    rates = scores_SM.mean(axis=1)
    panel.plot(rates, [row + 0.22] * len(rates), "|", color=color, markersize=6)


def _dress(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize=10, loc="left")
    panel.set_xlabel("Training iteration")
    panel.grid(color="0.92", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.set_ylim(-0.02, 1.02)
    panel.yaxis.set_major_formatter(_PERCENT)
    _open(panel)


def _open(panel: Axes) -> None:
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
