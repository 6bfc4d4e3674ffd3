"""Replies of an analyzing model: what is found in any text, and how long it takes."""

import ast
import json
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepopsd_rllib.teachers.analysis.analyzer_reply import parse_reply

LONG, LONG_S = (
    2**18,
    10.0,
)  # characters, seconds of processor time; a quadratic search takes minutes

PIECES = (
    *("{", "}", "[", "]", ",", ":", '"', "'", " ", "\n", "```", "```json\n", "\\", "\\\\", '\\"'),
    *('"episode_skill"', "'episode_skill'", '{"episode_skill": "a"}', "{'episode_skill': 'b'}"),
    *('"k"', '"k":', "1", "null", "None", '{"k":', '"step_skills": {"0": "s"}', "x", "{}"),
)
replies = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def objects_at_every_brace(text: str) -> list[dict]:
    """JSON objects tried at every brace by itself; else the balanced Python literals."""
    fenced = re.findall(r"```[^\S\n]*\w*[^\S\n]*\n?(.*?)```", text, flags=re.DOTALL)
    candidates = []
    for candidate in (*fenced, text):
        candidates += [candidate, re.sub(r",(\s*[}\]])", r"\1", candidate)]
    decoder = json.JSONDecoder(strict=False)
    objects = []
    for candidate in candidates:
        for brace in re.finditer(r"\{", candidate):
            try:
                objects.append(decoder.raw_decode(candidate, brace.start())[0])
            except ValueError:
                continue
    if objects:
        return objects
    for candidate in candidates:
        for brace in re.finditer(r"\{", candidate):
            depth = end = 0
            for end in range(brace.start(), len(candidate)):
                depth += {"{": 1, "}": -1}.get(candidate[end], 0)
                if depth == 0:
                    break
            try:
                found = ast.literal_eval(candidate[brace.start() : end + 1])
            except (ValueError, SyntaxError, TypeError, MemoryError):
                continue
            objects += [found] if isinstance(found, dict) else []
    return objects


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@settings(max_examples=500)
@given(replies)
@example('{"a": "x {"episode_skill": "y"}')
@example('{"a": {"k": 1}, "b": {"episode_skill": "y"}, "c": {')
@example('{"k": {"episode_skill": "in"}, "episode_skill": "out"}')
@example('[{"k": [{"k": 1}, [{"episode_skill": "deep"}]]}')
def test_the_same_object_is_chosen_as_by_trying_every_brace(text):
    objects = objects_at_every_brace(text)
    skills = parse_reply(text)
    if not objects:
        assert skills is None
        return
    chosen = next((found for found in objects if "episode_skill" in found), objects[0])
    assert skills is not None
    assert skills.episode_skill == str(chosen.get("episode_skill", ""))


@pytest.mark.parametrize(
    "piece",
    [
        *("{", "{}", '{"a":', '{"a":[', "{'a':", "{'a':1}", '{"', '{"\\"', "``` ", ", ", '"{",'),
        *('["{",":{",', "9"),
    ],
)
@pytest.mark.parametrize("before", ["", '{"a":' * 500])
def test_a_long_reply_is_read_at_once(piece, before):
    began = time.process_time()
    parse_reply(before + piece * (LONG // len(piece)) + "}" * 1000)
    assert time.process_time() - began < LONG_S
