"""What holds for AgentOPSD on every batch, in either row layout."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.objectives.agentopsd import (
    agentopsd_token_advantages,
    agentopsd_turn_advantages,
    group_priors,
    turn_belief_moves,
    turn_multipliers,
)
from stepopsd_rllib.objectives.grsd import grsd_token_factors
from stepopsd_rllib.objectives.turns import turn_sums
from tests.helpers.turn_batches import as_episode_rows, clip, sign, turn_batches

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
