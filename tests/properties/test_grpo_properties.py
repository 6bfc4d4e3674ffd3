"""What holds for every batch: group advantages, surrogate, aggregation, divergences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.objectives import (
    LossCounts,
    clipped_surrogate,
    group_advantages,
    invalid_action_penalties,
    is_informative,
    kl_divergence,
    sequence_log_ratio,
    token_log_ratio,
    token_weights,
    truncated_importance_weights,
    turn_index,
    weighted_sum,
)
from stepopsd_rllib.objectives.reduction import AGGREGATIONS
from stepopsd_rllib.reference.token_rewards import add_at_last_token, token_entropy
from tests.helpers.batches import batches

groups_of_returns = st.lists(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8), min_size=1, max_size=4
)
CLIP = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}


def flatten(groups):
    returns_B = torch.tensor([value for group in groups for value in group])
    group_B = torch.tensor([7 * k for k, group in enumerate(groups) for _ in group])
    return returns_B, group_B


@given(groups_of_returns)
def test_advantages_follow_the_equation(groups):
    """A slow loop over plain floats that spells out the paper's equation."""
    returns_B, group_B = flatten(groups)
    expected = []
    for group in groups:
        n = len(group)
        if n == 1:
            expected.append(group[0] / (1.0 + 1e-6))
            continue
        mean = math.fsum(group) / n
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in group) / (n - 1))
        is_flat = max(group) - min(group) < 1e-8
        expected += [0.0 if is_flat else (value - mean) / (deviation + 1e-6) for value in group]
    torch.testing.assert_close(
        group_advantages(returns_B, group_B), torch.tensor(expected), rtol=1e-4, atol=1e-5
    )


@given(groups_of_returns)
def test_advantages_of_a_group_sum_to_zero_with_deviation_one(groups):
    returns_B, group_B = flatten(groups)
    advantages_B = group_advantages(returns_B, group_B)
    for k, group in enumerate(groups):
        members = advantages_B[group_B == 7 * k].double()
        if len(group) > 1 and max(group) - min(group) > 0.01:
            assert abs(members.sum()) < 1e-5
            assert members.std() == pytest.approx(1.0, abs=1e-3)


@given(
    groups_of_returns,
    st.integers(-8, 8).map(float),
    st.sampled_from([0.5, 2.0, 8.0]),
    st.booleans(),
)
def test_advantages_ignore_a_constant_and_a_scale_when_normalised(
    groups, constant, scale, normalize
):
    groups = [[round(value) + 0.0 for value in group] for group in groups]
    groups = [group if len(group) > 1 else group * 2 for group in groups]
    returns_B, group_B = flatten(groups)
    before_B = group_advantages(returns_B, group_B, normalize=normalize)
    moved_B = group_advantages(returns_B + constant, group_B, normalize=normalize)
    torch.testing.assert_close(moved_B, before_B, rtol=1e-5, atol=1e-5)
    scaled_B = group_advantages(returns_B * scale, group_B, normalize=normalize)
    expected_B = before_B if normalize else before_B * scale
    torch.testing.assert_close(scaled_B, expected_B, rtol=1e-4, atol=1e-5)


@given(groups_of_returns, st.randoms(use_true_random=False))
def test_advantages_follow_the_rows_and_their_group_alone(groups, random):
    returns_B, group_B = flatten(groups)
    before_B = group_advantages(returns_B, group_B)
    order = list(range(len(returns_B)))
    random.shuffle(order)
    torch.testing.assert_close(group_advantages(returns_B[order], group_B[order]), before_B[order])
    is_first_B = group_B == 0
    alone_B = group_advantages(returns_B[is_first_B], group_B[is_first_B])
    torch.testing.assert_close(alone_B, before_B[is_first_B])


@given(st.floats(-10, 10, width=32), st.integers(2, 16), st.booleans())
def test_equal_returns_carry_no_signal(value, size, normalize):
    returns_B = torch.full((size,), value)
    group_B = torch.zeros(size, dtype=torch.long)
    assert not group_advantages(returns_B, group_B, normalize=normalize).any()
    assert not is_informative(returns_B, group_B).any()


