"""Scoring and both protocols: what the golden vectors leave open."""

import pytest
from stepopsd_envs.search_qa import protocol
from stepopsd_envs.search_qa.retriever import Passage
from stepopsd_envs.text_env import HistoryTurn


def passages_for(query: str) -> list[Passage]:
    contents = (f'"T {query}"\nbody of {query}\nline2', f"only title {query}")
    return [Passage(id=str(i), contents=text) for i, text in enumerate(contents)]


def test_corrective_message_begins_and_ends_as_programs_expect():
    assert protocol.INVALID_FEEDBACK.startswith("\nMy previous action is invalid.")
    assert protocol.INVALID_FEEDBACK.endswith("Let me try again.\n")


def test_history_pairs_each_action_with_the_observation_after_it():
    history = [
        HistoryTurn(index=0, observation="who?", action="<search>a</search>"),
        HistoryTurn(index=1, observation="found a", action="<search>b</search>"),
    ]
    lines = protocol.shown_history(history, "found b")
    assert lines == ("Step 1:<search>a</search> found a\n\nStep 2:<search>b</search> found b\n")


def test_shortened_evidence_keeps_its_closing_tag():
    text = protocol.append_information(passages_for("x"), lambda documents: documents[:10])
    assert text == "\n\n<information>Doc 1(Titl</information>\n\n"


def test_question_mark_is_added_once():
    assert protocol.with_question_mark(" who is it ") == "who is it?"
    assert protocol.with_question_mark("who is it?") == "who is it?"


@pytest.mark.parametrize(
    ("response", "action", "is_valid"),
    [
        # Only closing tags in lower case cut the response; blocks are found in any case.
        ("<answer>a</answer><SEARCH>b</SEARCH>", "<answer>a</answer>", False),
        ("</answer> <Search>y</SEARCH>", "", False),
        ("<Search>y</SEARCH> </answer>", "<search>y</search>", True),
        # A character whose lower case is longer does not shift the cut.
        ("\u0130\u0130<answer>a</answer>b</search>c", "<answer>a</answer>", True),
    ],
)
def test_window_projection_cuts_at_lower_case_tags(response, action, is_valid):
    parsed = protocol.parse_window(response)
    assert (parsed.text(), parsed.is_valid) == (action, is_valid)
