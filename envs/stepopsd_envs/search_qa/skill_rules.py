"""Skills read off a Search-QA episode: what was searched, what was found, what was answered.

They quote queries and answers that the policy wrote, and say only what the record shows: whether a
passage holds an answer's words, never what the right answer would have been.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from stepopsd_envs.search_qa.scoring import normalize_answer
from stepopsd_envs.skill_rules import EpisodeSkills, RecordedTurn

_ACTION = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)
_INFORMATION = re.compile(r"<information>(.*?)(?:</information>|\Z)", re.DOTALL)
_DOCUMENT = re.compile(r"^Doc \d+", re.MULTILINE)


class SearchEffect(StrEnum):
    """What came of a turn, as an advice about its `{quote}`."""

    FOUND = "Search {quote} now: it finds passages that help."
    INVALID = (
        "Write one action here: a query between the search tags, or the answer between the "
        "answer tags."
    )
    REPEATED = "Do not search {quote} again: the same query finds the same passages."
    NOTHING_NEW = "Do not search {quote} here: it finds only passages that are already known."
    ELSEWHERE = "Do not search {quote}: neither the question nor a passage names any of it."
    RIGHT = "Answer {quote} now: a passage says it."
    RIGHT_UNSEEN = "Answer {quote} now."
    GUESSED = "Search before you answer: {quote} was a guess."
    MISREAD = "Do not answer {quote}: a passage names it, but it is not what the question asks for."
    UNSUPPORTED = (
        "Do not answer {quote}: no passage that was found says it in these words. Copy the answer "
        "from a passage."
    )

    @property
    def is_waste(self) -> bool:
        """Whether the turn is one to avoid."""
        return self not in (self.FOUND, self.RIGHT, self.RIGHT_UNSEEN)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchTurn:
    """One turn as this analysis sees it.

    Attributes:
        kind: "search", "answer", or "" without an action.
        content: The query or the answer, on one line.
        effect: What came of it.
    """

    kind: str
    content: str
    effect: SearchEffect

    def advice(self) -> str:
        """One sentence for a step like this one."""
        return self.effect.value.format(quote=f"`{self.content}`")


def is_search_episode(turns: Sequence[RecordedTurn]) -> bool:
    """Whether any action of the episode is a search or an answer in tags."""
    return any(_ACTION.fullmatch(turn.action) for turn in turns)


def search_turns(task: str, turns: Sequence[RecordedTurn], *, won: bool) -> list[SearchTurn]:
    """Judges every turn of an episode by what was known before it and what followed it.

    Args:
        task: The question, as the episode began.
        turns: Turns in order.
        won: Whether the answer was right.
    """
    known: set[str] = set()
    queries: set[str] = set()
    named = _words(task)
    judged: list[SearchTurn] = []
    for index, turn in enumerate(turns):
        kind, content = _parsed(turn.action)
        reply = turns[index + 1].observation if index + 1 < len(turns) else ""
        found = _documents(reply)
        if kind == "answer" and (won or turn.is_action_valid):
            effect = _effect_of_answer(content, known, is_right=won)
        elif not kind or not turn.is_action_valid:
            effect = SearchEffect.INVALID
        elif normalize_answer(content) in queries:
            effect = SearchEffect.REPEATED
        elif found and found <= known:
            effect = SearchEffect.NOTHING_NEW
        elif named.isdisjoint(_words(content)):
            effect = SearchEffect.ELSEWHERE
        else:
            effect = SearchEffect.FOUND
        if kind == "search":
            queries.add(normalize_answer(content))
        known |= found
        named |= _words(" ".join(found))
        judged.append(SearchTurn(kind=kind, content=content, effect=effect))
    return judged


def search_skills(
    task: str, turns: Sequence[RecordedTurn], *, won: bool, max_step_skills: int
) -> EpisodeSkills:
    """Writes the skills of a finished episode, the decisive steps first.

    Args:
        task: The question, as the episode began.
        turns: Turns in order, at least one.
        won: Whether the answer was right.
        max_step_skills: Most turns of a success to give advice on.
    """
    judged = search_turns(task, turns, won=won)
    if won:
        return _from_success(judged, max_step_skills)
    return _from_failure(judged)


def _from_success(judged: Sequence[SearchTurn], max_step_skills: int) -> EpisodeSkills:
    path = [index for index, turn in enumerate(judged) if not turn.effect.is_waste]
    steps = [
        f"{'search for' if judged[index].kind == 'search' else 'answer'} `{judged[index].content}`"
        for index in path
    ]
    return EpisodeSkills(
        episode_summary=f"Solved in {len(judged)} turns, {len(path)} of them needed.",
        episode_skill=f"Do these in order and nothing else: {', then '.join(steps)}.",
        step_skills={index: judged[index].advice() for index in path[::-1][:max_step_skills]},
    )


def _from_failure(judged: Sequence[SearchTurn]) -> EpisodeSkills:
    # The answer decided the episode, so its advice comes first.
    wasted = [index for index, turn in enumerate(judged) if turn.effect.is_waste]
    wasted.sort(key=lambda index: judged[index].kind != "answer")
    sentences = list(dict.fromkeys(judged[index].advice() for index in wasted))
    if judged[-1].kind != "answer":
        sentences.insert(
            0, f"Answer before the turns run out: none of {len(judged)} turns gave an answer."
        )
    return EpisodeSkills(
        episode_summary=f"Not solved in {len(judged)} turns, {len(wasted)} of them wasted.",
        episode_skill=" ".join(sentences),
        step_skills={index: judged[index].advice() for index in wasted},
    )


def _effect_of_answer(answer: str, known: set[str], *, is_right: bool) -> SearchEffect:
    is_said = any(
        f" {normalize_answer(answer)} " in f" {normalize_answer(document)} " for document in known
    )
    if is_right:
        return SearchEffect.RIGHT if is_said else SearchEffect.RIGHT_UNSEEN
    if not known:
        return SearchEffect.GUESSED
    return SearchEffect.MISREAD if is_said else SearchEffect.UNSUPPORTED


def _parsed(action: str) -> tuple[str, str]:
    match = _ACTION.fullmatch(action)
    return (match[1], " ".join(match[2].split())) if match else ("", "")


def _documents(observation: str) -> set[str]:
    """The passages of an observation, of the growing chat or (as JSON) of the per-turn protocol."""
    match = _INFORMATION.search(observation)
    if match is None:
        return set()
    text = match[1]
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        told = json.loads(text)["result"]  # a growing chat shows plain text
        text = told if isinstance(told, str) else text
    return {document.strip() for document in _DOCUMENT.split(text) if document.strip()}


def _words(text: str) -> set[str]:
    """Words of a text that can name something: normalised, of three characters or more."""
    return {word for word in normalize_answer(text).split() if len(word) > 2}
