"""What holds for HGPO, GraphGPO and G2PO on every batch."""

from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.objectives.g2po import g2po_step_advantages, state_values
from stepopsd_rllib.objectives.graphgpo import (
    GOAL_RETURN,
    distance_returns,
    goal_distances,
    state_graph,
)
from stepopsd_rllib.objectives.hgpo import NO_HISTORY, hgpo_advantages, history_keys
from stepopsd_rllib.objectives.state_groups import centred_in_groups, penalised

GOAL = "success"


@st.composite
def visits(draw):
    """Episodes of two tasks that wander over few states; turns sorted by episode and time."""
    episodes = []
    for number in range(draw(st.integers(1, 6))):
        length = draw(st.integers(1, 6))
        states = draw(st.lists(st.sampled_from("abcd"), min_size=length, max_size=length))
        episodes.append((draw(st.integers(0, 1)), number, states, draw(st.booleans())))
    return sorted(episodes, key=lambda episode: episode[1])


class Turns:
    def __init__(self, episodes):
        rows = [
            (group, number, states, time, won)
            for group, number, states, won in episodes
            for time in range(len(states))
        ]
        self.group_S = torch.tensor([row[0] for row in rows])
        self.episode_S = torch.tensor([row[1] for row in rows])
        self.text_S = [states[time] for _, _, states, time, _ in rows]
        self.next_S = [
            states[time + 1] if time + 1 < len(states) else GOAL if won else "lost"
            for _, _, states, time, won in rows
        ]
        self.state_S = torch.tensor(
            [
                group * 4 + "abcd".index(text)
                for group, text in zip(self.group_S, self.text_S, strict=True)
            ]
        )
        self.won_S = torch.tensor([row[4] for row in rows])
        self.left_S = torch.tensor([len(row[2]) - row[3] for row in rows])
        self.valid_S = torch.tensor([(7 * i) % 5 != 0 for i in range(len(rows))])

    def returns(self, gamma=0.95):
        return 10.0 * self.won_S.double() * gamma ** (self.left_S - 1)


@given(visits(), st.integers(0, 4))
def test_history_keys_spelt_out(episodes, past_states):
    turns = Turns(episodes)
    keys_LS = history_keys(turns.state_S, turns.episode_S, past_states=past_states)
    histories = []
    for i, episode in enumerate(turns.episode_S.tolist()):
        mine = [j for j in range(i + 1) if turns.episode_S[j] == episode]
        histories.append([int(turns.state_S[j]) for j in mine])
    for level, keys_S in enumerate(keys_LS.tolist(), start=1):
        for i, key in enumerate(keys_S):
            assert (key == NO_HISTORY) == (len(histories[i]) < level)
            for j, other in enumerate(keys_S):
                if NO_HISTORY not in (key, other):
                    assert (key == other) == (histories[i][-level:] == histories[j][-level:])


@given(visits(), st.integers(0, 3), st.floats(0, 3), st.booleans(), st.booleans())
def test_hgpo_spelt_out(episodes, past_states, power, scale, paper):
    turns = Turns(episodes)
    returns_S = turns.returns()
    keys_LS = history_keys(turns.state_S, turns.episode_S, past_states=past_states).tolist()
    found_S = hgpo_advantages(
        returns_S,
        turns.state_S,
        turns.episode_S,
        past_states=past_states,
        weight_power=power,
        scale=scale,
        level_weights="paper" if paper else "code",
    )
    for i in range(len(returns_S)):
        total = weights = 0.0
        for level, keys_S in enumerate(keys_LS, start=1):
            group = [j for j in range(len(keys_S)) if keys_S[j] == keys_S[i] != NO_HISTORY]
            if len(group) < 2:
                continue
            values = [float(returns_S[j]) for j in group]
            mean = sum(values) / len(values)
            advantage = float(returns_S[i]) - mean
            if scale:
                deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
                advantage /= deviation + 1e-6
            if abs(float(returns_S[i]) - mean) < 1e-8:
                continue
            weight = (level if paper else level + 1) ** power
            total, weights = total + weight * advantage, weights + weight
        assert float(found_S[i]) == pytest.approx(total / (weights + 1e-6), abs=1e-6)


@given(visits(), st.floats(-5, 5))
def test_hgpo_does_not_see_a_constant_added_to_all_returns(episodes, shift):
    turns = Turns(episodes)
    knobs = {"past_states": 2, "weight_power": 1.0, "scale": False}
    plain, shifted = (
        hgpo_advantages(turns.returns() + by, turns.state_S, turns.episode_S, **knobs)
        for by in (0.0, shift)
    )
    assert torch.allclose(plain, shifted, atol=1e-6)


