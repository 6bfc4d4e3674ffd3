"""verdicts.png: how far every method is from the baseline, after equally much of each budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stepopsd_rllib.report.budget_verdicts import BudgetVerdicts
from stepopsd_rllib.report.curves import DOTS_PER_INCH
from stepopsd_rllib.report.verdicts import Kind, Verdict

VERDICTS = "verdicts.png"
COLORS: dict[Kind, str] = {
    "better": "#009E73",
    "worse": "#D55E00",
    "no difference": "#0072B2",
    "no evidence": "0.55",
    "too few seeds": "0.8",
}
_BAR_INCHES = 0.24


def draw_verdicts(by_budget: Sequence[BudgetVerdicts], path: str | Path, title: str) -> Path:
    """Draws differences from the baseline with their intervals, a panel a budget.

    Args:
        by_budget: The verdicts; those without any are left out.
        path: The file to write.
        title: First line of the picture.

    Returns:
        The file written.
    """
    shown = [budget for budget in by_budget if budget.verdicts]
    names = list(dict.fromkeys(each.name for budget in shown for each in budget.verdicts))
    figure = Figure(figsize=(13.0, 1.9 + _BAR_INCHES * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: success minus {shown[0].baseline}'s, points, 95 %", fontsize=12)
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    for panel, budget in zip(panels, shown, strict=True):
        panel.set_title(f"After {budget.name}", fontsize=10, loc="left")
        panel.axvspan(-100 * budget.margin, 100 * budget.margin, color="0.94", linewidth=0)
        panel.axvline(0.0, color="0.3", linewidth=0.8)
        for each in budget.verdicts:
            _draw(panel, names.index(each.name), each)
        panel.grid(axis="x", color="0.9", linewidth=0.6)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    figure.legend(
        handles=[
            Line2D([], [], color=color, marker="o", markersize=5, label=kind)
            for kind, color in COLORS.items()
            if any(each.kind == kind for budget in shown for each in budget.verdicts)
        ],
        loc="outside lower center",
        ncols=len(COLORS),
        frameon=False,
        fontsize=9,
    )
    figure.savefig(Path(path), dpi=DOTS_PER_INCH)
    return Path(path)


def _draw(panel: Axes, row: int, verdict: Verdict) -> None:
    low, high = (100 * bound for bound in verdict.interval)
    color = COLORS[verdict.kind]
    panel.plot([low, high], [row, row], color=color, linewidth=1.8, solid_capstyle="butt")
    panel.plot([100 * verdict.difference], [row], "o", color=color, markersize=4.5)
