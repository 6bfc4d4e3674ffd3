"""Single behaviours of the objectives: numbers by hand, gradients, overflow, refusals."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from stepopsd_rllib.objectives import (
    LossCounts,
    aggregate,
    clipped_surrogate,
    group_advantages,
    is_informative,
    kl_divergence,
    masked_mean,
    masked_sum,
    same_shape,
    sequence_log_ratio,
    token_log_ratio,
    token_weights,
    turn_index,
    weighted_sum,
)
from stepopsd_rllib.reference.token_rewards import token_entropy

ONES = torch.ones(1, 1)


def test_one_penalised_row_in_eight_failures():
    """Mean −1/80, deviation 0.1/√8: −0.0875 · √8 / 0.1 = −2.4749 and 0.0125 · √8 / 0.1."""
    returns_B = torch.tensor([-0.1] + [0.0] * 7)
    advantages_B = group_advantages(returns_B, torch.zeros(8, dtype=torch.long))
    assert advantages_B[0].item() == pytest.approx(-2.4749, abs=2e-4)
    assert advantages_B[1:].tolist() == pytest.approx([0.35355] * 7, abs=2e-5)


def test_float32_rounding_of_a_mean_is_no_advantage():
    returns_B = torch.full((8,), 0.7) + torch.tensor([0.0, 5e-9] * 4)
    group_B = torch.zeros(8, dtype=torch.long)
    assert not group_advantages(returns_B, group_B).any()
    exact_B = torch.tensor([-0.1] * 8, dtype=torch.float64) + torch.tensor([0.0, 5e-9] * 4)
    assert not group_advantages(exact_B, group_B).any()


def test_episode_statistics_of_a_flat_group_blow_up_a_later_row():
    """The reference's behaviour, and why rows of one episode should share their return."""
    returns_B = torch.tensor([0.0, 0.0, -0.1])
    group_B, episode_B = torch.zeros(3, dtype=torch.long), torch.tensor([0, 1, 1])
    advantages_B = group_advantages(returns_B, group_B, episode_B=episode_B)
    assert advantages_B.tolist() == pytest.approx([0.0, 0.0, -1e5])


def test_an_empty_batch_has_no_advantages():
    empty_B, no_rows = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert group_advantages(empty_B, no_rows).shape == (0,)
    assert group_advantages(empty_B, no_rows, episode_B=no_rows).shape == (0,)
    assert is_informative(empty_B, no_rows).shape == (0,)
    assert turn_index(no_rows).shape == (0,)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "gradient"),
    [
        (0.0, 2.0, -2.0, -2.0),
        (math.log(1.5), 2.0, -2.56, 0.0),  # clip-higher: 2 · 1.28
        (math.log(0.5), 2.0, -1.0, -1.0),
        (math.log(0.5), -2.0, 1.6, 0.0),  # lower clip: 2 · 0.8
        (math.log(1.5), -2.0, 3.0, 3.0),
        (math.log(5.0), -2.0, 6.0, 0.0),  # dual clip: 2 · 3
    ],
)
def test_surrogate_by_hand(log_ratio, advantage, loss, gradient):
    log_ratio_BT = torch.tensor([[log_ratio]], requires_grad=True)
    surrogate = clipped_surrogate(
        log_ratio_BT, torch.tensor([[advantage]]), ONES, clip_low=0.2, clip_high=0.28, dual_clip=3.0
    )
    surrogate.loss.sum().backward()
    assert surrogate.loss.item() == pytest.approx(loss, rel=1e-6)
    assert log_ratio_BT.grad is not None
    assert log_ratio_BT.grad.item() == pytest.approx(gradient, rel=1e-6)


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("difference", [-500.0, 500.0])
@pytest.mark.parametrize("log_ratio_of", [token_log_ratio, sequence_log_ratio])
def test_an_extreme_ratio_gives_a_finite_loss_and_gradient(advantage, difference, log_ratio_of):
    policy_BT = torch.tensor([[difference]], requires_grad=True)
    log_ratio_BT = log_ratio_of(policy_BT, torch.zeros(1, 1), ONES)
    surrogate = clipped_surrogate(
        log_ratio_BT, torch.tensor([[advantage]]), ONES, clip_low=0.2, clip_high=0.2
    )
    (surrogate.loss + kl_divergence(policy_BT, torch.zeros(1, 1), ONES)).sum().backward()
    assert surrogate.loss.isfinite().all()
    assert policy_BT.grad is not None
    assert policy_BT.grad.isfinite().all()


