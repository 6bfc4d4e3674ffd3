"""What a teacher is told, and which text of an episode is credited."""

import pytest

from stepopsd_rllib.episodes.segmentation import token_span, turn_targets
from stepopsd_rllib.reference.hindsight_names import info_mode
from stepopsd_rllib.reference.search_segmentation import (
    reencoded_token_span,
    search_steps,
    target_spans,
)
from stepopsd_rllib.teachers.contexts import (
    choose_peers,
    hindsight_text,
    hindsight_texts,
    render_episode,
)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("none", "none"),
        ("off", "none"),
        ("disabled", "none"),
        ("anything", "none"),
        ("peer", "peer_traj"),
        ("peer_traj", "peer_traj"),
        ("peer_correct_trajectory", "peer_traj"),
        ("gold", "golden_rollout"),
        ("golden", "golden_rollout"),
        ("golden_rollout", "golden_rollout"),
    ],
)
def test_names_of_the_authors_program_are_understood(name, mode):
    assert info_mode(name) == mode


def test_parts_stand_in_the_authors_order():
    text = hindsight_text(is_correct=False, peer="went well \n\n", golden="gold")
    assert text == (
        "\n<hindsight>\nfinal_correctness: incorrect\n"
        "peer_correct_trajectory:\n<peer_correct_trajectory>\nwent well\n"
        "</peer_correct_trajectory>\n"
        "golden_rollout:\n<golden_rollout>\ngold\n</golden_rollout>\n</hindsight>\n"
    )


def test_nothing_known_is_no_text():
    assert hindsight_text() == hindsight_text(peer="", golden="") == ""


def test_the_first_success_of_the_group_teaches_its_failures():
    is_correct = [False, True, False, True, True, False]
    groups = ["a", "a", "b", "a", "c", "a"]
    assert choose_peers(is_correct, groups) == [1, None, None, None, None, 1]


def test_golden_texts_are_told_in_their_mode_alone():
    arguments = (["x", "y"], [True, False], [0, 0])
    told = hindsight_texts(*arguments, mode="golden_rollout", golden=["g", None])
    assert ["g" in told[0], told[1]] == [True, ""]
    peers = hindsight_texts(*arguments, mode="peer_traj", golden=["g", "g"])
    assert peers == ["", hindsight_text(peer="x")]
    assert hindsight_texts(*arguments, mode="none", golden=["g", "g"]) == ["", ""]


def test_an_episode_is_told_turn_by_turn():
    turns = [
        ("You are in a room.\n\nYour task is to: look.\n", " look "),
        ("You see a lamp.", "use lamp"),
    ]
    assert render_episode(turns) == "> look\nYou see a lamp.\n> use lamp"


def test_targets_of_known_turns():
    responses = [
        "<think>a</think><action>go to desk 1</action>",
        "no action at all",
        "<think>b</think><ACTION>look</ACTION> <action>again</action>",
        "",
    ]
    assert turn_targets(responses, "action_only") == [(16, 45), None, (16, 37), None]
    assert turn_targets(responses, "clean_step_no_observation") == [(0, 45), (0, 16), (0, 60), None]
    assert turn_targets(responses, "answer_only") == [None] * 4


def test_a_phantom_step_is_possible_in_text_and_not_in_turns():
    document = "\n\n<information>He said <answer>no</answer></information>\n\n"
    responses = ["<search>q</search>", "<answer>yes</answer>"]
    text = responses[0] + document + responses[1]
    assert len(search_steps(text)) == 3
    tags = {"action_tags": ("search", "answer"), "answer_tags": ("answer",)}
    assert turn_targets(responses, "answer_only", **tags) == [None, (0, 20)]


def test_tokens_of_an_action_inside_longer_tokens():
    pieces = ["<th", "ink>a</think><", "action>", "go", "</action>", "\n"]
    ids = range(len(pieces))

    def decode(part):
        return "".join(pieces[i] for i in part)

    text = "".join(pieces)
    span = turn_targets([text], "action_only")[0]
    assert span is not None
    assert token_span(decode, ids, span) == (1, 5)
    assert token_span(decode, ids, (0, len(text))) == (0, 6)


def test_reencoded_spans_are_cut_to_the_response():
    def encode(text):
        return [ord(letter) for letter in text.split()]

    assert reencoded_token_span(encode, "a b c d", (2, 7), num_tokens=3) == (1, 3)
    assert reencoded_token_span(encode, "a b c d", (6, 7), num_tokens=2) == (2, 2)


@pytest.mark.parametrize(
    "call", [lambda mode: target_spans([], mode), lambda mode: turn_targets([], mode)]
)
def test_an_unknown_span_mode_is_refused_with_the_known_ones(call):
    with pytest.raises(ValueError, match=r"span_mode='actions'.*action_only"):
        call("actions")
