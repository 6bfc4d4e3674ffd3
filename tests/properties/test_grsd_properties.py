"""What holds for GRSD on every batch, in either row layout."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.objectives.grsd import grsd_advantages, grsd_token_factors, grsd_turn_factors
from stepopsd_rllib.objectives.turns import spread_turns
from tests.helpers.turn_batches import clip, sign, turn_batches

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
