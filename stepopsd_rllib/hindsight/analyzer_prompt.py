"""What the analyzing model is told: the record of an episode, and the form of the answer (OPID)."""

from __future__ import annotations

import json

from stepopsd_rllib.hindsight.analyzer import EpisodeRecord, Outcome

SHOWN_OF_BAD_REPLY = 500
"""Characters of the end of an unreadable reply that the second attempt shows."""

_RULE_FOR: dict[Outcome, str] = {
    "success": "It succeeded, so make it a workflow rule: the order of work that solved the task.",
    "failure": "It failed, so make it an avoidance rule: the mistake to keep clear of.",
    "unknown": "Its outcome is unknown: give the most useful rule that the record supports.",
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


def analysis_messages(record: EpisodeRecord, *, max_step_skills: int) -> list[dict[str, str]]:
    """The chat that asks for the skills of an episode.

    Args:
        record: The episode.
        max_step_skills: Most step skills asked for.

    Returns:
        A system and a user message.
    """
    steps = [
        {"step": index, "observation": turn.observation, "response": turn.response}
        for index, turn in enumerate(record.turns)
    ]
    described = {
        "task": record.task,
        "outcome": record.outcome,
        "candidate_steps": list(range(len(record.turns))),
        "steps": steps,
    }
    instruction = _INSTRUCTION.format(
        rule=_RULE_FOR[record.outcome], max_step_skills=max_step_skills
    )
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": json.dumps(described, ensure_ascii=False, indent=1)},
    ]


def second_attempt(
    messages: list[dict[str, str]], *, reply: str, problem: str
) -> list[dict[str, str]]:
    """The chat after a reply that could not be used: shows the problem and the reply's end."""
    complaint = (
        f"Your last answer could not be used: {problem}. It ended with:\n"
        f"{reply[-SHOWN_OF_BAD_REPLY:]}\n\nAnswer again with the one JSON object alone."
    )
    return [*messages[:2], {"role": "user", "content": complaint}]
