"""What holds for AgentOPSD, GiGPO, GRSD and ADRS on every batch, in either row layout."""

import math
import statistics
from dataclasses import dataclass
from difflib import SequenceMatcher

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stepopsd_rllib.objectives.adrs import (
    centred_teacher_reward,
    shaping_reward,
    token_gate,
    turn_gate,
    usefulness,
)
from stepopsd_rllib.objectives.agentopsd import (
    agentopsd_token_advantages,
    agentopsd_turn_advantages,
    group_priors,
    turn_belief_moves,
    turn_multipliers,
)
from stepopsd_rllib.objectives.gigpo import (
    anchor_advantages,
    anchor_groups,
    discounted_returns,
    gigpo_advantages,
)
from stepopsd_rllib.objectives.grsd import (
    grsd_advantages,
    grsd_token_factors,
    grsd_turn_factors,
)
from stepopsd_rllib.objectives.turns import (
    episode_table,
    spread_turns,
    turn_ids,
    turn_means,
    turn_sums,
)


@dataclass(frozen=True, kw_only=True)
class Turns:
    """One batch in the layout of one row a turn; `_S` is sorted by episode and time."""

    gap_BT: Tensor
    teacher_BT: Tensor
    advantages_BT: Tensor
    turn_BT: Tensor
    episode_S: Tensor
    group_S: Tensor
    prior_S: Tensor
    reward_S: Tensor

    @property
    def num_turns(self) -> int:
        return len(self.episode_S)

    def of(self, turn: int, values_BT: Tensor) -> list[float]:
        """The numbers on the tokens of one turn."""
        return values_BT[self.turn_BT == turn].tolist()

    def episodes(self) -> list[list[int]]:
        """Turns of each episode."""
        numbers = self.episode_S.tolist()
        return [
            [turn for turn, episode in enumerate(numbers) if episode == n] for n in set(numbers)
        ]


