"""Steps of a search agent's whole response, read from its text as the authors' program does.

Actions, observations and corrective messages stand in one text, as in Search-R1. The rules come
with their surprises: a retrieved document that quotes an action makes a phantom step. Episodes of
this package know their turns (`episodes.segmentation`). Spans are half-open (start, end).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepopsd_envs.tag_blocks import tag_blocks

from stepopsd_rllib.episodes.segmentation import Span, SpanMode, check_mode

FEEDBACK_OPENING = "My previous action is invalid."


FEEDBACK_CLOSING = "Let me try again.\n"


_OBSERVATION_OPENING = "<information>"


_OBSERVATION_CLOSING = "</information>"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchStep:
    """One step of a search agent's response: reasoning, action, observation. Offsets in characters.

    Attributes:
        step_start: Where its reasoning begins.
        clean_end: Where its observation begins; without one, where the next action begins.
        step_end: Where its observation ends.
        action_start: Start of the action's opening tag.
        action_end: End of the action's closing tag.
        action_type: "search" or "answer".
        is_final_answer: Whether it is the last answer of the response.
    """

    step_start: int
    clean_end: int
    step_end: int
    action_start: int
    action_end: int
    action_type: str
    is_final_answer: bool


def feedback_spans(text: str) -> list[Span]:
    """Corrective messages that the environment wrote into the response.

    A message ends after its closing sentence and newline; one that was cut off ends with the text.
    """
    spans: list[Span] = []
    start = text.find(FEEDBACK_OPENING)
    while start >= 0:
        closing = text.find(FEEDBACK_CLOSING, start)
        end = len(text) if closing < 0 else closing + len(FEEDBACK_CLOSING)
        spans.append((start, end))
        start = text.find(FEEDBACK_OPENING, end)
    return spans


def search_steps(text: str) -> list[SearchStep]:
    """Cuts the response of a search agent into steps, one an action.

    Actions are the non-overlapping `<search>…</search>` and `<answer>…</answer>` that do not begin
    inside a corrective message. A step begins where the previous one ended, after whitespace and
    corrective messages. Its observation is the first `<information>` block or corrective message
    between its action and the next; an unclosed block reaches to the next action. Without an
    observation all of that text belongs to the step.

    Args:
        text: The decoded response, special tokens removed.

    Returns:
        The steps in order; none if there is no action.
    """
    feedback = feedback_spans(text)
    actions = [
        block
        for block in tag_blocks(text, ("search", "answer"))
        if not any(start <= block.start < end for start, end in feedback)
    ]
    final_answer = next((block for block in reversed(actions) if block.name == "answer"), None)
    steps: list[SearchStep] = []
    cursor = 0
    for i, action in enumerate(actions):
        next_start = actions[i + 1].start if i + 1 < len(actions) else len(text)
        observation = _first_observation(text, action.end, next_start, feedback)
        clean_end, step_end = observation or (next_start, next_start)
        steps.append(
            SearchStep(
                step_start=_after_feedback(text, cursor, feedback),
                clean_end=clean_end,
                step_end=step_end,
                action_start=action.start,
                action_end=action.end,
                action_type=action.name,
                is_final_answer=action is final_answer,
            )
        )
        cursor = step_end
    return steps


def target_spans(steps: Sequence[SearchStep], mode: SpanMode) -> list[Span]:
    """The characters that are credited, one span a step that has any.

    Args:
        steps: What `search_steps` returned.
        mode: `clean_step_no_observation` (reasoning and action), `action_only` (the action with its
            tags), `answer_only` and `final_answer_only` (the same, for answers and for the last
            answer alone).

    Raises:
        ValueError: An unknown mode.
    """
    check_mode(mode)
    if mode == "clean_step_no_observation":
        return [(step.step_start, step.clean_end) for step in steps]
    return [
        (step.action_start, step.action_end)
        for step in steps
        if mode == "action_only"
        or (mode == "answer_only" and step.action_type == "answer")
        or (mode == "final_answer_only" and step.is_final_answer)
    ]


def reencoded_token_span(
    encode: Callable[[str], Sequence[int]], text: str, span: Span, *, num_tokens: int
) -> Span:
    """The tokens of a span of characters as the authors' code finds them, encoding prefixes.

    Approximate, as the encoding of a prefix need not be a prefix of the encoding. For logs without
    token ids.

    Args:
        encode: Token ids of a text, without special tokens.
        text: The response.
        span: Characters of the text.
        num_tokens: Number of tokens of the response; positions are clamped to it.

    Returns:
        Token positions; start = end if nothing is left.
    """
    start, end = (min(len(encode(text[:position])), num_tokens) for position in span)
    return (start, max(start, end))


def _first_observation(text: str, start: int, stop: int, feedback: Sequence[Span]) -> Span | None:
    """The observation that begins first in [start, stop), cut at `stop`."""
    candidates = [span for span in feedback if start <= span[0] < stop]
    opening = text.find(_OBSERVATION_OPENING, start, stop)
    # An opening tag that straddles `stop` cannot occur: an action begins there, or the text ends.
    if opening >= 0:
        closing = text.find(_OBSERVATION_CLOSING, opening)
        end = stop if closing < 0 else closing + len(_OBSERVATION_CLOSING)
        candidates.append((opening, end))
    if not candidates:
        return None
    first_start, first_end = min(candidates)
    return (first_start, min(first_end, stop))


def _after_feedback(text: str, position: int, feedback: Sequence[Span]) -> int:
    """Skips whitespace and the corrective messages that the position runs into."""
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        ends = [end for start, end in feedback if start <= position < end]
        if not ends:
            return position
        position = ends[0]
