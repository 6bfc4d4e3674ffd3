"""Blocks between tags, against the regular expression that says what they are."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepopsd_envs.alfworld.protocol import project_action
from stepopsd_envs.search_qa.protocol import cut_after_action, parse_append, parse_window
from stepopsd_envs.search_qa.scoring import last_answer
from stepopsd_envs.tag_blocks import tag_blocks

from stepopsd_rllib.episodes.action_spans import action_spans
from stepopsd_rllib.episodes.segmentation import SPAN_MODES, turn_targets
from stepopsd_rllib.reference.search_segmentation import search_steps

NAMES = ("search", "answer", "a.b")
PIECES = st.sampled_from(
    [f"<{end}{name}>" for name in NAMES for end in ("", "/")]
    + ["<SEARCH>", "</Search>", "<\u017fearch>", "x", "\n", "<", ">", "İ", "<search", "axb"]
)
texts = st.lists(PIECES, max_size=14).map("".join)
MEGABYTE_S = 2.0  # a regular expression with a lazy middle takes hours


@given(text=texts, ignore_case=st.booleans())
def test_blocks_are_those_of_the_regular_expression(text, ignore_case):
    either = "|".join(map(re.escape, NAMES))
    flags = re.DOTALL | (re.IGNORECASE | re.ASCII if ignore_case else re.NOFLAG)
    found = list(re.finditer(rf"<({either})>(.*?)</\1>", text, flags))
    blocks = list(tag_blocks(text, NAMES, ignore_case=ignore_case))
    assert [(b.start, b.end, b.content) for b in blocks] == [(*m.span(), m[2]) for m in found]


CALLS = ("search", "click")
_OLD_SPELLINGS = [
    re.compile(opening + r"(.*?)</action>", re.IGNORECASE | re.DOTALL)
    for opening in (r"<action\b[^>]*>", r"\[action>", r"action>")
]


def spans_by_regular_expressions(text: str) -> list[tuple[int, int]]:
    spans = [m.span(1) for spelling in _OLD_SPELLINGS for m in spelling.finditer(text) if m[1]]
    opened = re.search(r"<action\b[^>]*>", text, re.IGNORECASE)
    if not spans and opened and opened.end() < len(text):
        spans = [(opened.end(), len(text))]
    if not spans:
        calls = re.finditer(r"(?:search|click)\[[^\]\n]*\]", text, re.IGNORECASE)
        spans = [match.span() for match in calls]
    return spans


_ACTION_PIECES = "<action,<action>,[action>,action,</action>,>,x,search[,Click[,],\n,<ACTION a>"


@given(text=st.lists(st.sampled_from(_ACTION_PIECES.split(",")), max_size=14).map("".join))
def test_action_spans_cover_what_the_regular_expressions_cover(text):
    covered = {i for start, end in spans_by_regular_expressions(text) for i in range(start, end)}
    assert {
        i for start, end in action_spans(text, calls=CALLS) for i in range(start, end)
    } == covered


@pytest.mark.parametrize(
    "piece",
    [
        "<search>",
        "<action>",
        "</search>",
        "<action ",
        "[action>",
        "search[",
        "<search><answer>",
        "<",
    ],
)
@pytest.mark.parametrize(
    "parse",
    [
        parse_append,
        parse_window,
        cut_after_action,
        last_answer,
        project_action,
        search_steps,
        lambda text: action_spans(text, calls=CALLS),
        lambda text: [turn_targets([text], mode) for mode in SPAN_MODES],
    ],
)
def test_a_megabyte_of_tags_is_parsed_at_once(parse, piece):
    began = time.process_time()
    parse(piece * (2**20 // len(piece)))
    assert time.process_time() - began < MEGABYTE_S
