"""Verdicts after equal iterations, equal seconds and equal tokens, and their tables.

Where the environment grades, the rule is applied to task scores too, corrected among themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepopsd_rllib.report.comparison import Method, columns
from stepopsd_rllib.report.equal_compute import COMPUTES, at_equal_compute
from stepopsd_rllib.report.verdicts import DEFAULT_MARGIN, Verdict, verdicts


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetVerdicts:
    """Verdicts after equally much of something.

    Attributes:
        name: Of what, and how much.
        baseline: The method that the others are held against.
        margin: Largest difference that counts as none.
        verdicts: One a method, and one more on task scores where the environment grades.
        untrained: Methods without a verdict: their last evaluation within the budget is the one
            before training.
    """

    name: str
    baseline: str
    margin: float
    verdicts: tuple[Verdict, ...]
    untrained: tuple[str, ...]


def verdicts_by_budget(
    methods: Sequence[Method], baseline: str | None, plan: Mapping[str, Any]
) -> list[BudgetVerdicts]:
    """The verdicts at equal iterations, seconds and tokens; [] without a baseline to pair with.

    Args:
        methods: Finished runs.
        baseline: Label of the baseline.
        plan: `methods` and `margin` of the plan, as `run.json` keeps them.
    """
    planned = max(len(plan.get("methods", ())), len(methods)) - 1
    margin = plan.get("margin", DEFAULT_MARGIN)
    budgets = [("equal iterations", list(methods))]
    for compute in COMPUTES:
        limited, budget = at_equal_compute(methods, compute)
        budgets.append((f"equal {compute} ({budget:,.0f} a run)", limited))
    by_budget = []
    for name, found in budgets:
        if baseline is None or not any(method.name == baseline for method in found):
            continue
        untrained = [method.name for method in found if min(method.iterations) == 0]
        trained = [method for method in found if method.name not in untrained]
        base = next((method for method in trained if method.name == baseline), None)
        judged: list[Verdict] = []
        if base is not None and len(trained) > 1:
            judged += verdicts(trained, base, planned=planned, margin=margin)
            judged += _of_scores(trained, base, planned=planned, margin=margin)
        by_budget.append(
            BudgetVerdicts(
                name=name,
                baseline=baseline,
                margin=margin,
                verdicts=tuple(judged),
                untrained=tuple(untrained),
            )
        )
    return by_budget


def verdict_tables(by_budget: Sequence[BudgetVerdicts]) -> list[str]:
    """A table of each budget's verdicts, and a sentence on the methods that have none."""
    tables = []
    for budget in by_budget:
        if budget.verdicts:
            tables.append(verdict_table(budget.verdicts, budget.baseline, budget.name))
        if budget.untrained:
            tables.append(
                f"against {budget.baseline}, {budget.name}: no verdict on "
                f"{', '.join(budget.untrained)}, whose last evaluation within that budget is the "
                "one before training (a smaller evaluation_interval sees more)."
            )
    return tables


def _of_scores(
    methods: Sequence[Method], base: Method, *, planned: int, margin: float
) -> list[Verdict]:
    """The verdicts on task scores; [] where the environment does not grade."""
    graded = [found for method in methods if (found := method.graded()) is not None]
    theirs = base.graded()
    if theirs is None:
        return []
    judged = verdicts(graded, theirs, planned=planned, margin=margin)
    return [replace(each, name=f"{each.name}, task score") for each in judged]


def verdict_table(found: Sequence[Verdict], base: str, budget: str) -> str:
    """One line a method.

    Args:
        found: The verdicts.
        base: Name of the baseline.
        budget: What all methods had equally much of, for the heading.
    """
    header = [f"against {base}, {budget}", "seeds", "P(improvement)", "p, Holm", "verdict"]
    rows = [
        [
            each.name,
            str(each.seeds),
            f"{each.improvement:.2f} [{each.improvement_interval[0]:.2f}, "
            f"{each.improvement_interval[1]:.2f}]",
            f"{each.p:.4f}",
            each.words,
        ]
        for each in found
    ]
    return columns([header, *rows])
