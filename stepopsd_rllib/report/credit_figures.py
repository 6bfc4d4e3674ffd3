"""Figures of the credit of tokens: how a value is spread, and one episode in colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

NEUTRAL: Mapping[str, float] = {"weight": 1.0}
"""Value at which a field does nothing; 0 for all others."""
NAMES: Mapping[str, str] = {
    "log_prob_gap": "Δ, teacher less policy, nats",
    "weight": "w, factor of the advantage",
    "group_advantage": "A, advantage of the group",
    "advantage": "Ã, advantage of the loss",
    "old_log_prob": "log-prob under the policy before the update, nats",
    "new_log_prob": "log-prob under the policy of the update's last pass, nats",
    "entropy": "entropy of the policy's distribution, nats",
    "behaviour_log_prob": "log-prob under the sampler, nats",
    "teacher_log_prob": "log-prob under the teacher, nats",
    "episode_skill_log_prob": "log-prob behind the episode's skill, nats",
    "step_skill_log_prob": "log-prob behind the turn's skill, nats",
}
BINS = 60
FULL_DEPTH = 0.95
"""Quantile of the distance from neutral that gets the full colour."""
_DARK = 0.6
"""Share of the full colour beyond which text on it is white."""
_LONGEST_ROW = 40
"""Tokens of a turn that are drawn; a longer one is cut."""


def credit_histogram(tokens: pd.DataFrame, field: str) -> Figure:
    """A histogram of a value, an outline for each update sampled, the later the darker.

    Args:
        tokens: As `Run.credit`.
        field: A column of it.

    Raises:
        ValueError: No token has it.
    """
    _require(tokens, field)
    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = tokens[field].dropna().astype(float)
    low, high = values.quantile([0.005, 0.995])
    bins = np.linspace(low, high if high > low else low + 1.0, BINS)
    updates = sorted(tokens["update"].unique())
    for number, update in enumerate(updates):
        found = tokens.loc[tokens["update"] == update, field].dropna().astype(float)
        if len(found):
            depth = 0.25 + 0.75 * number / max(1, len(updates) - 1)
            axes.hist(
                found.clip(bins[0], bins[-1]),
                bins=list(bins),
                density=True,
                histtype="step",
                color="#0072B2",
                alpha=depth,
                label=f"update {update}" if number in (0, len(updates) - 1) else None,
            )
    axes.axvline(NEUTRAL.get(field, 0.0), color="0.5", linewidth=0.8, linestyle=":")
    axes.set_xlabel(NAMES.get(field, field))
    axes.set_yscale("log")
    axes.set_ylabel("Density of tokens")
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def episode_credit(tokens: pd.DataFrame, field: str) -> Figure:
    """One episode: a row a turn, a cell a token, coloured by a value.

    Args:
        tokens: Rows of `Run.credit` of one episode.
        field: A column of it.

    Raises:
        ValueError: Its tokens lack the value.
    """
    _require(tokens, field)
    rows: list[Any] = tokens.to_dict("records")
    turns = sorted({row["turn"] for row in rows})
    width = min(_LONGEST_ROW, max(row["position"] for row in rows) + 1)
    grid = np.full((len(turns), width), np.nan)
    figure = Figure(figsize=(2.0 + 0.62 * width, 1.2 + 0.34 * len(turns)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    centre = NEUTRAL.get(field, 0.0)
    for row in rows:
        if row["position"] < width and row[field] is not None:
            grid[turns.index(row["turn"]), row["position"]] = float(row[field])
    distances = np.abs(grid[~np.isnan(grid)] - centre)
    depth = float(np.quantile(distances, FULL_DEPTH)) or float(distances.max()) or 1.0
    image = axes.imshow(
        grid,
        cmap="PuOr",
        norm=TwoSlopeNorm(centre, centre - depth, centre + depth),
        aspect="auto",
    )
    for row in rows:
        if row["position"] < width:
            text = repr(row["token"])[1:-1].replace("$", r"\$")
            at = (row["position"], turns.index(row["turn"]))
            value = grid[at[1], at[0]]
            colour = "white" if abs(value - centre) > _DARK * depth else "black"
            axes.text(*at, text, ha="center", va="center", fontsize=6, color=colour)
    axes.set_yticks(range(len(turns)), [str(turn + 1) for turn in turns])
    axes.set_ylabel("Turn")
    axes.set_xticks([])
    figure.colorbar(image, ax=axes, label=NAMES.get(field, field))
    return figure


def _require(tokens: pd.DataFrame, field: str) -> None:
    if field not in tokens or bool(tokens[field].isna().all()):
        known = [name for name in NAMES if name in tokens]
        raise ValueError(
            f"field={field!r}: no sampled token has it. "
            + (f"This run has {', '.join(known)}." if known else "No episode was sampled.")
        )
