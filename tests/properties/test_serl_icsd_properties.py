"""What holds for SERL's weights and ICSD's gate on every batch."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.episodes.action_spans import action_spans
from stepopsd_rllib.objectives.icsd import influence_gate
from stepopsd_rllib.objectives.rlsd import rlsd_advantages
from stepopsd_rllib.objectives.sdar import gap_gate
from stepopsd_rllib.objectives.serl import serl_advantages


def batch(seed: int, *, rows: int = 4, tokens: int = 9):
    generator = torch.Generator().manual_seed(seed)
    advantage_B = torch.randn(rows, generator=generator)
    gap_BT = 2 * torch.randn(rows, tokens, generator=generator)
    mask_BT = torch.rand(rows, tokens, generator=generator) < 0.8
    action_BT = torch.rand(rows, tokens, generator=generator) < 0.5
    return advantage_B[:, None] * mask_BT, gap_BT, mask_BT, action_BT


seeds = st.integers(0, 10_000)


@given(seeds, st.floats(0, 1), st.floats(0, 0.9))
def test_the_sign_stays_and_the_change_is_bounded(seed, mixing, clip_range):
    advantages_BT, gap_BT, mask_BT, action_BT = batch(seed)
    shaped = serl_advantages(
        advantages_BT,
        gap_BT,
        mask_BT,
        action_BT,
        torch.ones(4),
        mixing=mixing,
        clip_range=clip_range,
    )
    assert torch.equal(shaped.advantages_BT.sign(), advantages_BT.sign())
    change_BT = (shaped.advantages_BT - advantages_BT).abs()
    assert bool((change_BT <= mixing * clip_range * advantages_BT.abs() + 1e-6).all())


@given(seeds, st.sampled_from(["mixing", "clip", "no action", "no context"]))
def test_neutral_serl_is_grpo_bit_for_bit(seed, neutral):
    advantages_BT, gap_BT, mask_BT, action_BT = batch(seed)
    shaped = serl_advantages(
        advantages_BT,
        gap_BT,
        mask_BT,
        torch.zeros_like(action_BT) if neutral == "no action" else action_BT,
        torch.zeros(4) if neutral == "no context" else torch.ones(4),
        mixing=0.0 if neutral == "mixing" else 0.5,
        clip_range=0.0 if neutral == "clip" else 0.2,
    )
    assert torch.equal(shaped.advantages_BT, advantages_BT)


@given(seeds, st.floats(0, 1), st.floats(0, 0.9))
def test_serl_on_every_token_is_rlsd(seed, mixing, clip_range):
    advantages_BT, gap_BT, mask_BT, _ = batch(seed)
    shaped = serl_advantages(
        advantages_BT,
        gap_BT,
        mask_BT,
        torch.ones_like(mask_BT),
        torch.ones(4),
        mixing=mixing,
        clip_range=clip_range,
    )
    expected_BT = rlsd_advantages(
        advantages_BT, gap_BT, mask_BT, mixing=mixing, clip_range=clip_range
    )
    assert torch.allclose(shaped.advantages_BT, expected_BT, atol=1e-6)


@given(st.text("<>/actionsearchclick[] \n", max_size=60))
def test_spans_lie_in_the_text_apart_and_in_order(text):
    spans = action_spans(text, calls=("search", "click"))
    ends = [0, *[end for _, end in spans]]
    for (start, end), before in zip(spans, ends, strict=False):
        assert before <= start < end <= len(text)


def influence(seed: int, *, split: float = 0.5, sign: float = 0.0, turns: int = 3):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 8)
    policy_BT, old_BT, teacher_BT = (
        -3 * torch.rand(*shape, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    turn_BT = torch.randint(-1, turns, shape, generator=generator)
    turn_BT = torch.where(turn_BT < 0, -1, turn_BT + turns * torch.arange(3)[:, None])
    advantages_BT = torch.randn(*shape, generator=generator, dtype=torch.float64)
    advantages_BT = advantages_BT.abs() * sign if sign else advantages_BT
    gate = influence_gate(
        advantages_BT, policy_BT, old_BT, teacher_BT, turn_BT, beta=5.0, split=split
    )
    return gate, advantages_BT, policy_BT, teacher_BT, turn_BT


@given(seeds, st.floats(0.1, 0.9), st.sampled_from([0.0, 1.0, -1.0]))
def test_every_turn_keeps_the_weight_of_sdars_gate(seed, split, sign):
    gate, _, policy_BT, teacher_BT, turn_BT = influence(seed, split=split, sign=sign)
    sdar_BT = gap_gate(policy_BT, teacher_BT, beta=5.0)
    for turn in turn_BT[turn_BT >= 0].unique():
        mine_BT = turn_BT == turn
        assert float(gate.coefficient_BT[mine_BT].sum()) == pytest.approx(
            float(sdar_BT[mine_BT].sum())
        )


@given(seeds, st.floats(0.1, 0.9))
def test_the_modulation_is_split_at_the_median(seed, split):
    gate, _, _, _, turn_BT = influence(seed, split=split)
    for turn in turn_BT[turn_BT >= 0].unique():
        mine_BT = turn_BT == turn
        values = gate.influence_BT[mine_BT].tolist()
        median = statistics.median(values)
        for value, modulation in zip(values, gate.modulation_BT[mine_BT].tolist(), strict=True):
            if value < median:
                assert 0 < modulation < split
            else:
                assert split - 1e-12 <= modulation < 1


@given(seeds)
def test_outside_of_turns_there_is_no_weight(seed):
    gate, _, _, _, turn_BT = influence(seed)
    assert float(gate.coefficient_BT[turn_BT < 0].abs().sum()) == 0


@given(seeds)
def test_without_an_advantage_the_gate_is_sdars(seed):
    _, advantages_BT, policy_BT, teacher_BT, turn_BT = influence(seed)
    gate = influence_gate(
        torch.zeros_like(advantages_BT),
        policy_BT,
        policy_BT,
        teacher_BT,
        turn_BT,
        beta=5.0,
        split=0.5,
    )
    sdar_BT = gap_gate(policy_BT, teacher_BT, beta=5.0) * (turn_BT >= 0)
    assert torch.allclose(gate.coefficient_BT, sdar_BT)
