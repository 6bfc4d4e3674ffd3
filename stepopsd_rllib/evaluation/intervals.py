"""95 % intervals of success rates, of their differences, and of unweighted means of either.

One rate: Wilson's score interval. A difference of two rates: Newcombe's (Statistics in Medicine 17,
1998, method 10). An unweighted mean over kinds of tasks: the squared distances of the parts' bounds
from their values add up (Zou and Donner, Statistics in Medicine 27, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest
from statsmodels.stats.proportion import confint_proportions_2indep

CONFIDENCE = 0.95
"""Of every interval."""


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
    interval = binomtest(won, episodes).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(value=won / episodes, low=float(interval.low), high=float(interval.high))


def difference(before: tuple[int, int], after: tuple[int, int]) -> Estimate:
    """Rate after minus rate before, each given as (won, episodes), with Newcombe's interval.

    It treats the two as independent samples; evaluations of one run play the same tasks, so it is
    rather too wide than too narrow.
    """
    if before[1] == 0 or after[1] == 0:
        return UNKNOWN
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
