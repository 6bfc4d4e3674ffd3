"""Who teaches whom where two branches meet, spelt out."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.objectives.turns import turn_ids, turn_spans
from stepopsd_rllib.objectives.ucob import branch_teachers, branch_weights

# Quarters are exact in binary, so that a tie in the loop is a tie in the tensors.
visits = st.lists(
    st.tuples(st.integers(-8, 8).map(lambda i: i / 4), st.integers(0, 3), st.booleans()),
    min_size=1,
    max_size=20,
)


def tensors(turns):
    returns, anchors, informed = zip(*turns, strict=True)
    return torch.tensor(returns), torch.tensor(anchors), torch.tensor(informed)


@given(visits)
def test_teachers_spelt_out(turns):
    found = branch_teachers(*tensors(turns))
    for s, (_, anchor, informed) in enumerate(turns):
        own = [i for i, t in enumerate(turns) if t[1:] == (anchor, informed)]
        other = [i for i, t in enumerate(turns) if t[1:] == (anchor, not informed)]
        gap = 0.0
        if other:
            means = [statistics.fmean(turns[i][0] for i in visits) for visits in (other, own)]
            gap = max(0.0, means[0] - means[1])
        best = max(other, key=lambda i: (turns[i][0], -i)) if gap > 0 else -1
        assert bool(found.is_paired_S[s]) == bool(other)
        assert float(found.gap_S[s]) == pytest.approx(gap, abs=1e-12)
        if gap == 0 or gap > 1e-9:
            assert int(found.teacher_S[s]) == best


@given(visits)
def test_a_turn_never_teaches_and_learns_and_a_state_is_taught_in_one_direction(turns):
    returns_S, anchor_S, is_informed_S = tensors(turns)
    found = branch_teachers(returns_S, anchor_S, is_informed_S)
    students = found.teacher_S.ge(0).nonzero()[:, 0]
    teachers = found.teacher_S[students]
    assert not set(students.tolist()) & set(teachers.tolist())
    assert torch.equal(anchor_S[students], anchor_S[teachers])
    assert bool((is_informed_S[students] != is_informed_S[teachers]).all())
    assert bool((found.gap_S[teachers] == 0).all())
    for anchor in anchor_S.unique():
        here = anchor_S[students] == anchor
        assert len(is_informed_S[students][here].unique()) <= 1


@given(visits, st.integers(-4, 4))
def test_only_differences_between_branches_count(turns, shift):
    returns_S, anchor_S, is_informed_S = tensors(turns)
    found = branch_teachers(returns_S, anchor_S, is_informed_S)
    moved = branch_teachers(returns_S + shift, anchor_S, is_informed_S)
    swapped = branch_teachers(returns_S, anchor_S, ~is_informed_S)
    turned = branch_teachers(-returns_S, anchor_S, is_informed_S)
    torch.testing.assert_close(moved.gap_S, found.gap_S)
    assert torch.equal(swapped.teacher_S, found.teacher_S), "neither branch is privileged"
    # The branch that was taught teaches when returns change sign.
    paired_S = found.is_paired_S & (found.gap_S + turned.gap_S > 1e-9)
    assert bool(((found.gap_S > 0) ^ (turned.gap_S > 0))[paired_S].all())


@given(visits)
def test_one_branch_alone_teaches_nobody(turns):
    returns_S, anchor_S, is_informed_S = tensors(turns)
    for same_S in (torch.zeros_like(is_informed_S), torch.ones_like(is_informed_S)):
        found = branch_teachers(returns_S, anchor_S, same_S)
        assert bool((found.teacher_S == -1).all()) and not bool(found.gap_S.any())
        assert not bool(found.is_paired_S.any())


def test_weights_follow_their_keys():
    gaps = torch.tensor([0.0, 0.5, 0.6, 2.0, 9.0])
    expected = torch.tensor([0.0, 0.0, 0.3, 1.0, 3.0])
    weights = branch_weights(gaps, smallest_gap=0.5, scale=2.0, largest=3.0)
    torch.testing.assert_close(weights, expected)


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=4))
def test_spans_hold_the_tokens_of_each_turn(episodes):
    width = 1 + sum(map(sum, episodes)) + len(episodes)
    turn_index_BT = torch.full((len(episodes), width), -1)
    for b, lengths in enumerate(episodes):
        end = 1
        for k, length in enumerate(lengths):
            turn_index_BT[b, end : end + length] = k
            end += length + (k % 2)  # with and without tokens of the environment in between
    turn_BT, episode_S = turn_ids(turn_index_BT, torch.arange(len(episodes)))
    first_S, length_S = turn_spans(turn_BT, len(episode_S))
    assert length_S.tolist() == [length for lengths in episodes for length in lengths]
    for s, (first, length) in enumerate(zip(first_S.tolist(), length_S.tolist(), strict=True)):
        here = (turn_BT.flatten() == s).nonzero()[:, 0].tolist()
        assert here == list(range(first, first + length))
