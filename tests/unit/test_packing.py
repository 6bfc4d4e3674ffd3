"""Token rows against a loop over single tokens, and the split into micro-batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.episodes import TokenRows, pack_episodes, packing
from stepopsd_rllib.episodes.packing import micro_batches
from tests.helpers.agents import random_groups
from tests.helpers.dense import dense


def token_by_token(episodes):
    """(id, is sampled, log-prob, turn) of every token, row by row, and the episode of each row."""
    rows, owners = [], []
    for n, episode in enumerate(episodes):
        for k, turn in enumerate(episode.turns):
            if k == 0 or episode.context == "window":
                rows.append([])
                owners.append(n)
            rows[-1] += [(int(i), False, 0.0, -1) for i in turn.prompt_ids]
            pairs = zip(turn.response_ids, turn.behaviour_log_probs, strict=True)
            rows[-1] += [(int(i), True, float(log_prob), k) for i, log_prob in pairs]
    return rows, owners


@pytest.mark.parametrize("context", ["append", "window"])
def test_rows_hold_what_a_loop_over_tokens_says(context):
    episodes = [e for group in random_groups(context=context) for e in group]
    columns = pack_episodes(episodes).columns()
    packed = TokenRows(**dense(columns))
    rows, owners = token_by_token(episodes)
    assert packed.episode_index.tolist() == owners
    assert packed.lengths.tolist() == [len(row) for row in rows]
    assert packed.input_ids.shape == (len(rows), max(map(len, rows)))
    for b, row in enumerate(rows):
        padded = row + [(0, False, 0.0, -1)] * (packed.input_ids.shape[1] - len(row))
        ids, sampled, log_probs, turns = (list(column) for column in zip(*padded, strict=True))
        assert packed.input_ids[b].tolist() == ids
        assert packed.response_mask[b].tolist() == sampled
        assert packed.behaviour_log_probs[b].tolist() == log_probs
        assert packed.turn_index[b].tolist() == turns


def test_no_episodes_make_no_rows():
    packed = pack_episodes([])
    assert packed.input_ids.shape == packed.turn_index.shape == packed.lengths.shape == (0,)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), budget=st.integers(1, 120))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths, budget):
    parts = micro_batches(torch.tensor(lengths), max_tokens=budget)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(lengths)))
    for part in parts:
        longest = max(lengths[row] for row in part.tolist())
        assert len(part) == 1 or len(part) * longest <= budget
    ordered = [lengths[row] for part in parts for row in part.tolist()]
    assert ordered == sorted(ordered, reverse=True)


def compositions(rows: list[int]):
    """Every way to cut a list into runs."""
    if not rows:
        yield []
        return
    for end in range(1, len(rows) + 1):
        for rest in compositions(rows[end:]):
            yield [rows[:end], *rest]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    budget=st.integers(1, 120),
    pass_tokens=st.integers(0, 60),
)
def test_no_other_split_within_the_budget_costs_less(lengths, budget, pass_tokens):
    def cost(parts) -> int:
        return sum(max(part) * len(part) + pass_tokens for part in parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PASS_TOKENS", pass_tokens)
        found = micro_batches(torch.tensor(lengths), max_tokens=budget)
    allowed = [
        parts
        for parts in compositions(sorted(lengths, reverse=True))
        if all(len(part) == 1 or max(part) * len(part) <= budget for part in parts)
    ]
    assert cost([[lengths[i] for i in part.tolist()] for part in found]) == min(map(cost, allowed))
