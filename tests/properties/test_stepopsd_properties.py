"""What holds for every batch that StepOPSD shapes."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from stepopsd_rllib.objectives import (
    StepTokens,
    equalize_steps,
    hindsight_weights,
    linear_decay,
    linear_warm_down,
    log_prob_gap,
    mix_advantages,
    stepopsd_advantages,
)
from tests.helpers.batches import batches

weight_functions = st.sampled_from(["sigmoid", "exp"])
mixtures = st.sampled_from([0.0, 0.05, 0.2, 0.7, 1.0])
clips = st.sampled_from([0.0, 0.05, 0.2, 0.9, 0.99])


@st.composite
def spans_of(draw, batch, *, disjoint=False):
    """Half-open spans for every row: empty, inverted and overlapping ones too, unless disjoint."""
    num_rows, num_positions = batch.mask_BT.shape
    if disjoint:
        cuts = st.lists(st.integers(0, num_positions), min_size=2, max_size=4, unique=True)
        rows = [sorted(draw(cuts)) if num_positions > 1 else [0, 1] for _ in range(num_rows)]
        return [list(pairwise(row)) for row in rows]
    span = st.tuples(st.integers(0, num_positions), st.integers(0, num_positions + 1))
    return [draw(st.lists(span, max_size=3)) for _ in range(num_rows)]


def steps_of(batch, spans, episode_B=None):
    return StepTokens.from_spans(spans, num_positions=batch.mask_BT.shape[1], episode_B=episode_B)


def shape(batch, spans, *, alpha, mix, weight_fn="sigmoid", normalization="none", episode_B=None):
    return stepopsd_advantages(
        batch.advantages_BT,
        batch.gap_BT,
        batch.mask_BT,
        steps_of(batch, spans, episode_B),
        alpha_clip=alpha,
        lambda_mix=mix,
        weight_fn=weight_fn,
        step_normalization=normalization,
    ).advantages


def equal_step_mean_abs(shaped, plain, mask, spans_by_episode, *, eps, coef_clip):
    """The per-step budget, spelt out over nested lists; spans are (row, start, stop)."""
    out = [list(row) for row in shaped]
    bound = max(coef_clip, 1.0)
    for spans in spans_by_episode:
        means = []
        is_shaped = False
        for row, start, stop in spans:
            kept = [t for t in range(start, min(stop, len(mask[row]))) if mask[row][t]]
            is_shaped |= any(abs(shaped[row][t] - plain[row][t]) > 1e-8 for t in kept)
            if kept:
                means.append((sum(abs(shaped[row][t]) for t in kept) / len(kept), row, start, stop))
        if len(means) < 2 or not is_shaped:
            continue
        target = sum(mean for mean, *_ in means) / len(means)
        for mean, row, start, stop in means:
            coefficient = min(max(target / (mean + eps), 1 / bound), bound)
            for t in range(start, min(stop, len(mask[row]))):
                out[row][t] *= coefficient
    return out


def shaped_token(a, gap, m, *, alpha, mix, weight_fn):
    """Weight, clip and mixture of one token, over plain floats."""
    x = math.copysign(gap, a * gap) if a and gap else 0.0
    raw = 2 / (1 + math.exp(-x)) if weight_fn == "sigmoid" else math.exp(x)
    w = min(max(raw, 1 - alpha), 1 + alpha)
    return ((1 - mix) * a + mix * w * a) * m


@given(st.data(), batches(), weight_functions, mixtures, clips)
def test_shaping_follows_the_equations(data, batch, weight_fn, mix, alpha):
    """A slow loop over plain floats; rows of one episode share its budget."""
    spans = data.draw(spans_of(batch))
    num_rows = len(spans)
    episodes = data.draw(st.lists(st.integers(0, 2), min_size=num_rows, max_size=num_rows))
    mask = batch.mask_BT.tolist()
    rows = zip(batch.advantages_BT.tolist(), batch.gap_BT.tolist(), mask, strict=True)
    mixed = [
        [
            shaped_token(a, gap, m, alpha=alpha, mix=mix, weight_fn=weight_fn)
            for a, gap, m in zip(*row, strict=True)
        ]
        for row in rows
    ]
    by_episode = [
        [(b, i, j) for b in range(num_rows) if episodes[b] == episode for i, j in spans[b]]
        for episode in range(3)
    ]
    plain = (batch.advantages_BT * batch.mask_BT).tolist()
    expected = equal_step_mean_abs(mixed, plain, mask, by_episode, eps=1e-6, coef_clip=2.0)
    actual_BT = shape(
        batch,
        spans,
        alpha=alpha,
        mix=mix,
        weight_fn=weight_fn,
        normalization="equal_step_mean_abs",
        episode_B=torch.tensor(episodes),
    )
    torch.testing.assert_close(actual_BT, torch.tensor(expected), rtol=1e-4, atol=1e-6)


@given(st.data(), batches(), weight_functions, st.sampled_from(["none", "equal_step_mean_abs"]))
def test_neutral_knobs_are_grpo_bit_for_bit(data, batch, weight_fn, normalization):
    """λ = 0, α = 0 or Δ = 0; also where the rows of an episode have different advantages."""
    spans = data.draw(spans_of(batch))
    one_episode_B = torch.zeros(len(spans), dtype=torch.long)
    grpo_BT = batch.advantages_BT * batch.mask_BT
    unmoved = batch.rows(torch.arange(len(spans)))
    unmoved.gap_BT.zero_()
    for neutral, alpha, mix in ((batch, 0.2, 0.0), (batch, 0.0, 0.7), (unmoved, 0.2, 0.7)):
        for episode_B in (None, one_episode_B):
            actual_BT = shape(
                neutral,
                spans,
                alpha=alpha,
                mix=mix,
                weight_fn=weight_fn,
                normalization=normalization,
                episode_B=episode_B,
            )
            assert torch.equal(actual_BT, grpo_BT)


@given(
    st.data(),
    batches(),
    weight_functions,
    mixtures,
    clips,
    st.sampled_from(["none", "equal_step_mean_abs"]),
)
def test_no_sign_flips(data, batch, weight_fn, mix, alpha, normalization):
    spans = data.draw(spans_of(batch))
    actual_BT = shape(
        batch, spans, alpha=alpha, mix=mix, weight_fn=weight_fn, normalization=normalization
    )
    assert torch.equal(actual_BT.sign(), (batch.advantages_BT * batch.mask_BT).sign())


@given(batches(), weight_functions, mixtures, clips)
def test_the_effect_is_bounded_by_lambda_alpha_and_reached_when_saturated(
    batch, weight_fn, mix, alpha
):
    a_BT, ones_BT = batch.advantages_BT, torch.ones_like(batch.mask_BT)
    for gap_BT, saturated in ((batch.gap_BT, False), (batch.gap_BT.sign() * 50, True)):
        weights_BT = hindsight_weights(a_BT, gap_BT, ones_BT, alpha_clip=alpha, weight_fn=weight_fn)
        change_BT = (mix_advantages(a_BT, weights_BT, ones_BT, lambda_mix=mix) - a_BT).abs()
        bound_BT = mix * alpha * a_BT.abs()
        assert (change_BT <= bound_BT + 1e-6).all()
        if saturated:
            is_scored_BT = gap_BT != 0
            torch.testing.assert_close(
                change_BT[is_scored_BT], bound_BT[is_scored_BT], rtol=1e-4, atol=1e-6
            )


@given(batches(), weight_functions, clips)
def test_weights_rise_with_the_agreement_of_gap_and_advantage(batch, weight_fn, alpha):
    a_BT, ones_BT = batch.advantages_BT, torch.ones_like(batch.mask_BT)
    agreement_BT = a_BT.sign() * batch.gap_BT
    order_BT = agreement_BT.argsort(1)
    weights_BT = hindsight_weights(
        a_BT, batch.gap_BT, ones_BT, alpha_clip=alpha, weight_fn=weight_fn
    ).gather(1, order_BT)
    assert (weights_BT.diff(dim=1) >= 0).all()


@given(st.data(), batches(), weight_functions, mixtures, clips)
def test_shaping_is_odd(data, batch, weight_fn, mix, alpha):
    spans = data.draw(spans_of(batch))
    mirrored = batch.rows(torch.arange(len(spans)))
    mirrored.advantages_BT.neg_()
    mirrored.gap_BT.neg_()
    kwargs = {
        "alpha": alpha,
        "mix": mix,
        "weight_fn": weight_fn,
        "normalization": "equal_step_mean_abs",
    }
    assert torch.equal(shape(mirrored, spans, **kwargs), -shape(batch, spans, **kwargs))


@given(st.data(), batches(), mixtures, clips)
def test_tokens_outside_all_steps_keep_their_advantage(data, batch, mix, alpha):
    spans = data.draw(spans_of(batch))
    is_in_step_BT = torch.zeros_like(batch.mask_BT)
    for b, row in enumerate(spans):
        for start, stop in row:
            is_in_step_BT[b, start:stop] = 1
    batch.gap_BT.copy_(log_prob_gap(batch.gap_BT, torch.zeros_like(batch.gap_BT), is_in_step_BT))
    actual_BT = shape(batch, spans, alpha=alpha, mix=mix, normalization="equal_step_mean_abs")
    outside_BT = is_in_step_BT == 0
    expected_BT = batch.advantages_BT * batch.mask_BT
    assert torch.equal(actual_BT[outside_BT], expected_BT[outside_BT])


@given(st.data(), batches(holes=False))
def test_the_budget_makes_the_steps_of_an_episode_equal_and_keeps_their_average(data, batch):
    """Disjoint spans, coefficients far from their bound."""
    spans = data.draw(spans_of(batch, disjoint=True))
    batch.advantages_BT.copy_(batch.advantages_BT.clamp(min=0.0) + 1.0)
    steps = steps_of(batch, spans)
    mixed_BT = mix_advantages(
        batch.advantages_BT,
        hindsight_weights(batch.advantages_BT, batch.gap_BT, batch.mask_BT, alpha_clip=0.2),
        batch.mask_BT,
        lambda_mix=1.0,
    )
    equal_BT = equalize_steps(
        mixed_BT, batch.advantages_BT, batch.mask_BT, steps, eps=1e-6, coefficient_clip=50.0
    )
    for b, row in enumerate(spans):
        kept = [slice(*span) for span in row if batch.mask_BT[b, slice(*span)].any()]
        if len(kept) < 2:
            assert torch.equal(equal_BT[b], mixed_BT[b])
            continue
        sizes = [batch.mask_BT[b, part].sum() for part in kept]
        before = torch.stack(
            [mixed_BT[b, p].abs().sum() / n for p, n in zip(kept, sizes, strict=True)]
        )
        after = torch.stack(
            [equal_BT[b, p].abs().sum() / n for p, n in zip(kept, sizes, strict=True)]
        )
        torch.testing.assert_close(after, before.mean().expand_as(after), rtol=1e-4, atol=1e-6)


@given(st.data(), batches())
def test_rows_of_other_episodes_change_nothing(data, batch):
    spans = data.draw(spans_of(batch))
    kwargs = {"alpha": 0.5, "mix": 1.0, "weight_fn": "exp", "normalization": "equal_step_mean_abs"}
    whole_BT = shape(batch, spans, **kwargs)
    for b in range(len(spans)):
        alone_BT = shape(batch.rows(torch.tensor([b])), spans[b : b + 1], **kwargs)
        torch.testing.assert_close(alone_BT[0], whole_BT[b], rtol=1e-6, atol=0)


@given(batches(holes=False), st.integers(0, 10**6))
def test_both_row_layouts_shape_an_episode_alike(batch, seed):
    """One row with all turns of the episode, or one row a turn."""
    a = 1.5
    num_turns, num_positions = batch.mask_BT.shape
    turn_BT = torch.arange(num_turns)[:, None].expand(num_turns, num_positions)
    knobs = {"alpha_clip": 0.5, "lambda_mix": 1.0, "weight_fn": "exp"}
    by_turn = stepopsd_advantages(
        torch.full_like(batch.gap_BT, a),
        batch.gap_BT,
        batch.mask_BT,
        StepTokens.from_index(
            turn_BT.masked_fill(batch.mask_BT == 0, -1), torch.full((num_turns,), 9)
        ),
        **knobs,
    ).advantages
    by_episode = stepopsd_advantages(
        torch.full((1, batch.gap_BT.numel()), a),
        batch.gap_BT.reshape(1, -1),
        batch.mask_BT.reshape(1, -1),
        StepTokens.from_index(turn_BT.reshape(1, -1), torch.tensor([0])),
        **knobs,
    ).advantages
    torch.testing.assert_close(by_turn.reshape(1, -1), by_episode)


@given(st.data(), batches())
def test_spans_and_step_numbers_name_the_same_steps(data, batch):
    spans = data.draw(spans_of(batch, disjoint=True))
    step_BT = torch.full(batch.mask_BT.shape, -1)
    for b, row in enumerate(spans):
        for j, (start, stop) in enumerate(row):
            step_BT[b, start:stop] = j
    numbered = StepTokens.from_index(step_BT, torch.arange(len(spans)) * 10)
    listed = steps_of(batch, spans)
    assert torch.equal(numbered.position_P, listed.position_P)
    assert torch.equal(numbered.step_P, listed.step_P)
    assert torch.equal(numbered.episode_S, listed.episode_S)


@given(st.floats(0, 1), st.integers(-2, 60), st.integers(1, 100))
def test_lambda_never_rises_and_ends_at_zero(initial, decay, step):
    for schedule in (
        lambda t: linear_decay(initial, step=t, decay_steps=decay),
        lambda t: linear_warm_down(initial, step=t, window=decay),
    ):
        assert 0.0 <= schedule(step + 1) <= schedule(step) <= initial
        if decay > 0:
            assert schedule(decay) == 0.0
            assert schedule(step) == pytest.approx(max(0.0, initial * (decay - step) / decay))


@given(batches())
def test_the_gap_lets_no_gradient_through(batch):
    assume(batch.mask_BT.any())
    teacher_BT = batch.policy_BT.clone().requires_grad_()
    student_BT = batch.old_BT.clone().requires_grad_()
    gap_BT = log_prob_gap(teacher_BT, student_BT, batch.mask_BT)
    assert not gap_BT.requires_grad
    assert torch.equal(gap_BT, (batch.policy_BT - batch.old_BT) * batch.mask_BT)
