"""How the weight λ of a shaping method falls over the training iterations, counted from 1."""

from __future__ import annotations


def linear_decay(initial: float, *, step: int, decay_steps: int) -> float:
    """λ_t = λ_0 · max(0, 1 − t/D); constant λ_0 for D ≤ 0 (StepOPSD, GRSD).

    The first update already uses λ_0 (1 − 1/D), the last one that is not zero is t = D − 1.

    Args:
        initial: λ_0.
        step: t, counted from 1.
        decay_steps: D, in training iterations.

    Returns:
        λ_t, within [0, λ_0].
    """
    if decay_steps <= 0:
        return initial
    return initial * max(0.0, 1.0 - step / decay_steps)


def linear_warm_down(initial: float, *, step: int, window: int) -> float:
    """λ_t = 0 if t ≥ W else λ_0 · (1 − t/W) (RLSD, arXiv:2604.03128).

    Equals `linear_decay` for W > 0. For W ≤ 0 the shaping is off, where `linear_decay` never
    decays.

    Args:
        initial: λ_0.
        step: t, counted from 1.
        window: W, in training iterations.

    Returns:
        λ_t, within [0, λ_0].
    """
    if step >= window:
        return 0.0
    return initial * (1.0 - step / window)
