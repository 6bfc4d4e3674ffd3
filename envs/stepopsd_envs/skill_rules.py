"""Skills read off a recorded episode by rules, without a model: what most environments can use.

They quote actions that were really taken: after a success those that moved the task forward, after
a failure those that were refused or brought nothing new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

MAX_QUOTED_ACTIONS = 15


class RecordedTurn(Protocol):
    """What rules, and other analyzers, read of a turn."""

    @property
    def observation(self) -> str:
        """Environment text that the response answers."""
        ...

    @property
    def response(self) -> str:
        """The policy's whole text."""
        ...

    @property
    def action(self) -> str:
        """What was parsed from it and executed."""
        ...

    @property
    def is_action_valid(self) -> bool:
        """Whether the response followed the action format."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeSkills:
    """What an analyzer learnt from one episode.

    Attributes:
        episode_summary: What happened; for people.
        episode_skill: One rule: a workflow after a success, an avoidance rule after a failure.
        step_skills: One short imperative sentence each, by 0-based turn.
    """

    episode_summary: str
    episode_skill: str
    step_skills: Mapping[int, str]

    def limited_to(self, candidates: Container[int], *, max_step_skills: int) -> EpisodeSkills:
        """Keeps the first step skills, in the order given, that are of candidate turns."""
        known = [
            (turn, text)
            for turn, text in self.step_skills.items()
            if turn in candidates and text.strip()
        ]
        return EpisodeSkills(
            episode_summary=self.episode_summary,
            episode_skill=self.episode_skill,
            step_skills=dict(known[:max_step_skills]),
        )


class Effect(StrEnum):
    """What came of a turn."""

    PROGRESS = "progress"
    INVALID = "had no valid action"
    REFUSED = "was refused"
    REPEATED = "brought nothing new"


def skills_by_rules(
    turns: Sequence[RecordedTurn],
    *,
    won: bool,
    refusals: Sequence[str],
    exploring: Sequence[str],
    moving: Sequence[str],
    max_step_skills: int,
) -> EpisodeSkills | None:
    """What a finished episode teaches.

    Args:
        turns: Turns in order, at least one.
        won: How the episode ended.
        refusals: Parts of an observation, in any case, by which it says that nothing was done.
        exploring: Beginnings of commands that look around and change nothing.
        moving: Beginnings of those that leave the spot.
        max_step_skills: Most turns of a success to give advice on.

    Returns:
        The skills; None for a success without a turn that moved it forward.
    """
    effect_of = effects(turns, refusals=refusals)
    if not won:
        return _from_failure(turns, effect_of)
    path = workflow(turns, effect_of, exploring=exploring, moving=moving)
    if not path:
        return None
    actions = [_quoted(turns[index]) for index in path[-MAX_QUOTED_ACTIONS:]]
    acts = [index for index in path if not _begins(turns[index], exploring)]
    return EpisodeSkills(
        episode_summary=f"Solved in {len(turns)} turns, {len(path)} of them needed.",
        episode_skill=f"Do these in order and leave out detours: {', then '.join(actions)}.",
        step_skills={
            index: f"Do {_quoted(turns[index])} now: it moved the task forward."
            for index in acts[-max_step_skills:]
        },
    )


def effects(turns: Sequence[RecordedTurn], *, refusals: Sequence[str]) -> list[Effect]:
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
        elif reply is not None and _is_refusal(reply, refusals):
            found.append(Effect.REFUSED)
        elif reply is not None and exchange in seen:
            found.append(Effect.REPEATED)
        else:
            found.append(Effect.PROGRESS)
        seen.add(exchange)
    return found


def workflow(
    turns: Sequence[RecordedTurn],
    effect_of: Sequence[Effect],
    *,
    exploring: Sequence[str],
    moving: Sequence[str],
) -> list[int]:
    """Turns that solved the task: progress, less visits and openings that led to no act."""
    forward = [index for index, effect in enumerate(effect_of) if effect is Effect.PROGRESS]
    kept: list[int] = []
    for position in range(len(forward) - 1, -1, -1):
        index = forward[position]
        following = forward[position + 1] if position + 1 < len(forward) else None
        leads_to_act = (
            following is not None and following in kept and not _begins(turns[following], moving)
        )
        if not _begins(turns[index], exploring) or leads_to_act:
            kept.append(index)
    return kept[::-1]


def _from_failure(turns: Sequence[RecordedTurn], effect_of: list[Effect]) -> EpisodeSkills:
    wasted = [index for index, effect in enumerate(effect_of) if effect is not Effect.PROGRESS]
    counted = Counter(
        (effect_of[index], _quoted(turns[index]))
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
            f"{len(turns)} responses had none."
        )
    if not sentences:
        last = [_quoted(turn) for turn in turns[-MAX_QUOTED_ACTIONS:]]
        sentences.append(f"These did not lead to the goal, so try others: {', '.join(last)}.")
    return EpisodeSkills(
        episode_summary=f"Not solved in {len(turns)} turns, {len(wasted)} of them wasted.",
        episode_skill=" ".join(sentences),
        step_skills={index: _warning(turns[index], effect_of[index]) for index in wasted},
    )


def _warning(turn: RecordedTurn, effect: Effect) -> str:
    if effect is Effect.INVALID:
        return "Write one action in the required format here."
    return f"Do not do {_quoted(turn)} here: it {effect}."


def _quoted(turn: RecordedTurn) -> str:
    return f"`{' '.join(turn.action.split())}`"


def _begins(turn: RecordedTurn, beginnings: Sequence[str]) -> bool:
    return turn.action.lower().startswith(tuple(beginnings))


def _is_refusal(reply: str, refusals: Sequence[str]) -> bool:
    return any(phrase.lower() in reply.lower() for phrase in refusals)
