"""ADRS turns its dense reward into advantages: reward-to-go in a turn, on the outcome's scale."""

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
)
from stepopsd_rllib.objectives.advantages import group_advantages, group_scales
from tests.properties.test_turn_credit_properties import Turns, as_episode_rows, turn_batches


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
