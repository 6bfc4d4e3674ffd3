"""Action projection and history format: what the golden vectors leave open."""

import pytest
from stepopsd_envs.alfworld import protocol
from stepopsd_envs.text_env import HistoryTurn

OBSERVATION = "You arrive at desk 1. On the desk 1, you see a mug 1."
COMMANDS = ("examine desk 1", "help", "look", "take mug 1 from desk 1")


def turns(count: int) -> list[HistoryTurn]:
    return [HistoryTurn(index=i, observation=f"o{i}", action=f"a{i}") for i in range(count)]


@pytest.mark.parametrize(
    ("response", "required", "optional", "off"),
    [
        ("<think>x</think><action>look</action>", True, True, True),
        ("<action>look</action>", False, True, True),
        ("<think>x<action>look</action>", False, False, True),
        ("x</think><action>look</action>", True, True, True),  # the template opened the thought
        ("<action>look</action></think>", False, False, True),
        ("x</think>", False, False, False),
        ("<think>\u4e00</think><action>look</action>", False, False, False),
        ("<think>\u9fff</think><action>look</action>", False, False, False),
        ("<think>\u4dff\ua000</think><action>look</action>", True, True, True),
        ("<think>x</think> look", False, False, False),
    ],
)
def test_think_tags_count_as_the_mode_says(response, required, optional, off):
    verdicts = [protocol.project_action(response, think=t).is_valid for t in protocol.THINK_MODES]
    assert verdicts == [required, optional, off]


def test_the_task_is_what_follows_the_marker():
    assert protocol.task_sentence("A room.\n\nYour task is to: put a mug in desk.") == (
        "put a mug in desk."
    )
    assert protocol.task_sentence("A room.") == ""


def test_commands_are_quoted_one_a_line_without_help():
    message = protocol.first_message(OBSERVATION, COMMANDS, think="required", show_commands=True)
    assert OBSERVATION in message
    assert "['examine desk 1'\n 'look'\n 'take mug 1 from desk 1']" in message
    assert "help" not in message
    hidden = protocol.first_message(OBSERVATION, COMMANDS, think="required", show_commands=False)
    assert "'look'" not in hidden and "admissible" not in hidden


def test_messages_ask_for_the_tags_of_their_mode():
    asked = {
        think: protocol.first_message(OBSERVATION, COMMANDS, think=think, show_commands=True)
        for think in protocol.THINK_MODES
    }
    assert all("<action> </action>" in message for message in asked.values())
    assert [("<think>" in asked[think]) for think in protocol.THINK_MODES] == [True, True, False]
    assert "may" in asked["optional"] and "may" not in asked["required"]


def test_a_window_message_states_task_history_and_step_in_this_order():
    message = protocol.window_message(
        turns(7)[-2:],
        OBSERVATION,
        COMMANDS,
        task="put a mug in desk.",
        turn=7,
        think="required",
        show_commands=True,
    )
    pieces = [
        "Your task is to: put a mug in desk.",
        "Steps taken so far: 7. The last 2 of them:",
        "[Observation 6: 'o5', Action 6: 'a5']\n[Observation 7: 'o6', Action 7: 'a6']",
        f"This is step 8. You now observe: {OBSERVATION}",
        "'look'",
        "<think>",
    ]
    positions = [message.find(piece) for piece in pieces]
    assert -1 not in positions and positions == sorted(positions)


def test_bare_messages_hold_no_word_of_ours():
    assert protocol.bare_message(OBSERVATION, COMMANDS, show_commands=False) == OBSERVATION
    window = protocol.bare_window_message(
        turns(1), OBSERVATION, COMMANDS, task="put a mug in desk.", show_commands=False
    )
    assert window == (
        "Your task is to: put a mug in desk.\n[Observation 1: 'o0', Action 1: 'a0']\n" + OBSERVATION
    )
    listed = protocol.bare_message(OBSERVATION, COMMANDS, show_commands=True)
    assert listed.startswith(OBSERVATION) and "'look'" in listed
