"""What the policy reads and writes in WebShop: message wording, and the action in a response.

Tags, structure and the projection rules are those of the agent literature (GiGPO,
arXiv:2505.10978, and the methods built on its environment); the wording is ours but for "Your task
is to:" and "Now it's your turn to", where programs put skills into a prompt.
"""

import re
from collections.abc import Sequence

from stepopsd_envs.alfworld.protocol import ProjectedAction, ThinkMode, project_action
from stepopsd_envs.text_env import HistoryTurn
from stepopsd_envs.webshop.pages import SEPARATOR

FALLBACK_CHARACTERS = 20
"""How much of a response without tags is executed, in characters."""

MAX_WINDOW_CHARACTERS = 13_000
"""A prompt with history that is longer is written without it, as the agent family does."""

SEARCH_ACTION = "search[<your query>]"

_TASK_MARKER = "Your task is to: "
# Where advice goes in a prompt (see `TextEnv`).
TASK_PHRASES = (_TASK_MARKER.strip(),)
TURN_PHRASES = ("Now it's your turn to",)
_ACTION = re.compile(r"(?:search|click)\[.*\]", re.IGNORECASE | re.DOTALL)

_ROLE = "You shop in an online store through text commands, one command a turn."
_FORMAT = {
    "required": (
        "Now it's your turn to act. First reason step by step, inside <think> </think> tags, about "
        "what you see and what to do next. Then give exactly one action inside <action> </action> "
        "tags."
    ),
    "optional": (
        "Now it's your turn to act. You may first reason inside <think> </think> tags. Then give "
        "exactly one action inside <action> </action> tags."
    ),
    "off": (
        "Now it's your turn to act. Answer with exactly one action inside <action> </action> tags "
        "and nothing else."
    ),
}


def action_of(command: str, names: Sequence[str] = (), *, has_search_bar: bool = False) -> str:
    """Writes what a person typed as an action.

    A bare text is clicked: what has this name, or the only thing whose name begins so ("buy",
    "next"). Where the page has no such thing, but a search bar, it is searched for.

    Args:
        command: What was typed.
        names: What can be clicked.
        has_search_bar: Whether the page shows a search bar.
    """
    command = command.strip()
    if _ACTION.fullmatch(command):
        return command
    verb, _, rest = command.partition(" ")
    verb, rest = verb.lower(), rest.strip()
    if verb == "search" and rest:
        return f"search[{rest}]"
    is_click = verb == "click" and rest != ""
    wanted = (rest if is_click else command).lower()
    alike = [name for name in names if name.strip("<> ").startswith(wanted)]
    if wanted not in names and len(alike) == 1:
        return f"click[{alike[0]}]"
    if wanted not in names and has_search_bar and not is_click:
        return f"search[{command}]"
    return f"click[{wanted}]"


def project(response: str, *, think: ThinkMode) -> ProjectedAction:
    """Finds the action in a response; see `alfworld.protocol.project_action`."""
    return project_action(response, think=think, fallback_characters=FALLBACK_CHARACTERS)


def without_instruction(observation: str, instruction: str) -> str:
    """Quotes each piece of an observation that follows the instruction.

    An observation without the instruction, or not in pieces (mode "text_rich"), stays as it is.
    """
    pieces = observation.split(SEPARATOR)
    if instruction not in pieces:
        return observation
    rest = pieces[pieces.index(instruction) + 1 :]
    return SEPARATOR.join(f"'{piece}'" for piece in rest)


def bare_page(observation: str, instruction: str) -> str:
    """Writes each piece that follows the instruction on a line of its own."""
    pieces = observation.split(SEPARATOR)
    start = pieces.index(instruction) + 1 if instruction in pieces else 0
    return "\n".join(pieces[start:])


def history_lines(history: Sequence[HistoryTurn], instruction: str) -> str:
    """Writes past turns one a line, numbered from 1 over the whole episode."""
    return "\n".join(
        f"[Observation {turn.index + 1}: '{without_instruction(turn.observation, instruction)}', "
        f"Action {turn.index + 1}: '{turn.action}']"
        for turn in history
    )


def first_message(
    observation: str, actions: Sequence[str], *, instruction: str, think: ThinkMode
) -> str:
    """Writes a message that stands alone, without history: role, task, page, actions, format.

    Args:
        observation: The page without the instruction.
        actions: What the page understands.
        instruction: What to buy.
        think: See `project`.
    """
    parts = [
        f"{_ROLE}\n{_TASK_MARKER}{instruction}.",
        f"You now see: {observation}",
        action_list(actions),
        _FORMAT[think],
    ]
    return "\n\n".join(parts)


def append_message(observation: str, actions: Sequence[str]) -> str:
    """Writes page and actions; the rest stands further up in the chat."""
    return f"{observation}\n\n{action_list(actions)}"


def window_message(
    history: Sequence[HistoryTurn],
    observation: str,
    actions: Sequence[str],
    *,
    instruction: str,
    turn: int,
    think: ThinkMode,
) -> str:
    """Writes a message that stands alone: task, last turns, page, actions, format.

    Args:
        history: The last turns, oldest first.
        observation: The page now, without the instruction.
        actions: What the page understands.
        instruction: What to buy.
        turn: Turns taken so far.
        think: See `project`.
    """
    parts = [
        f"{_ROLE}\n{_TASK_MARKER}{instruction}.",
        f"Steps taken so far: {turn}.",
        f"This is step {turn + 1}. You now see: {observation}",
        action_list(actions),
        _FORMAT[think],
    ]
    if history:
        lines = history_lines(history, instruction)
        parts[1] += f" The last {len(history)} of them:\n{lines}"
    message = "\n\n".join(parts)
    if len(message) > MAX_WINDOW_CHARACTERS:
        return first_message(observation, actions, instruction=instruction, think=think)
    return message


def bare_first_message(observation: str, *, instruction: str) -> str:
    """Writes task and page without a word of instruction."""
    return f"{instruction}\n{bare_page(observation, instruction)}"


def bare_window_message(
    history: Sequence[HistoryTurn], observation: str, *, instruction: str
) -> str:
    """Writes task, history and page without a word of instruction."""
    lines = [instruction, history_lines(history, instruction), bare_page(observation, instruction)]
    return "\n".join(line for line in lines if line)


def available_actions(has_search_bar: bool, clickables: Sequence[str]) -> tuple[str, ...]:
    """Writes what a page offers, in the original's order."""
    search = (SEARCH_ACTION,) if has_search_bar else ()
    return (*search, *(f"click[{name}]" for name in clickables))


def action_list(actions: Sequence[str]) -> str:
    """Writes the available actions, one a line."""
    lines = "\n".join(f"'{action}'," for action in actions)
    return f"Your available actions now:\n[\n{lines}\n]."


def golden_rollout(actions: Sequence[str]) -> str:
    """Writes an expert's actions, one a line, as a teacher's hindsight shows actions."""
    return "\n".join(f"> {action}" for action in actions)