@given(st.floats(-10, 10, width=32))
def test_a_group_of_one_keeps_its_return(value):
    returns_B, group_B = torch.tensor([value]), torch.tensor([3])
    advantage = group_advantages(returns_B, group_B).item()
    assert advantage == pytest.approx(value / (1 + 1e-6), rel=1e-6)
    assert group_advantages(returns_B, group_B, normalize=False).item() == value


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=6),
    st.lists(st.integers(1, 4), min_size=6, max_size=6),
)
def test_episode_statistics_count_an_episode_once_however_many_rows_it_has(episodes, sizes):
    """Equal to statistics over one row an episode, as the rows share their episode's return."""
    sizes_N = torch.tensor(sizes[: len(episodes)])
    group_N, success_N = torch.tensor(episodes).unbind(1)
    expected_N = group_advantages(success_N.float(), group_N)
    actual_B = group_advantages(
        success_N.float().repeat_interleave(sizes_N),
        group_N.repeat_interleave(sizes_N),
        episode_B=torch.arange(len(episodes)).repeat_interleave(sizes_N),
    )
    torch.testing.assert_close(actual_B, expected_N.repeat_interleave(sizes_N))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_turn_index_counts_earlier_rows_of_the_episode(episodes):
    expected = [episodes[:b].count(episode) for b, episode in enumerate(episodes)]
    assert turn_index(torch.tensor(episodes)).tolist() == expected


@given(batches())
def test_a_penalty_reaches_the_last_token_alone(batch):
    penalty_B = invalid_action_penalties(batch.group_B, coefficient=0.1)
    changed_BT = add_at_last_token(batch.advantages_BT, batch.mask_BT, penalty_B)
    for b, row in enumerate(batch.mask_BT.tolist()):
        expected = batch.advantages_BT[b].tolist()
        if 1.0 in row and batch.group_B[b] == 0:
            last = len(row) - 1 - row[::-1].index(1.0)
            expected[last] -= 0.1
        assert changed_BT[b].tolist() == pytest.approx(expected, abs=1e-6)


def surrogate_loss(batch, mode, counts, *, policy_BT=None):
    policy_BT = batch.policy_BT if policy_BT is None else policy_BT
    log_ratio_BT = token_log_ratio(policy_BT, batch.old_BT, batch.mask_BT)
    token_losses = clipped_surrogate(log_ratio_BT, batch.advantages_BT, batch.mask_BT, **CLIP)
    kl_BT = kl_divergence(policy_BT, batch.reference_BT, batch.mask_BT)
    return weighted_sum(token_losses.loss + 0.1 * kl_BT, token_weights(batch.mask_BT, mode, counts))


@given(batches())
def test_surrogate_follows_the_equation(batch):
    """A slow loop over plain floats that spells out PPO's objective with both clips."""
    log_ratio_BT = token_log_ratio(batch.policy_BT, batch.old_BT, batch.mask_BT)
    surrogate = clipped_surrogate(log_ratio_BT, batch.advantages_BT, batch.mask_BT, **CLIP)
    for (b, t), is_token in zip(
        torch.cartesian_prod(*map(torch.arange, batch.mask_BT.shape)).reshape(-1, 2).tolist(),
        batch.mask_BT.flatten().tolist(),
        strict=True,
    ):
        advantage = batch.advantages_BT[b, t].item()
        ratio = math.exp(batch.policy_BT[b, t].item() - batch.old_BT[b, t].item())
        clipped = min(max(ratio, 1 - 0.2), 1 + 0.28)
        loss = -min(advantage * ratio, advantage * clipped)
        if advantage < 0:
            loss = min(loss, -advantage * 3.0)
        expected = loss if is_token else 0.0
        assert surrogate.loss[b, t].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(batches())
def test_on_policy_gradient_is_minus_advantage_over_tokens(batch):
    policy_BT = batch.old_BT.clone().requires_grad_()
    log_ratio_BT = token_log_ratio(policy_BT, batch.old_BT, batch.mask_BT)
    surrogate = clipped_surrogate(log_ratio_BT, batch.advantages_BT, batch.mask_BT, **CLIP)
    weights_BT = token_weights(batch.mask_BT, "token-mean", LossCounts.of(batch.mask_BT))
    weighted_sum(surrogate.loss, weights_BT).backward()
    expected_BT = -batch.advantages_BT * batch.mask_BT / batch.mask_BT.sum().clamp(min=1)
    torch.testing.assert_close(policy_BT.grad, expected_BT, rtol=1e-6, atol=0)


