"""What holds for ADRS on every batch: its reward, and how the reward becomes advantages."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.objectives.adrs import (
    adrs_advantages,
    centred_teacher_reward,
    rewards_to_go,
    shaping_reward,
    token_gate,
    turn_gate,
    usefulness,
)
from stepopsd_rllib.objectives.advantages import group_advantages, group_scales
from stepopsd_rllib.objectives.turns import turn_means
from tests.helpers.turn_batches import Turns, as_episode_rows, turn_batches


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


@given(turn_batches())
def test_the_reward_to_go_spelt_out(batch: Turns):
    reward_BT = torch.where(batch.turn_BT >= 0, batch.gap_BT, torch.zeros_like(batch.gap_BT))
    ahead_BT = rewards_to_go(reward_BT, batch.turn_BT, batch.num_turns)
    for turn in range(batch.num_turns):
        rewards = batch.of(turn, reward_BT)
        expected = [sum(rewards[t:]) for t in range(len(rewards))]
        assert batch.of(turn, ahead_BT) == pytest.approx(expected, abs=1e-5)
    assert (ahead_BT[batch.turn_BT < 0] == 0).all()


@given(turn_batches(), st.booleans())
def test_a_reward_centred_on_the_turn_is_worth_nothing_as_a_whole(batch: Turns, per_turn: bool):
    # Why the score of a row, the sum of its rewards, cannot carry it.
    reward_BT = centred_teacher_reward(
        batch.teacher_BT, batch.turn_BT, batch.num_turns, per_turn=per_turn
    )
    ahead_BT = rewards_to_go(reward_BT, batch.turn_BT, batch.num_turns)
    for turn in range(batch.num_turns):
        assert batch.of(turn, ahead_BT)[0] == pytest.approx(0.0, abs=1e-6)


@given(turn_batches(), st.floats(0.0, 1.0))
def test_the_advantage_is_linear_in_the_weight_and_zero_is_grpo(batch: Turns, eta: float):
    scale_B = torch.full((len(batch.turn_BT),), 0.5, dtype=torch.float64)

    def added(weight: float) -> torch.Tensor:
        reward_BT = shaping_reward(
            centred_teacher_reward(batch.teacher_BT, batch.turn_BT, batch.num_turns, per_turn=True),
            None,
            eta=weight,
        )
        ahead_BT = rewards_to_go(reward_BT, batch.turn_BT, batch.num_turns)
        return adrs_advantages(batch.advantages_BT, ahead_BT, scale_B)

    assert torch.equal(added(0.0), batch.advantages_BT)
    change_BT = added(1.0) - batch.advantages_BT
    torch.testing.assert_close(
        added(eta), batch.advantages_BT + eta * change_BT, atol=1e-5, rtol=1e-5
    )


@given(turn_batches())
def test_the_reward_to_go_does_not_depend_on_the_row_layout(batch: Turns):
    ahead_BT = rewards_to_go(batch.gap_BT, batch.turn_BT, batch.num_turns)
    rows_NT = as_episode_rows(batch, batch.gap_BT)
    turn_NT = as_episode_rows(batch, batch.turn_BT + 1) - 1
    ahead_NT = rewards_to_go(rows_NT, turn_NT, batch.num_turns)
    for turn in range(batch.num_turns):
        torch.testing.assert_close(
            ahead_NT[turn_NT == turn], ahead_BT[batch.turn_BT == turn], atol=1e-6, rtol=1e-6
        )


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.booleans())
def test_the_scale_is_what_the_outcome_was_divided_by(values: list[float], normalize: bool):
    returns_B = torch.tensor([*values, 3.0, 3.0])  # a second, flat group
    group_B = torch.tensor([0] * len(values) + [1, 1])
    scale_B = group_scales(returns_B, group_B, normalize=normalize)
    advantages_B = group_advantages(returns_B, group_B, normalize=normalize)
    mean = statistics.fmean(returns_B[: len(values)].tolist())
    assert scale_B[-1] == 1.0
    if max(values) - min(values) > 1e-6:
        torch.testing.assert_close(
            advantages_B[: len(values)].double() * scale_B[: len(values)],
            returns_B[: len(values)].double() - mean,
            atol=1e-5,
            rtol=1e-5,
        )
