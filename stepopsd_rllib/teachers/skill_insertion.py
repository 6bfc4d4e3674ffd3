"""Where OPID's hindsight skills go in a prompt: text in, text out.

The episode skill stands after the line that states the task, the step skill before the phrase that
hands the turn to the model; both are then put through the chat template again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# The phrases of the authors' environments; an environment says its own. In order of preference: the
# first of them that occurs decides, wherever the others stand.
TASK_PHRASES = (
    "Your task is to:",
    "Your current task is:",
    "Your task is:",
    "Your question:",
)
# Likewise.
TURN_PHRASES = ("Now it's your turn to", "Now it's your turn")


def episode_block(skill: str) -> str:
    """The block of an episode skill; empty for a blank skill."""
    return _block(
        "Hindsight on the whole episode", "Keep to this rule until the task is done:", skill
    )


def step_block(skill: str) -> str:
    """The block of a step skill; empty for a blank skill."""
    return _block("Hindsight on this step", "Follow this advice in your next response:", skill)


def _block(title: str, instruction: str, skill: str) -> str:
    return f"**{title}**\n{instruction}\n[{skill.strip()}]" if skill.strip() else ""


def insert_skills(
    prompt: str,
    *,
    episode_skill: str = "",
    step_skill: str = "",
    task_phrases: Sequence[str] = TASK_PHRASES,
    turn_phrases: Sequence[str] = TURN_PHRASES,
) -> str:
    """Puts the skills of a turn into its user message.

    Args:
        prompt: Text of the user message.
        episode_skill: Skill of the episode; blank for none.
        step_skill: Skill of the step; blank for none.
        task_phrases: What stands before the task; the episode's skill goes after that line, or,
            without one, where a step's skill would.
        turn_phrases: What hands the turn to the model; the step's skill goes before it, or,
            without one, to the end.

    Returns:
        The message with each block set off by one blank line, without surrounding whitespace.
        Without a skill it is the stripped message.
    """
    insertions: list[tuple[int, str]] = []
    turn = next((found for p in turn_phrases if (found := prompt.find(p)) >= 0), -1)
    if block := episode_block(episode_skill):
        position = _end_of_task_line(prompt, task_phrases)
        if position is None:
            position = turn if turn >= 0 else len(prompt)
        insertions.append((position, block))
    if block := step_block(step_skill):
        insertions.append((turn if turn >= 0 else len(prompt), block))
    parts: list[str] = []
    start = 0
    for position, block in sorted(insertions, key=lambda insertion: insertion[0]):
        parts += [prompt[start:position], block]
        start = position
    parts.append(prompt[start:])
    return "\n\n".join(stripped for part in parts if (stripped := part.strip()))


def _end_of_task_line(prompt: str, phrases: Sequence[str]) -> int | None:
    """Index after the line that states the task; None if no line does."""
    for phrase in phrases:
        found = prompt.find(phrase)
        if found < 0:
            continue
        after = found + len(phrase)
        line_end = prompt.find("\n", after)
        if line_end < 0:
            return len(prompt)
        if prompt[after:line_end].strip():
            return line_end
        # Nothing follows the colon: the task stands on the next line that is not blank.
        next_line = re.compile(r"\s*[^\n]*").match(prompt, line_end)
        return next_line.end() if next_line else line_end
    return None
