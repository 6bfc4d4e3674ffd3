"""What the policy reads and writes in ALFWorld: message wording, and the action in a response.

Tags, structure and the projection rules are those of the agent literature (GiGPO,
arXiv:2505.10978, and the methods built on its environment); the wording is ours but for "Your task
is to:" and "Now it's your turn to", where programs put skills into a prompt.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from stepopsd_envs.text_env import HistoryTurn

ThinkMode = Literal["required", "optional", "off"]
THINK_MODES: tuple[ThinkMode, ...] = ("required", "optional", "off")

ALFWORLD_FALLBACK_CHARACTERS = 30
WEBSHOP_FALLBACK_CHARACTERS = 20

_TASK_MARKER = "Your task is to: "
# Where advice goes in a prompt (see `TextEnv`).
TASK_PHRASES = (_TASK_MARKER.strip(),)
TURN_PHRASES = ("Now it's your turn to",)
_OPENED = re.compile("<action>", re.IGNORECASE)
_CJK_IDEOGRAPH = re.compile("[\u4e00-\u9fff]")

_ROLE = "You control a household robot through text commands, one command a turn."
_FORMAT = {
    "required": (
        "Now it's your turn to act. First reason step by step, inside <think> </think> tags, about "
        "what you see and what to do next. Then give exactly one {choice} inside <action> "
        "</action> tags."
    ),
    "optional": (
        "Now it's your turn to act. You may first reason inside <think> </think> tags. Then give "
        "exactly one {choice} inside <action> </action> tags."
    ),
    "off": (
        "Now it's your turn to act. Answer with exactly one {choice} inside <action> </action> "
        "tags and nothing else."
    ),
}


class ProjectedAction(NamedTuple):
    """The command found in a response, and whether the response kept to the format.

    The command is executed even if the format is broken; whether it is admissible in the game is
    no matter of format.
    """

    action: str
    is_valid: bool


def project_action(
    response: str,
    *,
    think: ThinkMode = "required",
    fallback_characters: int = ALFWORLD_FALLBACK_CHARACTERS,
) -> ProjectedAction:
    """Finds the command in a response.

    The lower-cased text between the first `<action>` and the first `</action>`, stripped; empty,
    and valid, if the closing tag comes first. If a tag is missing: the last characters of the
    response, invalid. A CJK ideograph anywhere makes the response invalid, and so do the think
    tags, in lower case: with `think="required"` if one of the two is missing, with "optional" if
    only one is there. A thought in front of the action may lack its opening tag, which some chat
    templates write into the prompt.

    Args:
        response: The policy's whole text of one turn.
        think: Whether the response must hold its reasoning in tags.
        fallback_characters: How much of a response without tags is executed, in characters.
    """
    lowered = response.lower()
    start, end = lowered.find("<action>"), lowered.find("</action>")
    if start < 0 or end < 0:
        return ProjectedAction(lowered[-fallback_characters:], False)
    action = lowered[start + len("<action>") : end].strip()
    has_end = "</think>" in response
    # Not response[:start]: a few letters are longer in lower case.
    has_start = "<think>" in response or "</think>" in _OPENED.split(response, maxsplit=1)[0]
    is_thought_well_formed = {
        "required": has_start and has_end,
        "optional": has_start == has_end,
        "off": True,
    }[think]
    is_valid = is_thought_well_formed and _CJK_IDEOGRAPH.search(response) is None
    return ProjectedAction(action, is_valid)


def task_sentence(first_observation: str) -> str:
    """Returns what follows "Your task is to: " in the first observation, or "" without it."""
    return first_observation.partition(_TASK_MARKER)[2].strip()


def golden_rollout(walkthrough: Sequence[str]) -> str:
    """Writes an expert's commands, one a line, as a teacher's hindsight shows actions."""
    return "\n".join(f"> {command}" for command in walkthrough)


def history_lines(history: Sequence[HistoryTurn]) -> str:
    """Writes past turns one a line, numbered from 1 over the whole episode."""
    return "\n".join(
        f"[Observation {turn.index + 1}: '{turn.observation}', "
        f"Action {turn.index + 1}: '{turn.action}']"
        for turn in history
    )


def first_message(
    observation: str, admissible_commands: Sequence[str], *, think: ThinkMode, show_commands: bool
) -> str:
    """Writes the message of turn 0: role, observation (which states the task), format."""
    parts = [_ROLE, observation]
    if show_commands:
        parts.append(_command_list(admissible_commands))
    parts.append(_format(think, show_commands))
    return "\n\n".join(parts)


def window_message(
    history: Sequence[HistoryTurn],
    observation: str,
    admissible_commands: Sequence[str],
    *,
    task: str,
    turn: int,
    think: ThinkMode,
    show_commands: bool,
) -> str:
    """Writes the message of a later turn that stands alone.

    Args:
        history: The last turns, oldest first.
        observation: What the environment says now.
        admissible_commands: What the game would understand now.
        task: The task sentence.
        turn: Turns taken so far.
        think: See `project_action`.
        show_commands: Whether the admissible commands are listed.
    """
    parts = [f"{_ROLE} {_TASK_MARKER}{task}", f"Steps taken so far: {turn}."]
    if history:
        parts[1] += f" The last {len(history)} of them:\n{history_lines(history)}"
    parts.append(f"This is step {turn + 1}. You now observe: {observation}")
    if show_commands:
        parts.append(_command_list(admissible_commands))
    parts.append(_format(think, show_commands))
    return "\n\n".join(parts)


def bare_message(
    observation: str, admissible_commands: Sequence[str], *, show_commands: bool
) -> str:
    """Writes the observation, with the admissible commands below it if they are shown."""
    if not show_commands:
        return observation
    return f"{observation}\n\n{_command_list(admissible_commands)}"


def bare_window_message(
    history: Sequence[HistoryTurn],
    observation: str,
    admissible_commands: Sequence[str],
    *,
    task: str,
    show_commands: bool,
) -> str:
    """Writes task, history and observation without a word of instruction."""
    lines = [f"{_TASK_MARKER}{task}", history_lines(history), observation]
    text = "\n".join(line for line in lines if line)
    return bare_message(text, admissible_commands, show_commands=show_commands)


def _command_list(admissible_commands: Sequence[str]) -> str:
    quoted = "\n ".join(f"'{command}'" for command in admissible_commands if command != "help")
    return f"Your admissible actions now: [{quoted}]."


def _format(think: ThinkMode, show_commands: bool) -> str:
    return _FORMAT[think].format(choice="admissible action" if show_commands else "action")
