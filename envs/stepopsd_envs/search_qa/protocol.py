"""What the policy reads and writes in Search-QA: actions in responses, evidence, messages.

Two protocols of the literature. `append` is Search-R1's growing chat (arXiv:2503.09516); `window`
is the per-turn one of the agent family (GiGPO, arXiv:2505.10978), whose prompt is rebuilt every
turn. Tags, structure and parsing rules are theirs; the wording is ours but for what programs look
for: the corrective message where they segment transcripts, "Your question:" and "Now it's your turn
to" where they insert skills.
"""

import json
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from stepopsd_envs.search_qa.retriever import Passage
from stepopsd_envs.tag_blocks import first_tag_block
from stepopsd_envs.text_env import HistoryTurn

Protocol = Literal["append", "window"]
PROTOCOLS: tuple[Protocol, ...] = ("append", "window")

# Where advice goes in a prompt (see `TextEnv`).
TASK_PHRASES = ("Your question:",)
TURN_PHRASES = ("Now it's your turn to",)

INVALID_FEEDBACK = (
    "\nMy previous action is invalid. To search, the query belongs between <search> and </search>. "
    "To answer, the final answer belongs between <answer> and </answer>. Let me try again.\n"
)

_KINDS: tuple[Literal["search", "answer"], ...] = ("search", "answer")

_FORMAT = (
    "Whenever you learn something new, first reason inside <think> and </think>. If you lack a "
    "piece of knowledge, ask a search engine with <search> query </search>; it answers with the "
    "best passages between <information> and </information>."
)
_FIRST = (
    "Answer the question below. {format} You may search as often as you need. As soon as you know "
    "enough, give the answer alone, without explanation, inside <answer> and </answer>, for "
    "example <answer> Lisbon </answer>.\nYour question: {question}"
)
_ROLE = "You are an expert who answers a question step by step with the help of a search engine."
_CHOICE = (
    "Now it's your turn to act. First reason inside <think> and </think>. Then do exactly one of "
    "two things: search with <search> query </search> if knowledge is missing, or, if you know "
    "enough, give the final answer inside <answer> and </answer>, without explanation."
)


class SearchAction(NamedTuple):
    """What a response asks for.

    Attributes:
        kind: "search", "answer", or None if there is no complete action.
        content: The query or the answer, stripped.
        is_valid: Whether the response kept to the format of its protocol; an action of an invalid
            response is executed all the same.
    """

    kind: Literal["search", "answer"] | None
    content: str
    is_valid: bool

    def text(self) -> str:
        """The action with its tags; "" without an action."""
        return f"<{self.kind}>{self.content}</{self.kind}>" if self.kind else ""


def cut_after_action(response: str) -> str:
    """Ends a response after its first complete action (`append`); whole without one."""
    block = first_tag_block(response, _KINDS)
    return response[: block.end] if block else response


def parse_append(response: str) -> SearchAction:
    """Finds the first complete action, tags in lower case, as Search-R1 does."""
    block = first_tag_block(response, _KINDS)
    if block is None:
        return SearchAction(None, "", False)
    kind: Literal["search", "answer"] = "search" if block.name == "search" else "answer"
    return SearchAction(kind, block.content.strip(), True)


def parse_window(response: str) -> SearchAction:
    """Finds the action as the per-turn environments do.

    What follows the first `</search>`, or without one the first `</answer>`, both in lower case,
    is cut away. Of the rest, the first search block counts, else the first answer block, tags in
    any case. Invalid is a response without a block, with opening tags of both kinds, or with
    several of one kind.
    """
    cut = response
    for closing in ("</search>", "</answer>"):
        end = response.find(closing)
        if end >= 0:
            cut = response[: end + len(closing)]
            break
    counts = [response.lower().count(f"<{kind}>") for kind in _KINDS]
    is_single = sum(counts) <= 1
    for kind in _KINDS:
        block = first_tag_block(cut, (kind,), ignore_case=True)
        if block:
            return SearchAction(kind, block.content.strip(), is_single)
    return SearchAction(None, "", False)


def append_information(
    passages: Sequence[Passage], shorten: Callable[[str], str] = lambda text: text
) -> str:
    """Writes the evidence of one search for the growing chat.

    Args:
        passages: Best first.
        shorten: Cuts the documents to the limit. The tags are outside of it: Search-R1 cuts the
            whole block and so may lose its closing tag.
    """
    documents = []
    for number, passage in enumerate(passages, start=1):
        title, _, text = passage.contents.partition("\n")
        documents.append(f"Doc {number}(Title: {title}) {text}\n")
    return f"\n\n<information>{shorten(''.join(documents).strip())}</information>\n\n"


def window_information(
    passages: Sequence[Passage], shorten: Callable[[str], str] = lambda text: text
) -> str:
    """Writes the evidence of one search as JSON, as the per-turn protocol does.

    New lines and characters beyond ASCII come out escaped.
    """
    documents = "".join(
        f"Doc {number}: {passage.contents}\n" for number, passage in enumerate(passages, start=1)
    )
    return f"<information>{json.dumps({'result': shorten(documents)})}</information>"


def golden_rollout(queries: Sequence[str], answer: str) -> str:
    """Writes an expert's actions, one a line, as a teacher's hindsight shows actions."""
    actions = [*(SearchAction("search", query, True) for query in dict.fromkeys(queries))]
    actions.append(SearchAction("answer", answer, True))
    return "\n".join(f"> {action.text()}" for action in actions)


def with_question_mark(question: str) -> str:
    """Strips a question and ends it with a question mark."""
    question = question.strip()
    return question if question.endswith("?") else f"{question}?"


def history_lines(actions: Sequence[str], observations: Sequence[str], *, first_index: int) -> str:
    """Writes past turns with a blank line between them.

    Args:
        actions: One a turn, with tags; "" for a turn without an action.
        observations: What each action was answered with.
        first_index: 0-based number of the first of these turns in its episode.
    """
    return "\n".join(
        f"Step {first_index + offset + 1}:{action} {observation}\n"
        for offset, (action, observation) in enumerate(zip(actions, observations, strict=True))
    )


def first_message(question: str, *, protocol: Protocol) -> str:
    """Writes the message of turn 0: task, format, question."""
    if protocol == "append":
        return _FIRST.format(format=_FORMAT, question=question)
    return f"{_ROLE}\nYour question: {question}\n\n{_CHOICE}"


def window_message(
    history: Sequence[HistoryTurn], observation: str, *, question: str, turn: int
) -> str:
    """Writes the message of a later turn that stands alone.

    Args:
        history: The last turns, oldest first.
        observation: What the last of them was answered with.
        question: The question.
        turn: Turns taken so far.
    """
    parts = [f"{_ROLE}\nYour question: {question}", f"You have already taken {turn} step(s)."]
    lines = shown_history(history, observation)
    if lines:
        parts[1] += f" What you asked and what you found:\n{lines}"
    return "\n\n".join([*parts, _CHOICE])


def bare_window_message(history: Sequence[HistoryTurn], observation: str, *, question: str) -> str:
    """Writes question and history without a word of instruction."""
    return "\n".join(part for part in (question, shown_history(history, observation)) if part)


def shown_history(history: Sequence[HistoryTurn], observation: str) -> str:
    """Writes each past action beside the observation that followed it.

    A `HistoryTurn` holds the observation *before* its action, so that every answer stands in the
    next turn and the last one in `observation`.
    """
    if not history:
        return ""
    answers = [*(turn.observation for turn in history[1:]), observation]
    return history_lines(
        [turn.action for turn in history],
        [answer.strip() for answer in answers],
        first_index=history[0].index,
    )
