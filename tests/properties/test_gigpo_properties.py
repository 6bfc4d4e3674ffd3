"""What holds for GiGPO on every batch."""

import statistics
from difflib import SequenceMatcher

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.objectives.gigpo import anchor_groups, discounted_returns, gigpo_advantages
from stepopsd_rllib.objectives.state_groups import centred_in_groups
from tests.helpers.turn_batches import turn_batches


@given(turn_batches(), st.sampled_from([0.0, 0.95, 1.0]))
def test_returns_are_discounted_within_the_episode(batch, gamma):
    returns_S = discounted_returns(batch.reward_S, batch.episode_S, gamma=gamma)
    for turns in batch.episodes():
        following = 0.0
        for turn in reversed(turns):
            following = float(batch.reward_S[turn]) + gamma * following
            assert float(returns_S[turn]) == pytest.approx(following)


anchors_and_groups = st.lists(
    st.tuples(st.text("ab ", max_size=6), st.integers(0, 1)), min_size=1, max_size=8
)


@given(anchors_and_groups, st.sampled_from([None, 0.5, 0.95, 1.0]))
def test_anchor_groups_spelt_out(pairs, similarity):
    clusters: list[tuple[int, str]] = []
    expected = []
    for anchor, group in pairs:
        for number, (other_group, first) in enumerate(clusters):
            alike = (
                anchor == first
                if similarity is None
                else SequenceMatcher(None, anchor, first).ratio() >= similarity
            )
            if group == other_group and alike:
                expected.append(number)
                break
        else:
            expected.append(len(clusters))
            clusters.append((group, anchor))
    groups = torch.tensor([group for _, group in pairs])
    found = anchor_groups([anchor for anchor, _ in pairs], groups, similarity=similarity)
    assert found.tolist() == expected


def test_anchors_must_come_one_a_turn():
    with pytest.raises(ValueError, match="1 texts for 2 turns"):
        anchor_groups(["a"], torch.tensor([0, 0]))


@given(turn_batches(), st.booleans())
def test_anchor_advantages_spelt_out(batch, scale):
    found_S = centred_in_groups(batch.reward_S, batch.group_S, scale=scale)
    for group in set(batch.group_S.tolist()):
        members = [turn for turn, g in enumerate(batch.group_S.tolist()) if g == group]
        returns = [float(batch.reward_S[turn]) for turn in members]
        centred = [value - statistics.fmean(returns) for value in returns]
        if scale and len(members) > 1:
            centred = [value / (statistics.stdev(returns) + 1e-6) for value in centred]
        assert found_S[members].tolist() == pytest.approx(centred, abs=1e-9)
        assert float(found_S[members].sum()) == pytest.approx(0.0, abs=1e-9)


@given(turn_batches())
def test_lone_anchors_add_nothing_and_weight_zero_is_grpo(batch):
    lone_S = torch.arange(batch.num_turns)
    assert not bool(centred_in_groups(batch.reward_S, lone_S, scale=True).any())
    step_S = centred_in_groups(batch.reward_S, batch.group_S, scale=False)
    unweighted_BT = gigpo_advantages(batch.advantages_BT, step_S, batch.turn_BT, step_weight=0.0)
    assert torch.equal(unweighted_BT, batch.advantages_BT)
    weighted_BT = gigpo_advantages(batch.advantages_BT, step_S, batch.turn_BT, step_weight=2.0)
    for turn in range(batch.num_turns):
        added = [
            new - old
            for new, old in zip(
                batch.of(turn, weighted_BT), batch.of(turn, batch.advantages_BT), strict=True
            )
        ]
        assert added == pytest.approx([2.0 * float(step_S[turn])] * len(added))


@given(
    st.lists(st.sampled_from([0.0, 0.7, 10.0, -0.1]), min_size=1, max_size=5),
    st.integers(2, 5),
    st.booleans(),
)
def test_identical_episodes_have_no_step_advantage(rewards, num_episodes, scale):
    length = len(rewards)
    episode_S = torch.arange(num_episodes).repeat_interleave(length)
    returns_S = discounted_returns(torch.tensor(rewards * num_episodes), episode_S, gamma=0.95)
    anchors = [f"state {k}" for k in range(length)] * num_episodes
    anchor_S = anchor_groups(anchors, torch.zeros_like(episode_S))
    assert not bool(centred_in_groups(returns_S, anchor_S, scale=scale).any())


def test_equal_inexact_returns_carry_no_signal():
    returns_S = torch.full((7,), 0.7)
    assert not bool(
        centred_in_groups(returns_S, torch.zeros(7, dtype=torch.int64), scale=True).any()
    )