@given(batches())
def test_gradient_is_cut_exactly_where_a_clip_binds(batch):
    policy_BT = batch.policy_BT.clone().requires_grad_()
    log_ratio_BT = token_log_ratio(policy_BT, batch.old_BT, batch.mask_BT)
    surrogate = clipped_surrogate(log_ratio_BT, batch.advantages_BT, batch.mask_BT, **CLIP)
    surrogate.loss.sum().backward()
    a_BT, r_BT = batch.advantages_BT, surrogate.ratio
    is_cut_BT = ((a_BT > 0) & (r_BT > 1.28)) | ((a_BT < 0) & ((r_BT < 0.8) | (r_BT > 3.0)))
    expected_BT = torch.where(is_cut_BT | (batch.mask_BT == 0), 0.0, -a_BT * r_BT)
    torch.testing.assert_close(policy_BT.grad, expected_BT)


@given(batches(), st.sampled_from(AGGREGATIONS))
def test_masked_tokens_change_neither_value_nor_gradient(batch, mode):
    counts = LossCounts.of(batch.mask_BT)
    results = []
    for garbage in (0.0, math.nan, math.inf, -1e30):
        outside_BT = batch.mask_BT == 0
        policy_BT = batch.policy_BT.masked_fill(outside_BT, garbage).requires_grad_()
        spoilt = batch.rows(torch.arange(len(batch.group_B)))
        for tensor_BT in (spoilt.old_BT, spoilt.reference_BT, spoilt.advantages_BT):
            tensor_BT.masked_fill_(outside_BT, garbage)
        loss = surrogate_loss(spoilt, mode, counts, policy_BT=policy_BT)
        loss.backward()
        results.append((loss.detach(), policy_BT.grad))
    for loss, gradient_BT in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient_BT, results[0][1])
        assert not gradient_BT[batch.mask_BT == 0].any()


@given(
    batches(), st.sampled_from(AGGREGATIONS), st.integers(1, 3), st.randoms(use_true_random=False)
)
def test_splitting_a_minibatch_changes_nothing(batch, mode, num_parts, random):
    order = list(range(len(batch.group_B)))
    random.shuffle(order)
    parts = [
        batch.rows(torch.tensor(order[i::num_parts], dtype=torch.long)) for i in range(num_parts)
    ]
    divisor = float(batch.mask_BT.shape[1])
    counts = LossCounts.of(parts[0].mask_BT, constant_divisor=divisor)
    for part in parts[1:]:
        counts += LossCounts.of(part.mask_BT, constant_divisor=divisor)
    assert counts == LossCounts.of(batch.mask_BT)
    whole = surrogate_loss(batch, mode, counts)
    split = sum(surrogate_loss(part, mode, counts) for part in parts)
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-6)


@given(batches(), st.sampled_from(AGGREGATIONS), st.integers(1, 3))
def test_padding_changes_nothing(batch, mode, num_extra):
    """Rows without tokens and positions on the right, both filled with garbage."""
    padded = {
        name: torch.nn.functional.pad(value, (0, num_extra, 0, num_extra), value=5.0)
        for name, value in vars(batch).items()
        if name.endswith("_BT")
    }
    padded["mask_BT"] = torch.nn.functional.pad(batch.mask_BT, (0, num_extra, 0, num_extra))
    extra = type(batch)(**(vars(batch) | padded))
    counts = LossCounts.of(extra.mask_BT, constant_divisor=float(batch.mask_BT.shape[1]))
    assert counts == LossCounts.of(batch.mask_BT)
    torch.testing.assert_close(
        surrogate_loss(extra, mode, counts), surrogate_loss(batch, mode, counts)
    )


