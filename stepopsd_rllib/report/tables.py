"""Success per task type with 95 % intervals, as aligned text.

One rate gets the Wilson score interval, the difference of two rates Newcombe's interval (Statistics
in Medicine 17, 1998, method 10), both from scipy.stats import binomtest
from statsmodels. Newcombe's treats the two evaluations as
independent samples; they play the same tasks, so it is rather too wide than too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import binomtest
from statsmodels.stats.proportion import confint_proportions_2indep

from stepopsd_rllib.report.run_files import Evaluation, Wins

CONFIDENCE = 0.95
"""Of every interval shown."""


def wilson_interval(wins: Wins) -> tuple[float, float]:
    """95 % Wilson score interval of a success rate; nan where no episode was played."""
    if wins.episodes == 0:
        return math.nan, math.nan
    interval = binomtest(wins.won, wins.episodes).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def difference_interval(before: Wins, after: Wins) -> tuple[float, float]:
    """95 % Newcombe interval of `after.rate - before.rate`; nan where either has no episode."""
    if before.episodes == 0 or after.episodes == 0:
        return math.nan, math.nan
    low, high = confint_proportions_2indep(
        after.won,
        after.episodes,
        before.won,
        before.episodes,
        compare="diff",
        method="newcomb",
        alpha=1.0 - CONFIDENCE,
    )
    return float(low), float(high)


def success_table(evaluations: Sequence[Evaluation]) -> str:
    """The last evaluation of a run, compared with the first where there are two."""
    if not evaluations:
        return "No evaluation was made. Set evaluation_interval in config to get this table."
    first, last = evaluations[0], evaluations[-1]
    if len(evaluations) == 1:
        return single_table(last)
    header = [
        "task type",
        "tasks",
        f"before (iteration {first.iteration})",
        f"after (iteration {last.iteration})",
        "difference",
    ]
    rows = [
        _comparison(name, first.by_task_type.get(name, Wins(won=0, episodes=0)), wins)
        for name, wins in last.by_task_type.items()
    ]
    return aligned([header, *rows, _comparison("all", first.total, last.total)])


def single_table(evaluation: Evaluation) -> str:
    """One evaluation by itself."""
    rows = [
        [name, str(wins.episodes), _rate(wins)]
        for name, wins in [*evaluation.by_task_type.items(), ("all", evaluation.total)]
    ]
    return aligned([["task type", "tasks", "success"], *rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text in columns; the first row is the header, the last one the sum."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _comparison(name: str, before: Wins, after: Wins) -> list[str]:
    low, high = difference_interval(before, after)
    change = after.rate - before.rate
    difference = f"{change:+.1%} [{low:+.1%}, {high:+.1%}]" if math.isfinite(change) else "-"
    return [name, str(after.episodes), _rate(before), _rate(after), difference]


def _rate(wins: Wins) -> str:
    if wins.episodes == 0:
        return "-"
    low, high = wilson_interval(wins)
    return f"{wins.rate:.1%} [{low:.1%}, {high:.1%}]"
