"""What holds for turns of tokens on every batch."""

import statistics

import pytest
import torch
from hypothesis import given

from stepopsd_rllib.objectives.turns import (
    episode_table,
    spread_turns,
    turn_ids,
    turn_means,
    turn_sums,
)
from tests.helpers.turn_batches import as_episode_rows, turn_batches


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