@given(visits())
def test_distances_are_those_of_a_breadth_first_search(episodes):
    turns = Turns(episodes)
    graph = state_graph(turns.text_S, turns.next_S, turns.group_S, goal=GOAL)
    distance_S, next_S = goal_distances(graph, turns.group_S)
    for group in (0, 1):
        edges = [
            (turns.text_S[i], turns.next_S[i])
            for i in range(len(turns.text_S))
            if turns.group_S[i] == group
        ]
        far, queue = {GOAL: 0}, deque([GOAL])
        while queue:
            node = queue.popleft()
            for start, end in edges:
                if end == node and start not in far:
                    far[start] = far[node] + 1
                    queue.append(start)
        beyond = max(far.values()) + 1
        for i in range(len(turns.text_S)):
            if turns.group_S[i] == group:
                assert int(distance_S[i]) == far.get(turns.text_S[i], beyond)
                assert int(next_S[i]) == far.get(turns.next_S[i], beyond)
    assert bool((distance_S <= next_S + 1).all())


@given(visits(), st.sampled_from([0.1, 0.5, 0.9]))
def test_a_step_along_a_shortest_path_is_worth_ten(episodes, gamma):
    turns = Turns(episodes)
    graph = state_graph(turns.text_S, turns.next_S, turns.group_S, goal=GOAL)
    distance_S, next_S = goal_distances(graph, turns.group_S)
    returns_S = distance_returns(distance_S, next_S, gamma=gamma, normalize_distance=True)
    on_path_S = next_S == distance_S - 1
    assert torch.allclose(returns_S[on_path_S], torch.tensor(GOAL_RETURN, dtype=torch.float64))
    assert bool((returns_S[~on_path_S] < GOAL_RETURN).all())


@given(visits())
def test_a_value_is_that_of_the_state_alone(episodes):
    turns = Turns(episodes)
    value_S, next_S = state_values(
        10.0 * turns.won_S, turns.won_S, turns.state_S, turns.episode_S, success_return=10.0
    )
    for i, state in enumerate(turns.state_S):
        same = [j for j in range(len(value_S)) if turns.state_S[j] == state]
        worth = [10.0 * float(turns.won_S[j]) * 0.95 ** int(turns.left_S[j]) for j in same]
        assert float(value_S[i]) == pytest.approx(sum(worth) / len(worth))
        if turns.left_S[i] == 1:
            assert float(next_S[i]) == 10.0 * float(turns.won_S[i])
        else:
            assert float(next_S[i]) == float(value_S[i + 1])


@given(visits(), st.booleans())
def test_step_advantages_sum_to_zero_over_states_and_tasks(episodes, scale):
    turns = Turns(episodes)
    value_S, next_S = state_values(
        10.0 * turns.won_S, turns.won_S, turns.state_S, turns.episode_S, success_return=10.0
    )
    step_S = g2po_step_advantages(
        value_S, next_S, turns.valid_S, turns.state_S, turns.group_S, penalty=0.1, scale=scale
    )
    # Over a task the states' sums are zero, and so is that of the gains.
    for group in (0, 1):
        assert float(step_S[turns.group_S == group].sum()) == pytest.approx(0.0, abs=1e-9)


def test_nobody_succeeded_and_all_are_valid_says_nothing():
    state_S, episode_S = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    lost_S = torch.zeros(4)
    value_S, next_S = state_values(lost_S, lost_S.bool(), state_S, episode_S, success_return=10.0)
    step_S = g2po_step_advantages(
        value_S,
        next_S,
        torch.ones(4, dtype=torch.bool),
        state_S,
        torch.zeros(4, dtype=torch.int64),
        penalty=0.1,
        scale=True,
    )
    assert step_S.abs().max() == 0


@given(st.floats(-10, 10), st.integers(2, 9), st.booleans(), st.integers(0, 1))
def test_equal_values_carry_no_signal(value, size, scale, less):
    centred_S = centred_in_groups(
        torch.full((size,), value), torch.zeros(size), scale=scale, divisor_less=less
    )
    assert centred_S.abs().max() == 0


def test_a_penalty_stays_with_its_own_turn():
    returns_S = penalised(torch.tensor([1.0, 2.0]), torch.tensor([True, False]), penalty=0.1)
    assert returns_S.tolist() == pytest.approx([1.0, 1.9])
