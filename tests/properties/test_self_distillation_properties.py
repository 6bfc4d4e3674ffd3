"""What holds for SDAR, Skill-SD, RLSD, OPID and UCOB on every batch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.objectives import (
    LossCounts,
    StepTokens,
    stepopsd_advantages,
    token_weights,
    weighted_sum,
)
from stepopsd_rllib.objectives.opid import (
    opid_advantages,
    opid_diagnostics,
    route_skills,
    skill_shift,
)
from stepopsd_rllib.objectives.rlsd import rlsd_advantages
from stepopsd_rllib.objectives.sdar import (
    TOKEN_LOSSES,
    entropy_gate,
    forward_kl_loss,
    gap_gate,
    gated_token_loss,
    jensen_shannon_loss,
    normalized_entropy,
    reverse_kl_loss,
    soft_or_gate,
)
from stepopsd_rllib.objectives.skill_sd import skill_sd_token_loss
from stepopsd_rllib.objectives.ucob import branch_weights, top_k_log_probs, ucob_token_loss
from stepopsd_rllib.reference.opid_losses import delta_token_loss, importance_token_loss
from stepopsd_rllib.reference.sdar_settings import GRPO_OPSD_AS_CODED, OPSD_AS_CODED, SDAR
from tests.helpers.batches import batches

betas = st.sampled_from([0.0, 1.0, 5.0, 10.0])
divergences = st.sampled_from(list(TOKEN_LOSSES))


def sdar_loss(policy_BT, teacher_BT, mask_BT, beta, divergence="reverse_kl"):
    gate_BT = gap_gate(policy_BT, teacher_BT, beta=beta)
    loss_BT = gated_token_loss(policy_BT, teacher_BT, gate_BT, mask_BT, divergence=divergence)
    return loss_BT, gate_BT


@given(batches(), betas)
def test_sdar_gradient_is_minus_the_gate_over_the_tokens(batch, beta):
    policy_BT = batch.policy_BT.clone().requires_grad_()
    teacher_BT = (batch.policy_BT + batch.gap_BT).requires_grad_()
    loss_BT, gate_BT = sdar_loss(policy_BT, teacher_BT, batch.mask_BT, beta)
    weights_BT = token_weights(batch.mask_BT, "token-mean", LossCounts.of(batch.mask_BT))
    weighted_sum(loss_BT, weights_BT).backward()
    torch.testing.assert_close(policy_BT.grad, -gate_BT * weights_BT)
    assert teacher_BT.grad is None
    assert bool((policy_BT.grad.abs() <= weights_BT).all())


@given(batches(), betas)
def test_sdar_equation_spelt_out(batch, beta):
    teacher_BT = batch.policy_BT + batch.gap_BT
    loss_BT, gate_BT = sdar_loss(batch.policy_BT, teacher_BT, batch.mask_BT, beta)
    for b, t in torch.cartesian_prod(*(torch.arange(n) for n in loss_BT.shape)).tolist():
        gap = float(teacher_BT[b, t]) - float(batch.policy_BT[b, t])
        gate = 1 / (1 + math.exp(-beta * gap)) if beta * gap > -700 else 0.0
        kept = float(batch.mask_BT[b, t]) != 0
        assert float(gate_BT[b, t]) == pytest.approx(gate, abs=1e-5)
        assert float(loss_BT[b, t]) == pytest.approx(gate * gap if kept else 0.0, abs=1e-4)


@given(batches())
def test_the_gap_gate_rises_with_the_gap_and_is_half_for_beta_zero(batch):
    gate_BT = gap_gate(
        batch.policy_BT.clone().requires_grad_(), batch.policy_BT + batch.gap_BT, beta=5.0
    )
    assert not gate_BT.requires_grad
    wider_BT = gap_gate(batch.policy_BT, batch.policy_BT + batch.gap_BT + 0.1, beta=5.0)
    assert bool(((gate_BT >= 0) & (gate_BT <= 1)).all())
    assert bool((wider_BT >= gate_BT).all())
    flat_BT = gap_gate(
        batch.policy_BT, batch.policy_BT + batch.gap_BT, beta=GRPO_OPSD_AS_CODED.gate_beta
    )
    assert bool((flat_BT == 0.5).all())


@given(batches(), divergences)
def test_masked_tokens_change_neither_loss_nor_gradient(batch, divergence):
    def loss_and_gradient(noise):
        policy_BT = torch.where(batch.mask_BT != 0, batch.policy_BT, noise).requires_grad_()
        teacher_BT = torch.where(batch.mask_BT != 0, batch.policy_BT + batch.gap_BT, noise)
        loss_BT, _ = sdar_loss(policy_BT, teacher_BT, batch.mask_BT, 5.0, divergence)
        return loss_BT, torch.autograd.grad(loss_BT.sum(), policy_BT)[0]

    for calm, noisy in zip(
        loss_and_gradient(torch.tensor(-1.0)),
        loss_and_gradient(torch.tensor(math.nan)),
        strict=True,
    ):
        torch.testing.assert_close(calm, noisy)
        assert bool((noisy[batch.mask_BT == 0] == 0).all())


@pytest.mark.parametrize(
    ("token_loss", "divergence"),
    [
        (
            forward_kl_loss,
            lambda policy_V, teacher_V: (teacher_V * (teacher_V / policy_V).log()).sum(),
        ),
        (
            jensen_shannon_loss,
            lambda policy_V, teacher_V: sum(
                0.5 * (p * (2 * p / (policy_V + teacher_V)).log()).sum()
                for p in (policy_V, teacher_V)
            ),
        ),
    ],
)
def test_the_sampled_divergences_are_unbiased_in_value_and_gradient(token_loss, divergence):
    logits_V = torch.tensor([0.3, -1.0, 1.2, 0.0], dtype=torch.float64, requires_grad=True)
    teacher_V = torch.tensor([1.0, 0.4, -0.3, 0.1], dtype=torch.float64).softmax(0)
    policy_V = logits_V.softmax(0)
    exact = divergence(policy_V, teacher_V)
    # The mean over tokens drawn from the policy, taken exactly: every token by its probability.
    sampled = (policy_V.detach() * token_loss(policy_V.log(), teacher_V.log())).sum()
    torch.testing.assert_close(sampled, exact)
    expected_gradient = torch.autograd.grad(exact, logits_V, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(sampled, logits_V)[0], expected_gradient)


def test_the_published_loss_has_no_mean_gradient_behind_a_constant_gate():
    logits_V = torch.tensor([0.3, -1.0, 1.2, 0.0], dtype=torch.float64, requires_grad=True)
    teacher_V = torch.tensor([1.0, 0.4, -0.3, 0.1], dtype=torch.float64).softmax(0)
    policy_V = logits_V.softmax(0)
    sampled = (policy_V.detach() * reverse_kl_loss(policy_V.log(), teacher_V.log())).sum()
    reverse_kl = (policy_V * (policy_V / teacher_V).log()).sum()
    torch.testing.assert_close(sampled, -reverse_kl)
    (gradient_V,) = torch.autograd.grad(sampled, logits_V)
    torch.testing.assert_close(gradient_V, torch.zeros_like(gradient_V))


@given(batches())
def test_the_compared_gates_rise_with_what_they_read(batch):
    unsure_BT = normalized_entropy(-batch.policy_BT, vocabulary_size=50)
    assert bool(((unsure_BT >= 0) & (unsure_BT <= 1)).all())
    assert bool((entropy_gate(unsure_BT, beta=5.0) >= 0.5).all())
    policy_BT, teacher_BT = batch.policy_BT, batch.policy_BT + batch.gap_BT
    sure_BT = torch.zeros_like(policy_BT)
    # Without doubt the soft OR is the gap gate; with full doubt it is open whatever the gap.
    torch.testing.assert_close(
        soft_or_gate(policy_BT, teacher_BT, sure_BT, beta=5.0),
        gap_gate(policy_BT, teacher_BT, beta=5.0),
    )
    torch.testing.assert_close(
        soft_or_gate(policy_BT, teacher_BT, sure_BT + 1, beta=5.0),
        entropy_gate(sure_BT + 1, beta=5.0),
    )


def test_an_unknown_divergence_is_refused_with_the_known_ones():
    row_BT = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"divergence='kl' is not known\. Use one of reverse_kl"):
        gated_token_loss(row_BT, row_BT, row_BT, row_BT, divergence="kl")


def test_the_settings_are_those_of_the_papers():
    assert (SDAR.policy_coefficient, SDAR.distillation_coefficient, SDAR.gate_beta) == (1, 0.01, 5)
    assert (OPSD_AS_CODED.policy_coefficient, OPSD_AS_CODED.gate) == (0, "gap")


@given(batches())
def test_skill_sd_spelt_out(batch):
    # In float64: the two parts of the gradient cancel, and a large gap leaves few digits.
    policy_BT = batch.policy_BT.double().requires_grad_()
    teacher_BT = (policy_BT + batch.gap_BT).detach()
    loss_BT = skill_sd_token_loss(policy_BT, batch.old_BT.double(), teacher_BT, batch.mask_BT)
    (gradient_BT,) = torch.autograd.grad(loss_BT.sum(), policy_BT)
    policy_BT, loss_BT = policy_BT.detach(), loss_BT.detach()
    for b, t in torch.cartesian_prod(*(torch.arange(n) for n in loss_BT.shape)).tolist():
        if batch.mask_BT[b, t] == 0:
            assert float(loss_BT[b, t]) == float(gradient_BT[b, t]) == 0.0
            continue
        lp, old = float(policy_BT[b, t]), float(batch.old_BT[b, t])
        gap = lp - float(teacher_BT[b, t])
        k3 = math.exp(min(-gap, 20.0)) - 1 + gap
        ratio = math.exp(min(lp - old, 10.0))
        assert float(loss_BT[b, t]) == pytest.approx(ratio * k3, rel=1e-9)
        # d(ρ·k3)/dlp = ρ·k3 + ρ·(1 − e^{−d}) below both clamps
        if -gap < 20.0 and lp - old < 10.0:
            slope = ratio * (k3 + 1 - math.exp(-gap))
            assert float(gradient_BT[b, t]) == pytest.approx(slope, rel=1e-7)


@given(batches(holes=False), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.05, 0.2, 0.5]))
def test_rlsd_is_stepopsd_with_exp_and_one_span(batch, mixing, clip_range):
    num_positions = batch.mask_BT.shape[1]
    whole_rows = [[(0, int(length))] for length in batch.mask_BT.sum(1)]
    stepopsd = stepopsd_advantages(
        batch.advantages_BT,
        batch.gap_BT,
        batch.mask_BT,
        StepTokens.from_spans(whole_rows, num_positions=num_positions),
        alpha_clip=clip_range,
        lambda_mix=mixing,
        weight_fn="exp",
        step_normalization="none",
    )
    rlsd_BT = rlsd_advantages(
        batch.advantages_BT, batch.gap_BT, batch.mask_BT, mixing=mixing, clip_range=clip_range
    )
    assert torch.equal(rlsd_BT, stepopsd.advantages)


@given(batches(), st.sampled_from([0.0, 0.5, 1.0]))
def test_rlsd_spelt_out(batch, mixing):
    advantages_BT = torch.where(batch.mask_BT != 0, batch.advantages_BT, 9.0)
    shaped_BT = rlsd_advantages(
        advantages_BT, batch.gap_BT, batch.mask_BT, mixing=mixing, clip_range=0.2
    )
    for row, advantages, gaps, mask in zip(
        shaped_BT, advantages_BT, batch.gap_BT, batch.mask_BT, strict=True
    ):
        first = next((t for t, m in enumerate(mask.tolist()) if m), None)
        for t, value in enumerate(row.tolist()):
            if first is None or not mask[t]:
                assert value == 0.0
                continue
            a = float(advantages[first])
            sign = (a > 0) - (a < 0)
            weight = min(max(math.exp(sign * float(gaps[t])), 0.8), 1.2)
            assert value == pytest.approx(a * (1 - mixing + mixing * weight), abs=1e-5)
    if mixing == 0.0:
        assert torch.equal(shaped_BT, batch.advantages_BT * batch.mask_BT)


weights = st.sampled_from([0.0, 0.001, 0.5, 2.0])


@given(
    st.sampled_from(["", "  ", "take it"]),
    weights,
    weights,
    st.sampled_from(["step_priority", "additive"]),
)
def test_opid_routes(step_skill, episode_weight, step_weight, routing):
    route = route_skills(
        step_skill, episode_weight=episode_weight, step_weight=step_weight, routing=routing
    )
    if routing == "step_priority":
        assert not (route.episode_skill and route.step_skill)
    elif episode_weight > 0:
        assert route.episode_skill >= route.step_skill
    assert not (route.episode_skill and episode_weight == 0)
    assert not (route.step_skill and (step_weight == 0 or not step_skill.strip()))


@given(batches(), weights, weights, st.sampled_from([None, 0.1, 1.0]))
def test_opid_adds_a_bounded_linear_term_to_scored_tokens(batch, w_e, w_z, clip):
    scored_BT = batch.mask_BT * (batch.group_B == 0)[:, None]
    shift_BT = skill_shift(batch.old_BT + batch.gap_BT, batch.old_BT, scored_BT, clip=clip)
    args = (batch.advantages_BT, shift_BT, -0.5 * shift_BT)
    shaped_BT = opid_advantages(*args, episode_weight=w_e, step_weight=w_z)
    added_BT = shaped_BT - batch.advantages_BT
    torch.testing.assert_close(added_BT, (w_e - 0.5 * w_z) * shift_BT, atol=1e-5, rtol=1e-4)
    assert bool((added_BT[scored_BT == 0] == 0).all())
    if clip is not None:
        assert bool((added_BT.abs() <= (w_e + w_z) * clip + 1e-5).all())
    if w_e == w_z == 0:
        assert torch.equal(shaped_BT, batch.advantages_BT)


@given(batches())
def test_a_skill_that_changes_nothing_adds_nothing(batch):
    for normalize in (False, True):
        shift_BT = skill_shift(batch.old_BT, batch.old_BT, batch.mask_BT, normalize=normalize)
        assert not bool(shift_BT.any())


@given(batches())
def test_normalized_skill_shifts_have_mean_zero_and_deviation_one(batch):
    shift_BT = skill_shift(batch.old_BT + batch.gap_BT, batch.old_BT, batch.mask_BT, normalize=True)
    scored = shift_BT[batch.mask_BT != 0]
    assert bool((shift_BT[batch.mask_BT == 0] == 0).all())
    if len(scored) > 1 and float(batch.gap_BT[batch.mask_BT != 0].std()) > 1e-2:
        assert abs(float(scored.mean())) < 1e-3
        assert float(scored.std(correction=0)) == pytest.approx(1.0, abs=1e-2)


@given(batches())
def test_the_shares_of_opid_add_up(batch):
    shares = opid_diagnostics(batch.advantages_BT, batch.gap_BT, batch.mask_BT)
    total = float(shares["episode_share"] + shares["skill_share"])
    assert total == pytest.approx(1.0, abs=1e-3) or total < 1e-3
    assert 0 <= float(shares["skill_active_token_ratio"]) <= 1


@given(batches())
def test_the_auxiliary_losses_of_opid_agree_before_the_update(batch):
    skill_BT = batch.old_BT + batch.gap_BT
    gradients = []
    for token_loss in (delta_token_loss, importance_token_loss):
        policy_BT = batch.old_BT.clone().requires_grad_()
        loss_BT = token_loss(policy_BT, skill_BT, batch.old_BT, batch.mask_BT)
        gradients.append(torch.autograd.grad(loss_BT.sum(), policy_BT)[0])
    torch.testing.assert_close(gradients[0], -(skill_BT - batch.old_BT) * batch.mask_BT)
    torch.testing.assert_close(gradients[1], gradients[0])


@given(st.integers(0, 10**6), st.booleans())
def test_ucob_is_a_weighted_kl_without_gradient_to_the_teacher(seed, renormalize):
    generator = torch.Generator().manual_seed(seed)

    def logits():
        return torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)

    student_BTV, teacher_BTV = logits().requires_grad_(), logits().requires_grad_()
    top_BTK = teacher_BTV.topk(3, dim=-1).indices
    student_BTK, teacher_BTK = (
        top_k_log_probs(x.gather(-1, top_BTK), x.logsumexp(-1), renormalize=renormalize)
        for x in (student_BTV, teacher_BTV)
    )
    weight_B = branch_weights(torch.tensor([0.0, 0.1, 5.0]).double())
    mask_BT = torch.ones(3, 4)
    mask_BT[:, 3] = 0
    teacher_BTK = torch.where(mask_BT[..., None] != 0, teacher_BTK, math.nan)
    loss_BT = ucob_token_loss(student_BTK, teacher_BTK, weight_B, None, mask_BT)
    loss_BT.sum().backward()
    assert teacher_BTV.grad is None
    assert not bool(student_BTV.grad[:, 3].any())
    loss_BT = loss_BT.detach()
    for b in range(3):
        for t in range(3):
            p = teacher_BTK[b, t].exp().tolist()
            q = student_BTK[b, t].exp().tolist()
            spelt = sum(x * (math.log(x) - math.log(y)) for x, y in zip(p, q, strict=True))
            assert float(loss_BT[b, t]) == pytest.approx(float(weight_B[b]) * spelt, abs=1e-9)
    if renormalize:
        assert bool((loss_BT >= -1e-12).all())


def test_ucob_weights_are_cut_below_and_capped_above():
    gaps = torch.tensor([-1.0, 0.0, 0.05, 0.06, 0.2, 0.4, 9.0])
    expected = torch.tensor([0.0, 0.0, 0.0, 0.3, 1.0, 2.0, 2.0])
    torch.testing.assert_close(branch_weights(gaps), expected)
