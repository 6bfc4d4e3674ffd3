"""Methods after equal compute: seconds of training, or tokens forwarded, in place of iterations.

The budget is the smallest total of a method (mean over its seeds) at its last evaluation. Each run
counts with its last evaluation within the budget, so a method that needs twice the time of another
is seen half-way. Seconds are those of rollouts, updates and weight syncs, evaluations left out;
they mean something where all runs had the machine to themselves. Tokens are those that updates,
teachers and scoring forwarded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from stepopsd_rllib.report.comparison import Method, columns, method_at
from stepopsd_rllib.report.run_files import DEFAULT_MODULE, Trial

Compute = Literal["seconds", "tokens"]
COMPUTES: tuple[Compute, ...] = get_args(Compute)

_SECONDS = ("timers/sample", "timers/update", "timers/weight_sync")
_UPDATE = f"learners/{DEFAULT_MODULE}/update_tokens_forwarded"
_SCORING = tuple(
    f"learners/{DEFAULT_MODULE}/{name}_tokens_forwarded" for name in ("teacher", "student")
)
_UPDATES = "num_updates_lifetime"


def compute_used(trial: Trial, compute: Compute) -> dict[int, float]:
    """Iteration -> what was used up to its end; {} where a result lacks it."""
    used, total, updates = {0: 0.0}, 0.0, 0.0
    for row in trial.results:
        if compute == "seconds":
            if "timers/update" not in row:
                return {}
            total += sum(_number(row, key) for key in _SECONDS)
        else:
            if _UPDATE not in row:
                return {}
            now = _number(row, _UPDATES)
            steps, updates = max(1.0, now - updates), now
            total += steps * _number(row, _UPDATE) + sum(_number(row, key) for key in _SCORING)
        used[int(row["training_iteration"])] = total
    return used


def at_equal_compute(methods: Sequence[Method], compute: Compute) -> tuple[list[Method], float]:
    """The methods within the budget, and the budget.

    Returns:
        In the order given; [] where a run does not say what it used.
    """
    used = {
        (method.name, seed): compute_used(trial, compute)
        for method in methods
        for seed, trial in method.trials.items()
    }
    if not all(used.values()):
        return [], float("nan")
    totals = {
        method.name: float(
            np.mean(
                [used[method.name, seed][_last(trial)] for seed, trial in method.trials.items()]
            )
        )
        for method in methods
    }
    budget = min(totals.values())
    return [
        method_at(
            method,
            {
                seed: _within(trial, used[method.name, seed], budget)
                for seed, trial in method.trials.items()
            },
        )
        for method in methods
    ], budget


def compute_table(methods: Sequence[Method], baseline: str | None) -> str:
    """What a run of each method used, and as a multiple of the baseline's."""
    header, rows = ["method", "learning rate"], [_rate(method) for method in methods]
    table = [[method.name, rate] for method, rate in zip(methods, rows, strict=True)]
    for compute in COMPUTES:
        totals = {method.name: _mean_total(method, compute) for method in methods}
        if any(np.isnan(total) for total in totals.values()):
            continue
        header.append(compute)
        base = totals.get(baseline or "")
        for line, total in zip(table, totals.values(), strict=True):
            line.append(f"{total:,.0f}" + (f" ({total / base:.2f}x)" if base else ""))
    return columns([header, *table])


def _rate(method: Method) -> str:
    rates = {float(trial.config["lr"]) for trial in method.trials.values() if "lr" in trial.config}
    return ", ".join(f"{rate:g}" for rate in sorted(rates)) or "-"


def _mean_total(method: Method, compute: Compute) -> float:
    used = [(compute_used(trial, compute), trial) for trial in method.trials.values()]
    return float(np.mean([found[_last(trial)] if found else np.nan for found, trial in used]))


def _last(trial: Trial) -> int:
    return trial.evaluations[-1].iteration


def _within(trial: Trial, used: Mapping[int, float], budget: float) -> int:
    """The last evaluation within the budget; a rounding error beyond it counts."""
    allowed = budget * (1 + 1e-9)
    return max(e.iteration for e in trial.evaluations if used.get(e.iteration, np.inf) <= allowed)


def _number(row: Mapping[str, float], key: str) -> float:
    value = row.get(key, 0.0)
    return float(value) if isinstance(value, (int, float)) and not np.isnan(value) else 0.0
