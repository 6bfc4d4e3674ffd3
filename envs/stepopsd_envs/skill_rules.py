"""An analyzer without a model: skills read off the recorded episode, without a network.

It quotes actions that were really taken: after a success those that moved the task forward, after a
failure those that were refused or brought nothing new. Search-QA has rules of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from stepopsd_rllib.config_keys import is_int
from stepopsd_rllib.teachers.analysis.analyzer import (
    AnalyzerCounts,
    AnalyzerFailure,
    EpisodeRecord,
    EpisodeSkills,
    RecordedTurn,
)
from stepopsd_rllib.teachers.analysis.search_rules import is_search_episode, search_skills

# Words by which the environments say that nothing was done.
REFUSALS = ("nothing happens", "action is invalid")

# Beginnings of actions that look around; kept in a workflow only where they lead to an act on the
# spot.
EXPLORING = ("go to", "look", "examine", "inventory", "open", "close")

MAX_QUOTED_ACTIONS = 15


class Effect(StrEnum):
    """What came of a turn."""

    PROGRESS = "progress"
    INVALID = "had no valid action"
    REFUSED = "was refused"
    REPEATED = "brought nothing new"


def effects(turns: Sequence[RecordedTurn]) -> list[Effect]:
    """What came of each turn, judged by the text that followed it.

    A turn is repeated if its action got the same reply before. The reply to the last turn is not
    part of a record, so a valid last turn counts as progress.
    """
    seen: set[tuple[str, str]] = set()
    found: list[Effect] = []
    for index, turn in enumerate(turns):
        reply = turns[index + 1].observation if index + 1 < len(turns) else None
        exchange = (turn.action, reply or "")
        if not turn.is_action_valid:
            found.append(Effect.INVALID)
        elif reply is not None and _is_refusal(reply):
            found.append(Effect.REFUSED)
        elif reply is not None and exchange in seen:
            found.append(Effect.REPEATED)
        else:
            found.append(Effect.PROGRESS)
        seen.add(exchange)
    return found


def workflow(turns: Sequence[RecordedTurn], effect_of: Sequence[Effect]) -> list[int]:
    """Turns that solved the task: progress, less visits and openings that led to no act."""
    forward = [index for index, effect in enumerate(effect_of) if effect is Effect.PROGRESS]
    kept: list[int] = []
    for position in range(len(forward) - 1, -1, -1):
        index = forward[position]
        following = forward[position + 1] if position + 1 < len(forward) else None
        leads_to_act = (
            following is not None
            and following in kept
            and not turns[following].action.lower().startswith("go to")
        )
        if not _explores(turns[index]) or leads_to_act:
            kept.append(index)
    return kept[::-1]


class RuleAnalyzer:
    """Writes skills from what happened.

    Args:
        max_step_skills: Most step skills an episode (authors' scripts: 5 on ALFWorld, 2 on
            Search-QA).
    """

    def __init__(self, *, max_step_skills: int = 5) -> None:
        """Starts with empty counts."""
        if not is_int(max_step_skills, 0):
            raise ValueError(
                f"config.analyzer.max_step_skills={max_step_skills!r}: must be a whole number, at "
                "least 0."
            )
        self.max_step_skills = max_step_skills
        self.counts = AnalyzerCounts()

    def analyze(self, record: EpisodeRecord) -> EpisodeSkills | None:
        """Skills of one episode; None, counted, if its record shows nothing to learn from."""
        self.counts.episodes += 1
        skills = self._skills(record) if record.turns else None
        if skills is None:
            self.counts.failures[AnalyzerFailure.NOTHING_RECORDED] += 1
            return None
        self.counts.successes += 1
        return skills.limited_to(range(len(record.turns)), max_step_skills=self.max_step_skills)

    def analyze_many(self, records: Sequence[EpisodeRecord]) -> list[EpisodeSkills | None]:
        """Skills of several episodes, in order."""
        return [self.analyze(record) for record in records]

    def _skills(self, record: EpisodeRecord) -> EpisodeSkills | None:
        if record.outcome == "unknown":
            return None
        if is_search_episode(record.turns):
            return search_skills(record, max_step_skills=self.max_step_skills)
        effect_of = effects(record.turns)
        if record.outcome == "success":
            return self._from_success(record, workflow(record.turns, effect_of))
        return _from_failure(record, effect_of)

    def _from_success(self, record: EpisodeRecord, path: list[int]) -> EpisodeSkills | None:
        if not path:
            return None
        actions = [_quoted(record.turns[index]) for index in path[-MAX_QUOTED_ACTIONS:]]
        acts = [index for index in path if not _explores(record.turns[index])]
        return EpisodeSkills(
            episode_summary=f"Solved in {len(record.turns)} turns, {len(path)} of them needed.",
            episode_skill=f"Do these in order and leave out detours: {', then '.join(actions)}.",
            step_skills={
                index: f"Do {_quoted(record.turns[index])} now: it moved the task forward."
                for index in acts[-self.max_step_skills :]
            },
        )


def _from_failure(record: EpisodeRecord, effect_of: list[Effect]) -> EpisodeSkills | None:
    wasted = [index for index, effect in enumerate(effect_of) if effect is not Effect.PROGRESS]
    counted = Counter(
        (effect_of[index], _quoted(record.turns[index]))
        for index in wasted
        if effect_of[index] is not Effect.INVALID
    )
    rules = [
        f"{action} {effect} {count} time{'s' if count > 1 else ''}"
        for (effect, action), count in counted.most_common(MAX_QUOTED_ACTIONS)
    ]
    num_invalid = effect_of.count(Effect.INVALID)
    sentences = [f"Do not repeat what failed: {'; '.join(rules)}."] if rules else []
    if num_invalid:
        sentences.append(
            f"Write one action in the required format every time: {num_invalid} of "
            f"{len(record.turns)} responses had none."
        )
    if not sentences:
        last = [_quoted(turn) for turn in record.turns[-MAX_QUOTED_ACTIONS:]]
        sentences.append(f"These did not lead to the goal, so try others: {', '.join(last)}.")
    return EpisodeSkills(
        episode_summary=f"Not solved in {len(record.turns)} turns, {len(wasted)} of them wasted.",
        episode_skill=" ".join(sentences),
        step_skills={index: _warning(record.turns[index], effect_of[index]) for index in wasted},
    )


def _warning(turn: RecordedTurn, effect: Effect) -> str:
    if effect is Effect.INVALID:
        return "Write one action in the required format here."
    return f"Do not do {_quoted(turn)} here: it {effect}."


def _quoted(turn: RecordedTurn) -> str:
    return f"`{' '.join(turn.action.split())}`"


def _explores(turn: RecordedTurn) -> bool:
    return turn.action.lower().startswith(EXPLORING)


def _is_refusal(reply: str) -> bool:
    return any(phrase in reply.lower() for phrase in REFUSALS)
