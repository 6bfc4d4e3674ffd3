"""Intervals against the equations that define them."""

import math

import pytest

from stepopsd_rllib.evaluation import intervals
from stepopsd_rllib.evaluation.intervals import Estimate

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


@pytest.mark.parametrize(("won", "episodes"), [(0, 10), (3, 10), (10, 10), (67, 120)])
def test_wilsons_bounds_solve_their_defining_equation(won: int, episodes: int):
    """Both bounds p fulfil |won/n - p| = z sqrt(p (1 - p) / n)."""
    rate = intervals.rate(won, episodes)
    assert rate.value == won / episodes
    for bound in (rate.low, rate.high):
        distance = Z * math.sqrt(max(0.0, bound * (1 - bound)) / episodes)
        assert abs(rate.value - bound) == pytest.approx(distance, rel=1e-9, abs=1e-9)


def test_a_difference_is_newcombes_from_the_wilson_bounds():
    """Newcombe 1998, method 10: d -+ sqrt of squared distances to the Wilson bounds."""
    before, after = intervals.rate(5, 40), intervals.rate(23, 40)
    change = intervals.difference((5, 40), (23, 40))
    assert change.value == pytest.approx(18 / 40)
    low = change.value - math.hypot(after.value - after.low, before.high - before.value)
    high = change.value + math.hypot(after.high - after.value, before.value - before.low)
    assert (change.low, change.high) == pytest.approx((low, high), abs=1e-9)


def test_the_mean_of_one_part_is_that_part():
    part = Estimate(value=0.3, low=0.1, high=0.9)
    mean = intervals.unweighted_mean([part])
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.3, 0.1, 0.9))


def test_the_mean_of_k_like_parts_is_narrower_by_the_root_of_k():
    part = Estimate(value=0.3, low=0.1, high=0.9)
    mean = intervals.unweighted_mean([part] * 4)
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.3, 0.2, 0.6))


def test_the_interval_of_a_mean_covers_it_in_about_95_of_100_samples():
    """Parts of very different size and rate, as the sources of a search benchmark are."""
    import numpy as np

    rng = np.random.default_rng(0)
    sizes, rates = np.array([10, 125, 2000]), np.array([0.3, 0.6, 0.1])
    covered = 0
    for won in rng.binomial(sizes, rates, size=(400, 3)):
        mean = intervals.unweighted_mean(
            [intervals.rate(int(w), int(n)) for w, n in zip(won, sizes, strict=True)]
        )
        covered += mean.low <= rates.mean() <= mean.high
    assert 0.92 <= covered / 400 <= 0.99


def test_where_nothing_was_counted_nothing_is_known():
    for estimate in (
        intervals.rate(0, 0),
        intervals.difference((0, 0), (1, 2)),
        intervals.difference((1, 2), (0, 0)),
        intervals.unweighted_mean([]),
        intervals.unweighted_mean([intervals.rate(1, 2), intervals.UNKNOWN]),
    ):
        assert math.isnan(estimate.value) and math.isnan(estimate.low)


def test_the_mean_of_scores_has_students_interval():
    """Four scores 0, ½, ½, 1: mean ½, s = √(1/6), t₃ = 3.18244630528."""
    estimate = intervals.mean([0.0, 0.5, 0.5, 1.0])
    width = 3.18244630528 * math.sqrt(1 / 6) / 2
    assert estimate.value == 0.5
    assert (estimate.low, estimate.high) == pytest.approx((max(0.0, 0.5 - width), 1.0))
    wide = intervals.mean([0.25, 0.75] * 50)
    assert wide.high - wide.value == pytest.approx(wide.value - wide.low)


@pytest.mark.parametrize(("score", "won"), [(0.0, 0), (1.0, 12)])
def test_scores_without_spread_have_the_interval_of_a_rate(score: float, won: int):
    mean, rate = intervals.mean([score] * 12), intervals.rate(won, 12)
    assert (mean.value, mean.low, mean.high) == pytest.approx((rate.value, rate.low, rate.high))


def test_no_scores_have_no_mean():
    assert math.isnan(intervals.mean([]).value)


def test_a_difference_of_means_is_newcombes_of_their_bounds():
    before, after = intervals.rate(5, 40), intervals.rate(23, 40)
    known = intervals.difference((5, 40), (23, 40))
    change = intervals.difference_of_means(before, after)
    assert (change.low, change.high) == pytest.approx((known.low, known.high), abs=1e-9)
