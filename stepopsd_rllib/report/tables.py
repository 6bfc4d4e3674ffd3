"""Success per task type, over types and over tasks, with 95 % intervals, as aligned text.

Where the environment grades tasks, the mean of their scores stands beside the success.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepopsd_rllib.evaluation import intervals
from stepopsd_rllib.evaluation.intervals import UNKNOWN, Estimate
from stepopsd_rllib.report.run_files import Evaluation, Wins

_NONE = Wins(won=0, episodes=0)


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
    names = list(last.by_task_type)
    rows = [
        _comparison(name, first.by_task_type.get(name, _NONE), last.by_task_type[name])
        for name in names
    ]
    sums = [_comparison("all", first.total, last.total)]
    if len(names) > 1:
        sums.insert(0, _comparison_of_means(first, last))
    table = aligned([header, *rows, *sums], num_sums=len(sums))
    if last.total.score is not None:
        table += f"\n\n{_score_table(header, first, last)}"
    return _with_errors(table, [first, last])


def single_table(evaluation: Evaluation) -> str:
    """One evaluation by itself."""
    rows = [
        [name, str(wins.episodes), _shown(_rate(wins))]
        for name, wins in [*evaluation.by_task_type.items(), ("all", evaluation.total)]
    ]
    has_mean = len(evaluation.by_task_type) > 1
    if has_mean:
        mean = intervals.unweighted_mean([_rate(w) for w in evaluation.by_task_type.values()])
        rows.insert(-1, [_MEAN, "", _shown(mean)])
    header = ["task type", "tasks", "success"]
    if evaluation.total.score is not None:
        header.append("task score")
        scores = {**evaluation.by_task_type, "all": evaluation.total}
        for row in rows:
            row.append(_shown(_score(scores[row[0]])) if row[0] in scores else "")
    table = aligned([header, *rows], num_sums=1 + has_mean)
    return _with_errors(table, [evaluation])


def aligned(rows: Sequence[Sequence[str]], *, num_sums: int = 1) -> str:
    """Rows as text in columns; the first row is the header, the last ones are sums."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:-num_sums], rule, *lines[-num_sums:]])


_MEAN = "mean of the types"


def _score_table(header: Sequence[str], first: Evaluation, last: Evaluation) -> str:
    """Mean task scores of two evaluations, below their table of success."""
    rows = []
    for name, after in [*last.by_task_type.items(), ("all", last.total)]:
        before = first.total if name == "all" else first.by_task_type.get(name, _NONE)
        change = intervals.difference_of_means(_score(before), _score(after))
        shown = (_shown(_score(before)), _shown(_score(after)), _shown(change, sign="+"))
        rows.append([name, str(after.episodes), *shown])
    return aligned([["task score", *header[1:]], *rows])


def _score(wins: Wins) -> Estimate:
    return UNKNOWN if wins.score is None else wins.score


def _comparison(name: str, before: Wins, after: Wins) -> list[str]:
    change = _difference(before, after)
    return [
        name,
        str(after.episodes),
        _shown(_rate(before)),
        _shown(_rate(after)),
        _shown(change, sign="+"),
    ]


def _comparison_of_means(first: Evaluation, last: Evaluation) -> list[str]:
    """Every task type counts the same; types that one of the two lacks make the change unknown."""
    pairs = [
        (first.by_task_type.get(name, _NONE), wins) for name, wins in last.by_task_type.items()
    ]
    means = [
        intervals.unweighted_mean([_rate(pair[i]) for pair in pairs if pair[i].episodes])
        for i in (0, 1)
    ]
    change = intervals.unweighted_mean([_difference(*pair) for pair in pairs])
    return [_MEAN, "", *map(_shown, means), _shown(change, sign="+")]


def _with_errors(table: str, evaluations: Sequence[Evaluation]) -> str:
    """Adds a line for each evaluation in which episodes broke."""
    lines = [
        f"Not counted: {sum(errors.values())} tasks of the evaluation after {iteration} iterations "
        f"({', '.join(f'{status} {count}' for status, count in sorted(errors.items()))})."
        for iteration, errors in ((e.iteration, e.errors) for e in evaluations)
        if errors
    ]
    return "\n".join([table, *lines])


def _rate(wins: Wins) -> Estimate:
    return intervals.rate(wins.won, wins.episodes)


def _difference(before: Wins, after: Wins) -> Estimate:
    return intervals.difference((before.won, before.episodes), (after.won, after.episodes))


def _shown(estimate: Estimate, *, sign: str = "") -> str:
    if not math.isfinite(estimate.value):
        return "-"
    value, low, high = (
        f"{number:{sign}.1%}" for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"
