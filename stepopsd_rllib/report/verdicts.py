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

The probability of improvement is that a run of the method beats a run of the baseline on a kind of
task, a tie counting one half, as a mean over the kinds (Agarwal et al., arXiv:2108.13264).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from statsmodels.stats.multitest import multipletests

from stepopsd_rllib.evaluation.intervals import CONFIDENCE
from stepopsd_rllib.report.comparison import (
    Interval,
    Method,
    bootstrap_means,
    paired_scores,
    percentile_interval,
)

Kind = Literal["better", "worse", "no difference", "no evidence", "too few seeds"]
"""What the rule says, in short."""

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
        kind: What the rule says.
        words: The same as a sentence, with the interval.
    """

    name: str
    seeds: int
    difference: float
    interval: Interval
    p: float
    improvement: float
    improvement_interval: Interval
    kind: Kind
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
        seeds = len(differences_SM)
        kind = judge(difference, interval, p, seeds=seeds, margin=margin)
        improvement, improvement_interval = probability_of_improvement(method, base)
        found.append(
            Verdict(
                name=method.name,
                seeds=seeds,
                difference=difference,
                interval=interval,
                p=p,
                improvement=improvement,
                improvement_interval=improvement_interval,
                kind=kind,
                words=words(kind, difference, interval, seeds=seeds, margin=margin),
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


def judge(
    difference: float, interval: Interval, p: float, *, seeds: int, margin: float = DEFAULT_MARGIN
) -> Kind:
    """The rule of the module's docstring, on shares of success."""
    if seeds < MIN_SEEDS:
        return "too few seeds"
    if p < SIGNIFICANT:
        return "better" if difference > 0 else "worse"
    low, high = interval
    return "no difference" if -margin <= low and high <= margin else "no evidence"


def words(
    kind: Kind,
    difference: float,
    interval: Interval,
    *,
    seeds: int,
    margin: float = DEFAULT_MARGIN,
) -> str:
    """A verdict as a sentence; numbers are points of success."""
    says = {
        "better": f"better by {100 * difference:.1f} points",
        "worse": f"worse by {-100 * difference:.1f} points",
        "no difference": f"no difference above {100 * margin:g} points",
        "no evidence": "no evidence of a difference",
        "too few seeds": f"too few seeds for a verdict ({seeds})",
    }[kind]
    low, high = interval
    return f"{says}: interval [{100 * low:+.1f}, {100 * high:+.1f}]"


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
