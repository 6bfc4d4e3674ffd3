"""The figures that papers show, from a comparison: `stepopsd report RUN --figures svg`.

Learning curves with bands over seeds, performance profiles, probability of improvement, success by
task type, cost against success. Definitions of the last but two: `report.estimators`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from stepopsd_rllib.report import estimators
from stepopsd_rllib.report.comparison import Method
from stepopsd_rllib.report.comparison_curves import COLORS

FOLDER = "figures"
FORMATS = ("svg", "pdf", "png")
DOTS_PER_INCH = 200
_PERCENT = PercentFormatter(xmax=1.0, decimals=0)
_DOTS_SHARE = 0.55
"""Share of a bar's width over which the dots of its seeds stand."""
_DOT: Mapping[str, Any] = {
    "color": "white",
    "markeredgecolor": "black",
    "markeredgewidth": 0.7,
    "markersize": 3.2,
    "clip_on": False,
}
_THRESHOLDS = np.linspace(0.0, 1.0, 101)
COSTS: Mapping[str, tuple[str, float]] = {
    "time_total_s": ("Hours of training", 3600.0),
    "num_env_steps_sampled_lifetime": ("Turns sampled", 1.0),
}
"""Result key -> axis label, and what one unit of the axis is."""


def learning_curves(methods: Sequence[Method]) -> Figure:
    """Evaluation success by iteration: mean over the seeds, 95 % bootstrap band over them."""
    figure, axes = _figure()
    for number, method in enumerate(methods):
        seeds = [
            {float(found.iteration): found.total.rate for found in trial.evaluations}
            for trial in method.trials.values()
        ]
        shared = sorted(set.intersection(*(set(seed) for seed in seeds)))
        values_SI = np.array([[seed[at] for at in shared] for seed in seeds])
        axes.plot(shared, values_SI.mean(axis=0), label=_label(method), **_line(number))
        if len(seeds) > 1:
            band = estimators.mean_band(values_SI)
            axes.fill_between(shared, *band, color=_colour(number), alpha=0.15, linewidth=0)
    _dress(axes, "Training iteration", "Success on evaluation tasks")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.legend(frameon=False, fontsize=8)
    return figure


def performance_profiles(methods: Sequence[Method]) -> Figure:
    """Share of seeds and task types above each success rate, with 95 % bands."""
    figure, axes = _figure()
    for number, (method, scores_RM) in enumerate(
        zip(methods, score_matrices(methods), strict=True)
    ):
        profile, low, high = estimators.profile_band(scores_RM, _THRESHOLDS)
        axes.plot(_THRESHOLDS, profile, label=_label(method), **_line(number))
        axes.fill_between(_THRESHOLDS, low, high, color=_colour(number), alpha=0.15, linewidth=0)
    _dress(axes, "Success rate τ", "Share of seeds and task types above τ")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PERCENT)
    axes.legend(frameon=False, fontsize=8)
    return figure


def improvement(methods: Sequence[Method], baseline: str) -> Figure | None:
    """Probability that a run does better than the baseline's on the same task type.

    Returns:
        The figure; None where there is no other method than the baseline.
    """
    matrices = dict(zip((m.name for m in methods), score_matrices(methods), strict=True))
    others = [name for name in matrices if name != baseline]
    if baseline not in matrices or not others:
        return None
    figure, axes = _figure(height=1.2 + 0.4 * len(others))
    for row, name in enumerate(others):
        found = estimators.improvement_interval(matrices[name], matrices[baseline])
        colour = _colour(list(matrices).index(name))
        axes.plot([found.low, found.high], [row, row], color=colour, linewidth=6, alpha=0.35)
        axes.plot([found.value], [row], "|", color=colour, markersize=14, markeredgewidth=2)
    axes.axvline(0.5, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(others)), others)
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    _dress(axes, f"P(better than {baseline}), 95 % interval", "")
    axes.xaxis.set_major_formatter(_PERCENT)
    return figure


