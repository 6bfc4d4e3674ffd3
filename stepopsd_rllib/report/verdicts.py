"""What a comparison comes to, in words that follow a stated rule.

A method is paired with the baseline (`comparison.paired_scores`). p is the bootstrap's, of the same
draws as the interval: twice the smaller share of resampled mean differences on one side of 0,

    p = 2 · (1 + min(#{d ≤ 0}, #{d ≥ 0})) / (1 + resamples),  at most 1

and is corrected for the number of planned comparisons (Holm 1979; the plan counts, not what was
finished). The rule, in this order:

1. fewer than three seeds: too few seeds for a verdict;
2. corrected p below 0.05: better, or worse;
3. the whole interval within ± the margin of the plan: no difference above the margin;
4. else: no evidence of a difference. That is no evidence of equality.

Where the environment grades, the rule is applied to task scores too, corrected among themselves.

The probability of improvement is that a run of the method beats a run of the baseline on a kind of
task, a tie counting one half, as a mean over the kinds (Agarwal et al., arXiv:2108.13264).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from statsmodels.stats.multitest import multipletests

from stepopsd_rllib.evaluation.intervals import CONFIDENCE
from stepopsd_rllib.report.comparison import (
    Interval,
    Method,
    bootstrap_means,
    columns,
    paired_scores,
    percentile_interval,
)
from stepopsd_rllib.report.equal_compute import COMPUTES, at_equal_compute

SIGNIFICANT = 1 - CONFIDENCE
MIN_SEEDS = 3
DEFAULT_MARGIN = 0.05
"""Largest difference of success that counts as none, where a plan says nothing else."""
_RESAMPLES = 2000  # of the probability of improvement


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A method against the baseline.

    Attributes:
        name: The method.
        seeds: That both have.
        difference: Mean difference of success.
        interval: 95 % interval of the difference.
        p: Corrected for the number of planned comparisons.
        improvement: Probability of improvement.
        improvement_interval: 95 % interval of the probability over the seeds.
        words: What the rule says.
    """

    name: str
    seeds: int
    difference: float
    interval: Interval
    p: float
    improvement: float
    improvement_interval: Interval
    words: str


def verdicts(
    methods: Sequence[Method], base: Method, *, planned: int, margin: float = DEFAULT_MARGIN
) -> list[Verdict]:
    """What the rule says of every method but the baseline.

    Args:
        methods: The methods, with or without the baseline.
        base: The baseline.
        planned: How many comparisons with the baseline were planned, finished or not.
        margin: Largest difference that counts as none.

    Raises:
        ValueError: A method has no seed, or no task, in common with the baseline.
    """
    others = [method for method in methods if method.name != base.name]
    scores = [paired_scores(method, base) for method in others]
    draws = [bootstrap_means(differences_SM) for differences_SM in scores]
    found = []
    for method, differences_SM, means, p in zip(
        others, scores, draws, holm([bootstrap_p(means) for means in draws], planned), strict=True
    ):
        difference, interval = float(differences_SM.mean()), percentile_interval(means)
        improvement, improvement_interval = probability_of_improvement(method, base)
        found.append(
            Verdict(
                name=method.name,
                seeds=len(differences_SM),
                difference=difference,
                interval=interval,
                p=p,
                improvement=improvement,
                improvement_interval=improvement_interval,
                words=words(difference, interval, p, seeds=len(differences_SM), margin=margin),
            )
        )
    return found


def bootstrap_p(means: np.ndarray) -> float:
    """Two-sided p of "no difference" from resampled mean differences."""
    smaller = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (1 + smaller) / (1 + len(means)))


def holm(p_values: Sequence[float], planned: int) -> list[float]:
    """Corrected p-values; comparisons that were planned and are not there count as p = 1."""
    if not p_values:
        return []
    padded = [*p_values, *[1.0] * (planned - len(p_values))]
    corrected: Any = multipletests(padded, method="holm")[1]
    return [float(p) for p in corrected[: len(p_values)]]


def words(
    difference: float, interval: Interval, p: float, *, seeds: int, margin: float = DEFAULT_MARGIN
) -> str:
    """The rule of the module's docstring; numbers are points of success."""
    low, high = interval
    shown = f"interval [{100 * low:+.1f}, {100 * high:+.1f}]"
    if seeds < MIN_SEEDS:
        return f"too few seeds for a verdict ({seeds}): {shown}"
    if p < SIGNIFICANT:
        way = "better" if difference > 0 else "worse"
        return f"{way} by {100 * abs(difference):.1f} points: {shown}"
    if -margin <= low and high <= margin:
        return f"no difference above {100 * margin:g} points: {shown}"
    return f"no evidence of a difference: {shown}"


def probability_of_improvement(method: Method, base: Method) -> tuple[float, Interval]:
    """P(method's run > baseline's run) over kinds of tasks, and its interval over the seeds."""
    ours, theirs = method.type_rates(), base.type_rates()
    kinds = sorted(set(ours) & set(theirs))
    # [kinds, our seeds, their seeds]
    wins = np.array([_wins(np.array(ours[kind]), np.array(theirs[kind])) for kind in kinds])
    rng = np.random.default_rng(0)
    our_draws = rng.integers(wins.shape[1], size=(_RESAMPLES, wins.shape[1]))
    their_draws = rng.integers(wins.shape[2], size=(_RESAMPLES, wins.shape[2]))
    by_pair = wins.mean(axis=0)
    means = np.array(
        [
            by_pair[np.ix_(our, their)].mean()
            for our, their in zip(our_draws, their_draws, strict=True)
        ]
    )
    return float(wins.mean()), percentile_interval(means)


def _wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (ours[:, None] > theirs[None, :]) + 0.5 * (ours[:, None] == theirs[None, :])


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
