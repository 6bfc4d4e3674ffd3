"""95 % intervals of success rates, of graded scores, of their differences, and of means of either.

One rate: Wilson's score interval. One mean of scores: Student's t. A difference of two rates:
Newcombe's (Statistics in Medicine 17, 1998, method 10); of two means: the same, from their own
bounds. An unweighted mean over kinds of tasks: the squared distances of the parts' bounds from
their values add up (Zou and Donner, Statistics in Medicine 27, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# SciPy's statistics and statsmodels take a second to import, which no run should wait for before
# it samples: the functions that need them import them.

CONFIDENCE = 0.95
"""Confidence of every interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its interval; all nan where nothing was counted."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(value=math.nan, low=math.nan, high=math.nan)


def rate(won: int, episodes: int) -> Estimate:
    """A success rate with Wilson's interval."""
    if episodes == 0:
        return UNKNOWN
    from scipy.stats import binomtest

    interval = binomtest(won, episodes).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(value=won / episodes, low=float(interval.low), high=float(interval.high))


def mean(scores: Sequence[float]) -> Estimate:
    """The mean of scores between 0 and 1 with Student's interval.

    m ± t₍ₙ₋₁₎ s / √n, cut at 0 and 1. Equal scores say nothing of their spread: then the interval
    is the widest that a score between 0 and 1 can have, Wilson's.
    """
    if not scores:
        return UNKNOWN
    from scipy.stats import t as student_t

    values = np.asarray(scores, dtype=np.float64)
    value, count = float(values.mean()), len(values)
    if np.ptp(values) == 0:
        z2 = float(student_t.ppf(0.5 + CONFIDENCE / 2, math.inf)) ** 2
        centre = (value + z2 / (2 * count)) / (1 + z2 / count)
        spread = math.sqrt(value * (1 - value) / count + z2 / (4 * count**2))
        spread *= math.sqrt(z2) / (1 + z2 / count)
        return Estimate(value=value, low=max(0.0, centre - spread), high=min(1.0, centre + spread))
    width = float(student_t.ppf(0.5 + CONFIDENCE / 2, count - 1))
    width *= float(values.std(ddof=1)) / math.sqrt(count)
    return Estimate(value=value, low=max(0.0, value - width), high=min(1.0, value + width))


def difference_of_means(before: Estimate, after: Estimate) -> Estimate:
    """Mean after minus mean before, as if of independent samples.

    L = d - √((a - lₐ)² + (u_b - b)²),  U = d + √((uₐ - a)² + (b - l_b)²)
    """
    change = after.value - before.value
    below = math.hypot(after.value - after.low, before.high - before.value)
    above = math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(value=change, low=change - below, high=change + above)


def difference(before: tuple[int, int], after: tuple[int, int]) -> Estimate:
    """Rate after minus rate before, each given as (won, episodes), with Newcombe's interval.

    It treats the two as independent samples; evaluations of one run play the same tasks, so it is
    rather too wide than too narrow.
    """
    if before[1] == 0 or after[1] == 0:
        return UNKNOWN
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(
        *after, *before, compare="diff", method="newcomb", alpha=1.0 - CONFIDENCE
    )
    change = after[0] / after[1] - before[0] / before[1]
    return Estimate(value=change, low=float(low), high=float(high))


def unweighted_mean(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, every one counting the same.

    L = p̄ - √Σ(pₖ - lₖ)² / K,  U = p̄ + √Σ(uₖ - pₖ)² / K
    """
    if not parts:
        return UNKNOWN
    mean = math.fsum(part.value for part in parts) / len(parts)
    below = math.hypot(*(part.value - part.low for part in parts)) / len(parts)
    above = math.hypot(*(part.high - part.value for part in parts)) / len(parts)
    return Estimate(value=mean, low=mean - below, high=mean + above)