def type_bars(methods: Sequence[Method], outcome: str = "Success") -> Figure:
    """Success of the last evaluation by task type: mean over seeds, a dot a seed.

    Args:
        methods: What to draw; `Method.graded` of them for task scores.
        outcome: Label of the axis.
    """
    types = _types(methods)
    figure, axes = _figure(width=max(5.5, 0.5 + 0.28 * len(types) * (len(methods) + 1)))
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        rates = method.type_rates()
        at = np.arange(len(types)) + (number - (len(methods) - 1) / 2) * width
        means = [float(np.mean(rates[kind])) if kind in rates else np.nan for kind in types]
        axes.bar(at, means, width=0.92 * width, color=_colour(number), label=_label(method))
        for x, kind in zip(at, types, strict=True):
            seeds = rates.get(kind, [])
            # Beside each other, in the order of the seeds: equal rates would hide one another.
            places = x + width * _DOTS_SHARE * (np.arange(len(seeds)) - (len(seeds) - 1) / 2) / max(
                1, len(seeds) - 1
            )
            axes.plot(places, seeds, "o", **_DOT)
    axes.set_xticks(range(len(types)), [kind.replace("_", " ") for kind in types])
    axes.tick_params(axis="x", labelrotation=25)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right")
    _dress(axes, "", f"{outcome}, last evaluation")
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.set_ylim(0, 1.03)  # a dot at 100 % is whole
    figure.legend(frameon=False, fontsize=8, ncols=min(4, len(methods)), loc="outside upper left")
    return figure


def cost_against_success(methods: Sequence[Method], cost: str = "time_total_s") -> Figure | None:
    """Where each seed of each method ended, and what it had cost until then.

    Args:
        methods: What to draw.
        cost: Result key; one of `COSTS`.

    Returns:
        The figure; None where no result has the key.
    """
    name, unit = COSTS[cost]
    figure, axes = _figure()
    drawn = False
    for number, method in enumerate(methods):
        points = [
            (trial.results[-1][cost] / unit, trial.evaluations[-1].total.rate)
            for trial in method.trials.values()
            if trial.results and cost in trial.results[-1]
        ]
        if not points:
            continue
        drawn = True
        costs, rates = np.array(points).T
        axes.plot(costs, rates, "o", color=_colour(number), markersize=4, alpha=0.5)
        axes.plot(
            [costs.mean()],
            [rates.mean()],
            "D" if number >= len(COLORS) else "s",
            color=_colour(number),
            markersize=9,
            label=_label(method),
        )
    if not drawn:
        return None
    _dress(axes, name, "Success, last evaluation")
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.legend(frameon=False, fontsize=8)
    return figure


def write_figures(
    methods: Sequence[Method], baseline: str | None, folder: Path, file_format: str
) -> list[Path]:
    """Writes every figure that the methods have the data for.

    Args:
        methods: Of a comparison.
        baseline: Whom the others are set against; None leaves that figure out.
        folder: Made here.
        file_format: One of `FORMATS`.

    Returns:
        The files written.
    """
    graded = [found for method in methods if (found := method.graded()) is not None]
    makers: Mapping[str, Callable[[], Figure | None]] = {
        "learning_curves": lambda: learning_curves(methods),
        "performance_profiles": lambda: performance_profiles(methods),
        "probability_of_improvement": lambda: (
            improvement(methods, baseline) if baseline is not None else None
        ),
        "task_types": lambda: type_bars(methods),
        "task_types_score": lambda: type_bars(graded, "Task score") if graded else None,
        "cost": lambda: cost_against_success(methods),
    }
    written = []
    for name, make in makers.items():
        figure = make()
        if figure is not None:
            written.append(save(figure, folder / f"{name}.{file_format}"))
    return written


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure; text stays text in SVG, and the file has no date, so that it is diffable.

    Raises:
        ValueError: It cannot be written there.
    """
    from matplotlib import rc_context

    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(path.suffix[1:], {})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "stepopsd", "pdf.fonttype": 42}):
            figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror}).") from error
    return path


def score_matrices(methods: Sequence[Method]) -> list[np.ndarray]:
    """Success rates of each method, float [seeds, task types], on the types that every run has."""
    rates = [method.type_rates() for method in methods]
    whole = [
        {kind for kind, found in by_type.items() if len(found) == len(method.outcomes)}
        for method, by_type in zip(methods, rates, strict=True)
    ]
    shared = sorted(set.intersection(*whole))
    return [
        np.array([[found[kind][i] for kind in shared] for i in range(len(method.outcomes))])
        for method, found in zip(methods, rates, strict=True)
    ]


def _types(methods: Sequence[Method]) -> list[str]:
    return sorted({kind for method in methods for kind in method.type_rates()})


def _label(method: Method) -> str:
    count = len(method.trials)
    return f"{method.name} ({count} seed{'s' if count > 1 else ''})"


def _colour(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _line(number: int) -> dict[str, Any]:
    return {"color": _colour(number), "linestyle": "-" if number < len(COLORS) else "--"}


def _figure(width: float = 5.5, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