@st.composite
def turn_batches(draw):
    """1 to 4 episodes of 1 to 4 turns of 1 to 5 tokens; rows in any order."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    index_B = torch.tensor([k for length in lengths for k in range(length)])
    episode_B = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    order = torch.randperm(len(index_B), generator=generator)
    index_B, episode_B = index_B[order], episode_B[order]
    num_tokens_B = torch.randint(1, 6, (len(index_B),), generator=generator)
    shape = (len(index_B), 5)
    index_BT = torch.where(torch.arange(5) < num_tokens_B[:, None], index_B[:, None], -1)
    turn_BT, episode_S = turn_ids(index_BT, episode_B)
    advantage_N = torch.randn(len(lengths), generator=generator).round(decimals=1).double()
    group_N = torch.randint(0, 2, (len(lengths),), generator=generator)
    scale = draw(st.sampled_from([0.0, 0.1, 1.0]))
    return Turns(
        gap_BT=torch.randn(shape, generator=generator).double() * scale,
        teacher_BT=-torch.randn(shape, generator=generator).abs().double(),
        advantages_BT=advantage_N[episode_B][:, None] * (index_BT >= 0),
        turn_BT=turn_BT,
        episode_S=episode_S,
        group_S=group_N[episode_S],
        prior_S=torch.rand(len(lengths), generator=generator).double()[episode_S] * 0.8 + 0.1,
        reward_S=torch.randint(-1, 3, episode_S.shape, generator=generator).double(),
    )


def as_episode_rows(batch: Turns, values_BT: Tensor) -> Tensor:
    """The same tokens, the turns of an episode in one row with an observation token between."""
    rows = []
    for turns in batch.episodes():
        pieces = []
        for turn in turns:
            pieces += [values_BT[batch.turn_BT == turn], values_BT.new_full((1,), -1)]
        rows.append(torch.cat(pieces))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


# turns.py


@given(turn_batches())
def test_turn_numbers_count_episodes_then_time(batch):
    assert batch.episode_S.tolist() == sorted(batch.episode_S.tolist())
    index_BT = as_episode_rows(batch, batch.turn_BT)
    for row in index_BT.tolist():
        numbered = [turn for turn in row if turn >= 0]
        assert numbered == sorted(numbered)


@given(turn_batches())
def test_sums_means_and_spreading_agree_with_a_loop(batch):
    sums_S = turn_sums(batch.gap_BT, batch.turn_BT, batch.num_turns)
    means_S = turn_means(batch.gap_BT, batch.turn_BT, batch.num_turns)
    spread_BT = spread_turns(means_S, batch.turn_BT)
    for turn in range(batch.num_turns):
        values = batch.of(turn, batch.gap_BT)
        assert float(sums_S[turn]) == pytest.approx(sum(values), abs=1e-9)
        assert float(means_S[turn]) == pytest.approx(statistics.fmean(values), abs=1e-9)
        assert set(batch.of(turn, spread_BT)) == {float(means_S[turn])}
    assert not bool(spread_BT[batch.turn_BT < 0].any())


@given(turn_batches())
def test_the_episode_table_is_lossless(batch):
    table_NK, row_S, column_S = episode_table(batch.reward_S, batch.episode_S)
    assert torch.equal(table_NK[row_S, column_S], batch.reward_S)
    assert float(table_NK.abs().sum()) == float(batch.reward_S.abs().sum())


def test_a_batch_without_response_tokens_has_no_turns():
    turn_BT, episode_S = turn_ids(torch.full((2, 3), -1), torch.tensor([0, 1]))
    assert len(episode_S) == 0
    assert not bool(spread_turns(torch.zeros(0), turn_BT).any())


# AgentOPSD

agentopsd_settings = st.fixed_dictionaries(
    {
        "gamma": st.sampled_from([0.8, 0.95, 1.0]),
        "mixing": st.sampled_from([0.0, 0.5, 1.0]),
        "band": st.sampled_from([0.0, 0.2, 0.5]),
        "uses_belief": st.booleans(),
        "signed": st.booleans(),
    }
)


def agentopsd_multipliers(evidence, prior, signs, settings, *, divisor):
    """The recursion spelt out for one episode, or for the tokens of one turn."""
    belief, accumulated, moves = prior, 0.0, []
    for value in evidence:
        accumulated = settings["gamma"] * accumulated + value
        logit = math.log(prior / (1 - prior)) + accumulated
        following = clip(1 / (1 + math.exp(-logit)), 1e-6, 1 - 1e-6)
        moves.append(following - belief if settings["uses_belief"] else value)
        belief = following
    if not settings["signed"]:
        moves, signs = [abs(move) for move in moves], [1] * len(moves)
    centre, variance = statistics.fmean(moves), statistics.pvariance(moves)
    band = settings["band"]
    return [
        clip(1 + band * s * (move - centre) / divisor(variance), 1 - band, 1 + band)
        for s, move in zip(signs, moves, strict=True)
    ]


@given(turn_batches(), agentopsd_settings)
def test_agentopsd_by_turn_spelt_out(batch, settings):
    shaped_BT = agentopsd_turn_advantages(
        batch.advantages_BT,
        batch.gap_BT,
        batch.turn_BT,
        batch.prior_S,
        batch.episode_S,
        **settings,
    )
    for turns in batch.episodes():
        advantages = [batch.of(turn, batch.advantages_BT)[0] for turn in turns]
        multipliers = agentopsd_multipliers(
            [sum(batch.of(turn, batch.gap_BT)) for turn in turns],
            float(batch.prior_S[turns[0]]),
            [sign(a) for a in advantages],
            settings,
            divisor=lambda variance: math.sqrt(variance) + 1e-6,
        )
        for turn, a, m in zip(turns, advantages, multipliers, strict=True):
            expected = a * (1 - settings["mixing"] + settings["mixing"] * m)
            assert batch.of(turn, shaped_BT) == pytest.approx(
                [expected] * len(batch.of(turn, shaped_BT)), abs=1e-6
            )


@given(turn_batches(), agentopsd_settings)
def test_agentopsd_by_token_spelt_out(batch, settings):
    shaped_BT = agentopsd_token_advantages(
        batch.advantages_BT, batch.gap_BT, batch.turn_BT, batch.prior_S, **settings
    )
    for turn in range(batch.num_turns):
        advantages = batch.of(turn, batch.advantages_BT)
        multipliers = agentopsd_multipliers(
            batch.of(turn, batch.gap_BT),
            float(batch.prior_S[turn]),
            [sign(a) for a in advantages],
            settings,
            divisor=lambda variance: math.sqrt(variance + 1e-6) + 1e-6,
        )
        mixing = settings["mixing"]
        expected = [
            a * (1 - mixing + mixing * m) for a, m in zip(advantages, multipliers, strict=True)
        ]
        assert batch.of(turn, shaped_BT) == pytest.approx(expected, abs=1e-6)


@given(turn_batches(), agentopsd_settings)
def test_a_token_that_does_not_count_neither_ends_a_turn_nor_brings_evidence(batch, settings):
    """A column in the middle of every row that no mask counts."""
    settings = settings | {"gamma": 1.0}

    def with_hole(values_BT, value):
        hole_B1 = torch.full_like(values_BT[:, :1], value)
        return torch.cat((values_BT[:, :2], hole_B1, values_BT[:, 2:]), dim=1)

    expected_BT = agentopsd_token_advantages(
        batch.advantages_BT, batch.gap_BT, batch.turn_BT, batch.prior_S, **settings
    )
    actual_BT = agentopsd_token_advantages(
        with_hole(batch.advantages_BT, 0.0),
        with_hole(batch.gap_BT, 99.0),
        with_hole(batch.turn_BT, -1),
        batch.prior_S,
        **settings,
    )
    torch.testing.assert_close(actual_BT, with_hole(expected_BT, 0.0))


@given(turn_batches(), agentopsd_settings)
def test_agentopsd_keeps_signs_and_bounds_its_effect(batch, settings):
    for shaped_BT in (
        agentopsd_turn_advantages(
            batch.advantages_BT,
            batch.gap_BT,
            batch.turn_BT,
            batch.prior_S,
            batch.episode_S,
            **settings,
        ),
        agentopsd_token_advantages(
            batch.advantages_BT, batch.gap_BT, batch.turn_BT, batch.prior_S, **settings
        ),
    ):
        assert torch.equal(shaped_BT.sign(), batch.advantages_BT.sign())
        bound_BT = settings["mixing"] * settings["band"] * batch.advantages_BT.abs()
        assert bool(((shaped_BT - batch.advantages_BT).abs() <= bound_BT + 1e-9).all())
        if settings["mixing"] == 0.0:
            assert torch.equal(shaped_BT, batch.advantages_BT)


@given(turn_batches(), st.sampled_from([0.8, 1.0]))
def test_belief_moves_add_up_and_a_single_turn_is_unchanged(batch, gamma):
    evidence_S = turn_sums(batch.gap_BT, batch.turn_BT, batch.num_turns)
    moves_S = turn_belief_moves(evidence_S, batch.prior_S, batch.episode_S, gamma=gamma)
    multiplier_S = turn_multipliers(moves_S, torch.ones_like(moves_S), batch.episode_S, band=0.2)
    for turns in batch.episodes():
        accumulated = 0.0
        for turn in turns:
            accumulated = gamma * accumulated + float(evidence_S[turn])
        prior = batch.prior_S[turns[0]]
        last = torch.sigmoid(torch.logit(prior) + accumulated)
        assert float(moves_S[turns].sum()) == pytest.approx(float(last - prior), abs=1e-6)
        if len(turns) == 1:
            assert float(multiplier_S[turns[0]]) == 1.0


@given(turn_batches(), agentopsd_settings)
def test_the_order_of_tokens_in_a_turn_means_nothing_to_turn_credit(batch, settings):
    turned_BT = batch.gap_BT.clone()
    for turn in range(batch.num_turns):
        turned_BT[batch.turn_BT == turn] = batch.gap_BT[batch.turn_BT == turn].flip(0)
    one_BT, other_BT = (
        agentopsd_turn_advantages(
            batch.advantages_BT, gap_BT, batch.turn_BT, batch.prior_S, batch.episode_S, **settings
        )
        for gap_BT in (batch.gap_BT, turned_BT)
    )
    torch.testing.assert_close(one_BT, other_BT)


@given(turn_batches(), agentopsd_settings)
def test_the_only_turn_of_an_episode_keeps_its_advantage(batch, settings):
    shaped_BT = agentopsd_turn_advantages(
        batch.advantages_BT,
        batch.gap_BT,
        batch.turn_BT,
        batch.prior_S,
        torch.arange(batch.num_turns),
        **settings,
    )
    assert torch.equal(shaped_BT, batch.advantages_BT)


@given(turn_batches(), st.floats(-1, 1))
def test_a_constant_added_to_every_move_changes_nothing(batch, constant):
    moves_S = batch.reward_S
    signs_S = torch.ones_like(moves_S)
    torch.testing.assert_close(
        turn_multipliers(moves_S + constant, signs_S, batch.episode_S, band=0.2),
        turn_multipliers(moves_S, signs_S, batch.episode_S, band=0.2),
        atol=1e-6,
        rtol=0,
    )


def test_the_prior_counts_every_episode_once_and_is_a_share_of_the_largest_return():
    returns_N, group_N = torch.tensor([10.0, 0.0, 0.0, 10.0]), torch.tensor([0, 0, 0, 1])
    priors = group_priors(returns_N, group_N, max_return=10.0)
    torch.testing.assert_close(priors.float(), torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.9999]))
    saturated = group_priors(returns_N, group_N)
    torch.testing.assert_close(saturated.float(), torch.full((4,), 0.9999))


@given(turn_batches(), agentopsd_settings)
def test_agentopsd_and_grsd_do_not_depend_on_the_row_layout(batch, settings):
    turn_BT = as_episode_rows(batch, batch.turn_BT)
    usable_S = batch.group_S == 0

    def every_result(advantages_BT, gap_BT, turn_BT):
        by_turn = agentopsd_turn_advantages(
            advantages_BT, gap_BT, turn_BT, batch.prior_S, batch.episode_S, **settings
        )
        by_token = agentopsd_token_advantages(
            advantages_BT, gap_BT, turn_BT, batch.prior_S, **settings
        )
        factors = grsd_token_factors(advantages_BT, gap_BT, turn_BT, batch.group_S, usable_S)
        return by_turn, by_token, factors

    as_episodes = every_result(
        as_episode_rows(batch, batch.advantages_BT), as_episode_rows(batch, batch.gap_BT), turn_BT
    )
    as_turns = every_result(batch.advantages_BT, batch.gap_BT, batch.turn_BT)
    for one_BT, other_BT in zip(as_turns, as_episodes, strict=True):
        for turn in range(batch.num_turns):
            torch.testing.assert_close(one_BT[batch.turn_BT == turn], other_BT[turn_BT == turn])


# GiGPO


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
    found_S = anchor_advantages(batch.reward_S, batch.group_S, scale=scale)
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
    assert not bool(anchor_advantages(batch.reward_S, lone_S, scale=True).any())
    step_S = anchor_advantages(batch.reward_S, batch.group_S, scale=False)
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
    assert not bool(anchor_advantages(returns_S, anchor_S, scale=scale).any())


def test_equal_inexact_returns_carry_no_signal():
    returns_S = torch.full((7,), 0.7)
    assert not bool(
        anchor_advantages(returns_S, torch.zeros(7, dtype=torch.int64), scale=True).any()
    )


# GRSD

grsd_settings = st.fixed_dictionaries(
    {
        "mixing": st.sampled_from([0.0, 0.5, 1.0]),
        "threshold": st.sampled_from([0.0, 0.5]),
        "max_gain": st.sampled_from([1.0, 3.0]),
    }
)


def grsd_factor(signal, *, usable, magnitude, mixing, threshold, max_gain):
    scaled = signal / magnitude
    gain = scaled if abs(scaled) > threshold and usable else 0.0
    return max(0.1, 1 + mixing * clip(gain, -max_gain, max_gain))


@given(turn_batches(), grsd_settings, st.integers(0, 255))
def test_grsd_by_turn_spelt_out(batch, settings, usable_bits):
    usable = [bool(usable_bits >> (turn % 8) & 1) for turn in range(batch.num_turns)]
    factor_S = grsd_turn_factors(
        batch.advantages_BT,
        batch.gap_BT,
        batch.turn_BT,
        batch.group_S,
        torch.tensor(usable),
        **settings,
    )
    signals = []
    for turn in range(batch.num_turns):
        gap = statistics.fmean(batch.of(turn, batch.gap_BT))
        agreement = sign(batch.of(turn, batch.advantages_BT)[0]) * gap
        signals.append(math.expm1(clip(agreement, -20, 20)))
    for turn, group in enumerate(batch.group_S.tolist()):
        members = [
            abs(signals[other])
            for other, g in enumerate(batch.group_S.tolist())
            if g == group and usable[other]
        ]
        magnitude = (statistics.fmean(members) if members else 0.0) + 1e-6
        expected = grsd_factor(signals[turn], usable=usable[turn], magnitude=magnitude, **settings)
        assert float(factor_S[turn]) == pytest.approx(expected, rel=1e-6)


@given(turn_batches(), grsd_settings, st.sampled_from(["group", "none"]))
def test_grsd_keeps_signs_within_its_bounds(batch, settings, normalization):
    usable_S = batch.group_S == 0
    arguments = (batch.advantages_BT, batch.gap_BT, batch.turn_BT, batch.group_S, usable_S)
    for factor_BT in (
        spread_turns(grsd_turn_factors(*arguments, **settings), batch.turn_BT),
        grsd_token_factors(*arguments, normalization=normalization, **settings),
    ):
        sampled = factor_BT[batch.turn_BT >= 0]
        assert bool((sampled >= 0.1).all())
        assert bool((sampled <= 1 + settings["mixing"] * settings["max_gain"]).all())
        shaped_BT = grsd_advantages(batch.advantages_BT, factor_BT, batch.turn_BT)
        assert torch.equal(shaped_BT.sign(), batch.advantages_BT.sign())
        unusable_BT = ~spread_turns(usable_S, batch.turn_BT)
        assert torch.equal(shaped_BT[unusable_BT], batch.advantages_BT[unusable_BT])
        if settings["mixing"] == 0.0:
            assert torch.equal(shaped_BT, batch.advantages_BT)


# ADRS


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
