"""What holds for ADRS's reward on every batch."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.objectives.adrs import (
    centred_teacher_reward,
    shaping_reward,
    token_gate,
    turn_gate,
    usefulness,
)
from stepopsd_rllib.objectives.turns import (
    turn_means,
)
from tests.turn_batches import turn_batches


@given(turn_batches())
def test_the_teacher_reward_has_mean_zero_over_every_turn(batch):
    reward_BT = centred_teacher_reward(
        batch.teacher_BT, batch.turn_BT, batch.num_turns, per_turn=True
    )
    for turn in range(batch.num_turns):
        log_probs, rewards = batch.of(turn, batch.teacher_BT), batch.of(turn, reward_BT)
        deviation = statistics.pstdev(log_probs) + 1e-8
        centre = statistics.fmean(log_probs)
        expected = [(value - centre) / deviation for value in log_probs]
        assert rewards == pytest.approx(expected, abs=1e-5)
    assert not bool(reward_BT[batch.turn_BT < 0].any())


@given(turn_batches(), st.sampled_from([0.5, 1.0]))
def test_usefulness_spelt_out(batch, temperature):
    alignment_S = turn_means(batch.teacher_BT, batch.turn_BT, batch.num_turns)
    centre = alignment_S.mean()
    useful_S = usefulness(
        alignment_S, batch.reward_S, batch.group_S, centre=centre, temperature=temperature
    )
    for turn, group in enumerate(batch.group_S.tolist()):
        members = [other for other, g in enumerate(batch.group_S.tolist()) if g == group]
        if len(members) == 1:
            assert float(useful_S[turn]) == 0.0
            continue
        aligned = [
            1 / (1 + math.exp(-(float(alignment_S[other]) - float(centre)) / temperature))
            for other in members
        ]
        returns = [float(batch.reward_S[other]) for other in members]
        follow = sum(a * r for a, r in zip(aligned, returns, strict=True)) / sum(aligned)
        diverge = sum((1 - a) * r for a, r in zip(aligned, returns, strict=True)) / sum(
            1 - a for a in aligned
        )
        assert float(useful_S[turn]) == pytest.approx(follow - diverge, abs=1e-5)


def test_usefulness_compares_turns_however_far_from_the_centre():
    """At 60 nats from the centre the weights are 1e-26; their means are means still."""
    alignment_S = torch.tensor([-60.0, -61.0, -0.5, -0.5])
    useful_S = usefulness(
        alignment_S,
        torch.tensor([0.0, 10.0, 1.0, 1.0]),
        torch.tensor([0, 0, 1, 1]),
        centre=torch.tensor(0.0),
    )
    follow, diverge = 10 / (1 + math.e), 5.0
    assert useful_S[:2].tolist() == pytest.approx([follow - diverge] * 2, abs=1e-6)
    assert useful_S[2:].tolist() == pytest.approx([0.0, 0.0], abs=1e-9)


@given(turn_batches())
def test_gates_open_with_usefulness_and_eta_zero_is_grpo(batch):
    gate_S = turn_gate(torch.tensor([-1.0, 0.0, 1.0]))
    assert gate_S.tolist() == sorted(gate_S.tolist())
    assert float(gate_S[1]) == 0.5
    gate_BT = token_gate(batch.teacher_BT, batch.teacher_BT, batch.turn_BT)
    assert set(gate_BT[batch.turn_BT >= 0].tolist()) == {0.5}
    assert not bool(gate_BT[batch.turn_BT < 0].any())
    assert not bool(shaping_reward(batch.gap_BT, gate_BT, eta=0.0).any())
