"""Single behaviours of StepOPSD's shaping and its diagnostics, worked out by hand."""

import math

import pytest
import torch

from stepopsd_rllib.objectives import (
    StepTokens,
    effect_diagnostics,
    equalize_steps,
    gap_diagnostics,
    gap_outcome_correlation,
    hindsight_weights,
    linear_decay,
    stepopsd_advantages,
)


def test_weights_by_hand():
    """2σ(ln 1.5) = 1.2: the clip of α = 0.2 is reached at a gap of ln(1.2/0.8) = 0.405."""
    gap_BT = torch.tensor([[0.0, 0.2, math.log(1.5), 1.0, -1.0, 1.0]])
    advantages_BT = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, -1.0]])
    weights_BT = hindsight_weights(advantages_BT, gap_BT, torch.ones(1, 6), alpha_clip=0.2)
    expected = [1.0, 2 / (1 + math.exp(-0.2)), 1.2, 1.2, 0.8, 0.8]
    assert weights_BT[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("weight_fn", ["sigmoid", "exp"])
def test_infinite_gaps_saturate_and_leave_tokens_without_advantage_alone(weight_fn):
    advantages_BT = torch.tensor([[1.0, -1.0, 0.0]])
    for gap, expected in ((math.inf, [1.2, 0.8, 1.0]), (-math.inf, [0.8, 1.2, 1.0])):
        weights_BT = hindsight_weights(
            advantages_BT,
            torch.full((1, 3), gap),
            torch.ones(1, 3),
            alpha_clip=0.2,
            weight_fn=weight_fn,
        )
        torch.testing.assert_close(weights_BT, torch.tensor([expected]))


def test_a_step_over_two_rows_has_one_budget():
    """Turn 0 stretches over both rows: means 2 and 4, average 3, coefficients 1.5 and 0.75."""
    shaped_BT = torch.tensor([[1.0, 9.0, 4.0], [3.0, 9.0, 9.0]])
    mask_BT = torch.tensor([[1, 1, 1], [1, 1, 0]])
    step_BT = torch.tensor([[0, -1, 1], [0, -1, -1]])
    steps = StepTokens.from_index(step_BT, torch.tensor([5, 5]))
    equal_BT = equalize_steps(shaped_BT, torch.ones(2, 3), mask_BT, steps, eps=0.0)
    torch.testing.assert_close(equal_BT, torch.tensor([[1.5, 9.0, 3.0], [4.5, 9.0, 0.0]]))


def test_the_coefficient_is_bounded():
    """Means 1 and 9, their average 5: 5 and 5/9 without the bound, 2 and 5/9 with it."""
    shaped_BT = torch.tensor([[1.0, 9.0]])
    steps = StepTokens.from_spans([[(0, 1), (1, 2)]], num_positions=2)
    equal_BT = equalize_steps(shaped_BT, torch.ones(1, 2), torch.ones(1, 2), steps, eps=0.0)
    assert equal_BT[0].tolist() == pytest.approx([2.0, 5.0])


def test_an_episode_that_was_not_shaped_keeps_its_advantages_even_if_its_rows_differ():
    advantages_BT = torch.tensor([[1.0, 1.0], [0.9, 0.9]])
    steps = StepTokens.from_index(torch.tensor([[0, 0], [1, 1]]), torch.tensor([0, 0]))
    equal_BT = equalize_steps(advantages_BT, advantages_BT, torch.ones(2, 2), steps)
    assert torch.equal(equal_BT, advantages_BT)


def test_unknown_names_are_refused_with_the_known_ones():
    one_BT = torch.ones(1, 1)
    steps = StepTokens.from_spans([None], num_positions=1)
    with pytest.raises(ValueError, match=r"weight_fn='tanh'.*'sigmoid' or 'exp'"):
        hindsight_weights(one_BT, one_BT, one_BT, alpha_clip=0.2, weight_fn="tanh")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"step_normalization='sum'.*'none'"):
        stepopsd_advantages(
            one_BT,
            one_BT,
            one_BT,
            steps,
            alpha_clip=0.2,
            lambda_mix=0.2,
            step_normalization="sum",  # pyright: ignore[reportArgumentType]
        )


