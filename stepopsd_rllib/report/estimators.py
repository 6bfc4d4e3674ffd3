"""What few runs say of a method (Agarwal et al., arXiv:2108.13264): estimators and their intervals.

Scores are matrices of runs and tasks: `scores_RM[r, m]` is what run r reached on task m. In a
comparison a run is a seed and a task is a task type, whose score is the share of its games won.

Point estimates equal those of the authors' library rliable (a test says so where it is installed).
It is not a dependency: its bootstrap draws from NumPy's global generator whatever seed it is given,
and it brings plotting libraries. Intervals are percentile intervals of the same stratified
bootstrap: the runs of each task are drawn anew, with replacement, each task by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import trim_mean

from stepopsd_rllib.evaluation.intervals import CONFIDENCE, Estimate

RESAMPLES = 2000
QUARTILE = 0.25
SEED = 0
"""Of every bootstrap: the same scores give the same interval."""


def interquartile_mean(scores_RM: np.ndarray) -> float:
    """Mean of the middle half of all scores, over runs and tasks.

    Args:
        scores_RM: Float [runs, tasks].
    """
    return float(trim_mean(scores_RM.ravel(), QUARTILE))


def probability_of_improvement(first_RM: np.ndarray, second_QM: np.ndarray) -> float:
    """Probability that a run of the first does better than one of the second on the same task.

        P = 1/M Σₘ P(Xₘ > Yₘ),   P(Xₘ > Yₘ) = 1/(R Q) Σᵣ Σ_q ( 1[xᵣₘ > y_qₘ] + ½ 1[xᵣₘ = y_qₘ] )

    This is the Mann-Whitney U statistic over its maximum, averaged over the tasks.

    Args:
        first_RM: Float [runs, tasks].
        second_QM: Float [other runs, the same tasks].

    Returns:
        Between 0 and 1; 0.5 where neither is better.
    """
    difference_RQM = first_RM[:, None] - second_QM[None]
    return float((np.sign(difference_RQM) / 2 + 0.5).mean())


def performance_profile(scores_RM: np.ndarray, thresholds_T: np.ndarray) -> np.ndarray:
    """Share of runs and tasks whose score is above each threshold: F(τ) = mean 1[x > τ].

    Args:
        scores_RM: Float [runs, tasks].
        thresholds_T: Float [thresholds].

    Returns:
        Float [thresholds], never rising.
    """
    return (scores_RM[None] > thresholds_T[:, None, None]).mean(axis=(1, 2))


def interval(scores_RM: np.ndarray, statistic: Callable[[np.ndarray], float]) -> Estimate:
    """A statistic of one method's scores with its 95 % interval."""
    drawn = [statistic(sample) for sample in _resampled(scores_RM, 0)]
    return _estimate(statistic(scores_RM), np.array(drawn))


def improvement_interval(first_RM: np.ndarray, second_QM: np.ndarray) -> Estimate:
    """`probability_of_improvement` with its 95 % interval; both methods' runs are drawn anew."""
    drawn = [
        probability_of_improvement(x, y)
        for x, y in zip(_resampled(first_RM, 0), _resampled(second_QM, 1), strict=True)
    ]
    return _estimate(probability_of_improvement(first_RM, second_QM), np.array(drawn))


def profile_band(
    scores_RM: np.ndarray, thresholds_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`performance_profile` with a pointwise 95 % band.

    Returns:
        Profile, low and high end, float [thresholds] each.
    """
    drawn = np.array([performance_profile(s, thresholds_T) for s in _resampled(scores_RM, 0)])
    low, high = np.quantile(drawn, _tails(), axis=0)
    return performance_profile(scores_RM, thresholds_T), low, high


def mean_band(seeds_SI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise 95 % band of the mean over seeds, from a bootstrap of whole seeds.

    With few seeds it is too narrow: of three, the mean of a resample is never outside of their
    range.

    Args:
        seeds_SI: Float [seeds, iterations].

    Returns:
        Low and high end, float [iterations] each.
    """
    rng = np.random.default_rng(SEED)
    chosen = rng.integers(len(seeds_SI), size=(RESAMPLES, len(seeds_SI)))
    low, high = np.quantile(seeds_SI[chosen].mean(axis=1), _tails(), axis=0)
    return low, high


def _resampled(scores_RM: np.ndarray, stream: int) -> Sequence[np.ndarray]:
    """Resamples, [resamples, runs, tasks]: of each task, its runs drawn with replacement."""
    rng = np.random.default_rng([SEED, stream])
    chosen = rng.integers(len(scores_RM), size=(RESAMPLES, *scores_RM.shape))
    return np.take_along_axis(np.broadcast_to(scores_RM, chosen.shape), chosen, axis=1)  # type: ignore[return-value]


def _tails() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    low, high = np.quantile(drawn, _tails())
    return Estimate(value=value, low=float(low), high=float(high))
