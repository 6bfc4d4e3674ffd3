"""OPSD's divergences against sums over the vocabulary, and what merging tokens does to them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.objectives.opsd import DIVERGENCES, opsd_token_loss, with_rest

VOCABULARY = 7
batches = st.tuples(st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 3.0, 30.0]))


def distributions(seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of policy and teacher, float64 [5, V]."""
    generator = torch.Generator().manual_seed(seed)
    policy_NV = torch.randn(5, VOCABULARY, generator=generator).double() * 2
    change_NV = torch.randn(5, VOCABULARY, generator=generator).double() * spread
    return policy_NV, policy_NV + change_NV


def spelt_out(policy_V: list[float], teacher_V: list[float], divergence: str) -> float:
    """The equation, token by token, from log-probs."""
    total = 0.0
    for log_s, log_t in zip(policy_V, teacher_V, strict=True):
        p_s, p_t = math.exp(log_s), math.exp(log_t)
        if divergence == "forward_kl":
            total += p_t * (log_t - log_s)
        elif divergence == "reverse_kl":
            total += p_s * (log_s - log_t)
        else:
            log_m = math.log((p_s + p_t) / 2)
            total += 0.5 * (p_t * (log_t - log_m) + p_s * (log_s - log_m))
    return total


@given(batches, st.sampled_from(sorted(DIVERGENCES)))
def test_with_the_whole_vocabulary_it_is_the_divergence(batch, divergence):
    policy_NV, teacher_NV = (logits.log_softmax(-1) for logits in distributions(*batch))
    found_N = opsd_token_loss(policy_NV, teacher_NV, divergence=divergence)
    for n in range(len(found_N)):
        expected = spelt_out(policy_NV[n].tolist(), teacher_NV[n].tolist(), divergence)
        assert float(found_N[n]) == pytest.approx(expected, abs=1e-9)


@given(batches, st.sampled_from(sorted(DIVERGENCES)), st.integers(1, VOCABULARY - 1))
def test_fewer_tokens_never_enlarge_it(batch, divergence, count):
    policy_NV, teacher_NV = (logits.log_softmax(-1) for logits in distributions(*batch))
    whole_N = opsd_token_loss(policy_NV, teacher_NV, divergence=divergence)
    top = teacher_NV.topk(count)
    part_N = opsd_token_loss(policy_NV.gather(1, top.indices), top.values, divergence=divergence)
    assert (part_N <= whole_N + 1e-9).all() and (part_N >= -1e-9).all()
    if divergence == "jensen_shannon":
        assert (whole_N <= math.log(2.0) + 1e-9).all()


@given(batches, st.integers(1, VOCABULARY))
def test_token_and_rest_are_a_distribution(batch, count):
    policy_NV, _ = (logits.log_softmax(-1) for logits in distributions(*batch))
    merged_NK = with_rest(policy_NV[:, :count])
    assert merged_NK.shape[1] == count + 1
    torch.testing.assert_close(merged_NK.exp().sum(-1), torch.ones(5).double())


@given(batches, st.sampled_from(sorted(DIVERGENCES)))
def test_the_gradient_reaches_the_policy_alone_and_falls_to_zero_at_the_teacher(batch, divergence):
    policy_NV, teacher_NV = (x.requires_grad_() for x in distributions(*batch))
    loss = opsd_token_loss(
        policy_NV.log_softmax(-1), teacher_NV.log_softmax(-1), divergence=divergence
    )
    loss.sum().backward()
    assert teacher_NV.grad is None
    assert policy_NV.grad is not None and policy_NV.grad.isfinite().all()
    if divergence == "forward_kl":  # known in closed form: p_S - p_T at the logits
        expected_NV = policy_NV.softmax(-1) - teacher_NV.softmax(-1)
        torch.testing.assert_close(policy_NV.grad, expected_NV.detach(), atol=1e-9, rtol=1e-7)
    same_NV = policy_NV.detach().clone().requires_grad_()
    opsd_token_loss(
        same_NV.log_softmax(-1), same_NV.log_softmax(-1), divergence=divergence
    ).sum().backward()
    assert same_NV.grad is not None and same_NV.grad.abs().max() < 1e-9
