"""Scoring and both protocols against the golden vectors, and what they leave open."""

import pytest

from envs.search_qa import protocol, scoring
from envs.search_qa.retriever import Passage
from envs.text_env import HistoryTurn
from tests.golden_vectors import GoldenCase, case_id, load_cases

FEEDBACK_PLACEHOLDER = "<INVALID_FEEDBACK>"


def passages_for(query: str) -> list[Passage]:
    contents = (f'"T {query}"\nbody of {query}\nline2', f"only title {query}")
    return [Passage(id=str(i), contents=text) for i, text in enumerate(contents)]


@pytest.mark.parametrize("case", load_cases("em_scoring"), ids=case_id)
def test_scoring_agrees_with_the_golden_vectors(case: GoldenCase):
    targets, expected = case.inputs["targets"], case.outputs
    if case.tag == "pair":
        prediction = case.inputs["prediction"]
        listed = [targets] if isinstance(targets, str) else targets
        assert scoring.normalize_answer(prediction) == expected["normalized_prediction"]
        assert [scoring.normalize_answer(t) for t in listed] == expected["normalized_targets"]
        assert scoring.exact_match(prediction, targets) == bool(expected["exact_match"])
        assert scoring.substring_match(prediction, targets) == bool(expected["substring_match"])
        return
    for required, word in ((1, "one_match"), (2, "two_matches")):
        answer = scoring.last_answer(case.inputs["text"], required_matches=required)
        assert answer == expected[f"answer_needing_{word}"]
        score = answer is not None and scoring.exact_match(answer, targets)
        assert float(score) == expected[f"score_needing_{word}"]


@pytest.mark.parametrize("case", load_cases("search_turn_protocol"), ids=case_id)
def test_append_protocol_agrees_with_the_golden_vectors(case: GoldenCase):
    for index, response in enumerate(case.inputs["predictions"]):
        expected = {key: values[index] for key, values in case.outputs.items()}
        if not case.inputs["active"][index]:
            assert expected["done"] == 1  # such an episode is not stepped again
            continue
        parsed = protocol.parse_append(response)
        assert protocol.cut_after_action(response) == expected["truncated"]
        assert parsed.kind == expected["action"]
        assert parsed.content == expected["content"]
        assert parsed.is_valid == bool(expected["valid"])
        assert (parsed.kind == "answer") == bool(expected["done"])
        assert (parsed.kind == "search") == bool(expected["is_search"])
        found = passages_for(parsed.content) if case.inputs["retrieval_allowed"] else []
        observation = {
            "search": protocol.append_information(found),
            "answer": "",
            None: protocol.INVALID_FEEDBACK,
        }[parsed.kind]
        wanted = expected["observation"].replace(FEEDBACK_PLACEHOLDER, protocol.INVALID_FEEDBACK)
        assert observation == wanted


SEARCH_PROJECTIONS = [case for case in load_cases("action_projection") if case.tag == "search"]


@pytest.mark.parametrize("case", SEARCH_PROJECTIONS, ids=case_id)
def test_window_projection_agrees_with_the_golden_vectors(case: GoldenCase):
    parsed = protocol.parse_window(case.inputs["text"])
    assert parsed.text() == case.outputs["action"]
    assert parsed.is_valid == bool(case.outputs["valid"])


@pytest.mark.parametrize("case", load_cases("history_format"), ids=case_id)
def test_history_agrees_with_the_golden_vectors(case: GoldenCase):
    observations = case.inputs["observations"]
    shown = case.outputs["shown_steps"]
    first = len(observations) - shown
    lines = protocol.history_lines(
        [f"<search>{action}</search>" for action in case.inputs["actions"][first:]],
        [f"<information>{text}</information>" for text in observations[first:]],
        first_index=first,
    )
    assert lines == case.outputs["search_history"]


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
