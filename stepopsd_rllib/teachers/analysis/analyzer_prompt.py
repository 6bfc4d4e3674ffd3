"""What the analyzing model is told: the record of an episode, and the form of the answer (OPID)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from stepopsd_rllib.teachers.analysis.analyzer import AnalyzerFailure, EpisodeRecord, Outcome

SHOWN_OF_BAD_REPLY = 500
"""Characters of the end of an unreadable reply that the second attempt shows."""

_RULE_FOR: dict[Outcome, str] = {
    "success": "It succeeded, so make it a workflow rule: the order of work that solved the task.",
    "failure": "It failed, so make it an avoidance rule: the mistake to keep clear of.",
    "unknown": "Its outcome is unknown: give the most useful rule that the record supports.",
}

_PROBLEM = {
    AnalyzerFailure.UNREADABLE: "it holds no JSON object",
    AnalyzerFailure.EMPTY_SKILL: "episode_skill is empty",
}

_INSTRUCTION = """\
You study a finished episode of a language agent and write down what it teaches, so that the same
task goes better next time. Rely on the record alone and invent nothing.

Answer with one JSON object and nothing else. It has exactly these keys:
- "episode_summary": a string, what happened in at most two sentences.
- "episode_skill": a string, one rule for tasks of this kind. {rule}
- "step_skills": an object. A key is the index of a decisive step as a string, a value is one short
  imperative sentence of advice for that step. At most {max_step_skills} steps; leave the others
  out.\
"""


def analysis_messages(
    record: EpisodeRecord, *, max_step_skills: int, shown_turns: Sequence[int] | None = None
) -> list[dict[str, str]]:
    """The chat that asks for the skills of an episode.

    Args:
        record: The episode.
        max_step_skills: Most step skills asked for.
        shown_turns: Turns that it shows, which alone are candidates for a step skill; None for all.
            The others are named as left out.

    Returns:
        A system and a user message.
    """
    every_turn = range(len(record.turns))
    shown = every_turn if shown_turns is None else shown_turns
    left_out = [index for index in every_turn if index not in shown]
    described: dict[str, Any] = {
        "task": record.task,
        "outcome": record.outcome,
        "candidate_steps": list(shown),
        **({"steps_left_out": left_out} if left_out else {}),
        "steps": [
            {
                "step": index,
                "observation": record.turns[index].observation,
                "response": record.turns[index].response,
            }
            for index in shown
        ],
    }
    instruction = _INSTRUCTION.format(
        rule=_RULE_FOR[record.outcome], max_step_skills=max_step_skills
    )
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": json.dumps(described, ensure_ascii=False, indent=1)},
    ]


def second_attempt(
    messages: list[dict[str, str]], *, reply: str, failure: AnalyzerFailure
) -> list[dict[str, str]]:
    """The chat after a reply that could not be used: shows the problem and the reply's end.

    It stands in the user's message, since many chat templates refuse two of them in a row.
    """
    system, user = messages[:2]
    complaint = (
        f"Your last answer could not be used: {_PROBLEM[failure]}. It ended with:\n"
        f"{reply[-SHOWN_OF_BAD_REPLY:]}\n\nAnswer again with the one JSON object alone."
    )
    return [system, {"role": "user", "content": f"{user['content']}\n\n{complaint}"}]


def turns_that_fit(num_turns: int, fits: Callable[[Sequence[int]], bool]) -> tuple[int, ...]:
    """As many turns of an episode as a prompt has room for; the middle ones are left out first.

    The decisive turns of an episode stand at its end, and where it went wrong at its beginning.

    Args:
        num_turns: Turns of the episode, at least 1.
        fits: Whether a prompt that shows these turns is short enough.

    Returns:
        All turns, or the first k // 2 and the last k - k // 2 for the largest k that fits; none if
        not even the last turn does.
    """

    def ends(count: int) -> tuple[int, ...]:
        head = count // 2
        return (*range(head), *range(num_turns - (count - head), num_turns))

    fitting, too_many = 0, num_turns + 1
    tried = num_turns  # most episodes fit whole
    while too_many - fitting > 1:
        if fits(ends(tried)):
            fitting = tried
        else:
            too_many = tried
        tried = (fitting + too_many) // 2
    return ends(fitting)