@given(batches(holes=False))
def test_sequence_ratio_is_shared_by_the_row_and_pulls_every_token_alike(batch):
    policy_BT = batch.policy_BT.clone().requires_grad_()
    log_ratio_BT = sequence_log_ratio(policy_BT, batch.old_BT, batch.mask_BT)
    length_B = batch.mask_BT.sum(1)
    mean_B = ((batch.policy_BT - batch.old_BT) * batch.mask_BT).sum(1) / length_B
    torch.testing.assert_close(
        log_ratio_BT.detach(), mean_B[:, None] * batch.mask_BT, rtol=1e-5, atol=1e-6
    )
    log_ratio_BT.exp().sum().backward()
    expected_BT = mean_B.exp()[:, None] * batch.mask_BT
    torch.testing.assert_close(policy_BT.grad, expected_BT, rtol=1e-5, atol=1e-6)


@given(batches(), st.sampled_from([0.5, 1.0, 2.0, math.inf]))
def test_importance_weights_are_truncated_and_detached(batch, maximum):
    old_BT = batch.old_BT.clone().requires_grad_()
    weights_BT = truncated_importance_weights(
        old_BT, batch.policy_BT, batch.mask_BT, maximum=maximum
    )
    assert not weights_BT.requires_grad
    ratio_BT = ((batch.old_BT - batch.policy_BT) * batch.mask_BT).exp().clamp(max=maximum)
    torch.testing.assert_close(weights_BT, ratio_BT)


@given(batches())
def test_divergences_are_zero_at_the_reference_and_not_negative(batch):
    ones_BT = torch.ones_like(batch.mask_BT)
    for estimator in ("k1", "abs", "k2", "k3"):
        same_BT = kl_divergence(batch.policy_BT, batch.policy_BT, ones_BT, estimator=estimator)
        assert not same_BT.any()
        if estimator != "k1":
            value_BT = kl_divergence(
                batch.policy_BT, batch.reference_BT, ones_BT, estimator=estimator
            )
            assert (value_BT > -1e-6).all()


@given(st.integers(2, 6), st.integers(0, 10**6))
def test_k1_and_k3_have_the_mean_of_the_exact_divergence(vocabulary, seed):
    """Averaged over the policy's own distribution; near enough for the bound on k3 not to bind."""
    generator = torch.Generator().manual_seed(seed)
    policy_V, reference_V = torch.rand(2, vocabulary, generator=generator).log_softmax(1)
    exact = (policy_V.exp() * (policy_V - reference_V)).sum()
    for estimator in ("k1", "k3"):
        tokens_1V = kl_divergence(
            policy_V[None], reference_V[None], torch.ones(1, vocabulary), estimator=estimator
        )
        torch.testing.assert_close(
            (policy_V.exp() * tokens_1V[0]).sum(), exact, rtol=1e-4, atol=1e-5
        )


@given(batches())
def test_k3_gradient_is_one_minus_the_inverse_ratio_and_the_reference_gets_none(batch):
    policy_BT = batch.policy_BT.clone().requires_grad_()
    reference_BT = batch.reference_BT.clone().requires_grad_()
    kl_divergence(policy_BT, reference_BT, batch.mask_BT).sum().backward()
    difference_BT = batch.policy_BT - batch.reference_BT
    is_inside_BT = (-difference_BT).exp() + difference_BT - 1 < 10
    expected_BT = (1 - (-difference_BT).exp()) * batch.mask_BT * is_inside_BT
    torch.testing.assert_close(policy_BT.grad, expected_BT, rtol=1e-4, atol=1e-6)
    assert reference_BT.grad is None


@given(st.integers(2, 9), st.integers(0, 10**6))
def test_entropy_follows_the_equation_and_ignores_impossible_tokens(vocabulary, seed):
    logits_NV = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    for row, entropy in zip(logits_NV.double(), token_entropy(logits_NV), strict=True):
        total = sum(math.exp(z) for z in row)
        expected = -sum(math.exp(z) / total * math.log(math.exp(z) / total) for z in row)
        assert entropy.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    barred_NV = torch.cat((logits_NV, torch.full((3, 1), -math.inf)), 1)
    torch.testing.assert_close(token_entropy(barred_NV), token_entropy(logits_NV))
