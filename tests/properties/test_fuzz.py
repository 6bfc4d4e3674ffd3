"""Nonsense from policies and on disk: a short run of the fuzzing benchmark, and hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fuzz import (
    CONTROL,
    MEGABYTE,
    ODD,
    TAGS,
    Player,
    environments,
    fuzz_games,
    fuzz_outputs,
    fuzz_rows,
    outputs,
)

PLAYERS = {name: Player(env) for name, env in environments().items()}
_TAGS = [f"<{end}{tag}>" for tag in TAGS for end in ("", "/")]
nonsense = st.lists(
    st.sampled_from([*_TAGS, *CONTROL, *ODD]) | st.text(st.characters(codec=None), max_size=8),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("name", PLAYERS)
@given(output=nonsense)
def test_whatever_a_policy_writes_has_one_status(name, output):
    assert PLAYERS[name].status_of(output).startswith(("kept to the format", "broke the format"))


@pytest.mark.parametrize("name", PLAYERS)
@pytest.mark.parametrize(
    "piece", ["", "x", "<search>", "<action>", "</answer>", "\u202e", "\ud83d"]
)
def test_a_megabyte_has_one_too(name, piece):
    PLAYERS[name].status_of(piece * MEGABYTE if len(piece) < 2 else piece * (MEGABYTE // 8))


def test_outputs_of_the_grammar_reach_every_status_and_repeat_with_their_seed():
    assert list(outputs(7, 50)) == list(outputs(7, 50)) != list(outputs(8, 50))
    for name, statuses in fuzz_outputs(1_001, seed=0).items():
        assert statuses.total() == 1_001
        assert len(statuses) >= 5, name


def test_damaged_files_are_read_or_refused_in_one_line():
    games = fuzz_games(120, seed=0)
    assert games["plays"] and games.total() == 120
    for name, statuses in fuzz_rows(80, seed=0).items():
        assert statuses["read"] and statuses.total() == 80, name
        assert len(statuses) > 5