def test_first_and_last_update_of_the_schedule():
    assert linear_decay(0.2, step=1, decay_steps=50) == pytest.approx(0.98 * 0.2)
    assert linear_decay(0.2, step=49, decay_steps=50) == pytest.approx(0.02 * 0.2)
    assert linear_decay(0.2, step=50, decay_steps=50) == 0.0
    assert linear_decay(0.2, step=10**6, decay_steps=0) == 0.2


def test_gap_diagnostics_by_hand():
    gap_BT = torch.tensor([[0.5, -0.25, 0.00005, 7.0], [-1.0, 0.0, 2.0, 7.0]])
    is_scored_BT = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]])
    actual = {name: float(value) for name, value in gap_diagnostics(gap_BT, is_scored_BT).items()}
    mean = (0.5 - 0.25 + 0.00005 - 1.0 + 0.0 + 2.0) / 6
    squares = [(x - mean) ** 2 for x in (0.5, -0.25, 0.00005, -1.0, 0.0, 2.0)]
    expected = {
        "num_scored_tokens": 6,
        "gap_mean": mean,
        "gap_std": math.sqrt(sum(squares) / 6),
        "gap_min": -1.0,
        "gap_max": 2.0,
        "gap_abs_mean": (0.5 + 0.25 + 0.00005 + 1.0 + 2.0) / 6,
        "gap_abs_median": 0.25,
        "gap_p50": 0.0,
        "gap_p99": 2.0,
        "num_positive": 2,
        "num_negative": 2,
        "num_unchanged": 2,
        "changed_share": 4 / 6,
    }
    assert {name: actual[name] for name in expected} == pytest.approx(expected, abs=1e-7)


def test_nothing_scored_has_a_count_and_no_statistics():
    statistics = gap_diagnostics(torch.zeros(2, 2), torch.zeros(2, 2))
    assert {name: float(value) for name, value in statistics.items()} == {"num_scored_tokens": 0.0}


def test_the_size_of_the_effect_by_hand():
    """One saturated token of two with λ = 0.5, α = 0.2: 10 % there, 5 % on average."""
    advantages_BT, mask_BT = torch.tensor([[-2.0, -2.0, 0.0]]), torch.ones(1, 3)
    gap_BT, is_scored_BT = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[1, 1, 0]])
    shaped = stepopsd_advantages(
        advantages_BT,
        gap_BT,
        mask_BT,
        StepTokens.from_spans([[(0, 2)]], num_positions=3),
        alpha_clip=0.2,
        lambda_mix=0.5,
    )
    effect = effect_diagnostics(
        shaped.advantages, advantages_BT, shaped.weights, mask_BT, is_scored_BT, alpha_clip=0.2
    )
    assert {name: float(value) for name, value in effect.items()} == pytest.approx(
        {"weight_mean": 0.9, "clipped_share": 0.5, "effect_size": 0.05}
    )


def test_gap_follows_the_outcome():
    gap_BT = torch.tensor([[0.1, 0.3, 0.0], [-0.2, -0.2, 5.0]])
    is_scored_BT = torch.tensor([[1, 1, 1], [1, 1, 0]])
    steps = StepTokens.from_spans([[(0, 2), (2, 3)], [(0, 1), (1, 3)]], num_positions=3)
    outcome_B = torch.tensor([1.0, 0.0])
    # Step means 0.2 0.0 −0.2 −0.2 against 1 1 0 0: covariance 0.075, deviations 0.5 and √0.0275.
    expected = 0.075 / (0.5 * math.sqrt(0.0275))
    actual = gap_outcome_correlation(gap_BT, is_scored_BT, steps, outcome_B)
    assert actual.item() == pytest.approx(expected, rel=1e-5)
    same_B = torch.ones(2)
    assert gap_outcome_correlation(gap_BT, is_scored_BT, steps, same_B).item() == 0.0