def test_the_log_of_a_sequence_ratio_is_at_most_ten():
    policy_BT = torch.tensor([[15.0, 13.0]])
    assert sequence_log_ratio(policy_BT, torch.zeros(1, 2), torch.ones(1, 2)).tolist() == [[10, 10]]


def test_autograd_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)

    def normal():
        return torch.randn(3, 4, generator=generator, dtype=torch.float64)

    policy_BT = normal().requires_grad_()
    old_BT, reference_BT, advantages_BT = normal(), normal(), normal()
    mask_BT = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])
    weights_BT = token_weights(mask_BT, "seq-mean-token-mean", LossCounts.of(mask_BT)).double()

    def loss(policy_BT):
        log_ratio_BT = token_log_ratio(policy_BT, old_BT, mask_BT)
        surrogate = clipped_surrogate(
            log_ratio_BT, advantages_BT, mask_BT, clip_low=0.2, clip_high=0.3, dual_clip=3.0
        )
        kl_BT = kl_divergence(policy_BT, reference_BT, mask_BT)
        return weighted_sum(surrogate.loss + 0.1 * kl_BT, weights_BT)

    assert gradcheck(loss, (policy_BT,))
    assert gradcheck(token_entropy, (normal().requires_grad_(),))


def test_entropy_of_equal_logits_is_the_log_of_their_number():
    assert token_entropy(torch.zeros(2, 5)).tolist() == pytest.approx([math.log(5)] * 2)


def test_a_row_without_tokens_has_no_weight_and_does_not_count():
    mask_BT = torch.tensor([[1, 1], [0, 0]])
    counts = LossCounts.of(mask_BT)
    assert (counts.num_tokens, counts.num_rows) == (2, 1)
    assert token_weights(mask_BT, "seq-mean-token-mean", counts).tolist() == [[0.5, 0.5], [0, 0]]
    assert aggregate(torch.ones(2, 2), mask_BT, "seq-mean-token-mean").isnan()


def test_masked_statistics_ignore_what_is_not_counted():
    values_BT, mask_BT = torch.tensor([[1.0, math.nan, 4.0]]), torch.tensor([[True, False, True]])
    assert masked_sum(values_BT, mask_BT).item() == 5.0
    assert masked_sum(values_BT, mask_BT, dim=1).tolist() == [5.0]
    assert masked_mean(values_BT, mask_BT).item() == 2.5
    assert masked_mean(values_BT, torch.zeros(1, 3)).item() == 0.0


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"first \[2, 3\], second \[3\]"):
        same_shape(first=torch.zeros(2, 3), second=torch.zeros(3))
    with pytest.raises(ValueError, match="mask"):
        token_log_ratio(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1))


def test_unknown_names_are_refused_with_the_known_ones():
    counts = LossCounts.of(ONES)
    with pytest.raises(ValueError, match=r"aggregation='mean'.*token-mean"):
        token_weights(ONES, "mean", counts)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"aggregation='mean'.*token-mean"):
        aggregate(ONES, ONES, "mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"estimator='k4'.*k3"):
        kl_divergence(ONES, ONES, ONES, estimator="k4")  # pyright: ignore[reportArgumentType]


def test_parts_of_a_minibatch_must_share_the_constant_divisor():
    with pytest.raises(ValueError, match=r"4\.0 and 8\.0.*constant_divisor"):
        _ = LossCounts.of(ONES, constant_divisor=4.0) + LossCounts.of(ONES, constant_divisor=8.0)
