"""The characters, and the tokens, of a turn that a method credits. Spans are half-open."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from stepopsd_envs import TextEnv
from stepopsd_envs.tag_blocks import first_tag_block

Span = tuple[int, int]
SpanMode = Literal["clean_step_no_observation", "action_only", "answer_only", "final_answer_only"]
SPAN_MODES: tuple[SpanMode, ...] = get_args(SpanMode)

# How tokenizers decode a character of which some bytes are still missing.
_REPLACEMENT = "\ufffd"


def turn_targets(
    responses: Sequence[str],
    mode: SpanMode,
    *,
    action_tags: Sequence[str] = TextEnv.action_tags,
    answer_tags: Sequence[str] = TextEnv.answer_tags,
) -> list[Span | None]:
    """The characters of each turn's response that are credited, for an episode with known turns.

    The action of a turn is its first complete block between action tags, in any case.

    Args:
        responses: Response text of every turn of an episode.
        mode: `clean_step_no_observation` (the whole response), `action_only` (the action with its
            tags), `answer_only` and `final_answer_only` (the same, for answers and for the last
            answer alone).
        action_tags: Names of the tags between which a turn acts.
        answer_tags: Names among them that give the final answer.

    Returns:
        One span a turn, None where the turn has no such text.

    Raises:
        ValueError: An unknown mode.
    """
    check_mode(mode)
    if mode == "clean_step_no_observation":
        return [(0, len(response)) if response else None for response in responses]
    # Environments accept the tags of an action in any case.
    actions = [first_tag_block(text, action_tags, ignore_case=True) for text in responses]
    answers = [i for i, block in enumerate(actions) if block and block.name in answer_tags]
    chosen: Sequence[int] = range(len(actions))
    if mode == "answer_only":
        chosen = answers
    elif mode == "final_answer_only":
        chosen = answers[-1:]
    spans: list[Span | None] = [None] * len(actions)
    for i in chosen:
        block = actions[i]
        spans[i] = (block.start, block.end) if block else None
    return spans


def token_span(
    decode: Callable[[Sequence[int]], str], token_ids: Sequence[int], span: Span
) -> Span:
    """The sampled tokens that spell a span of characters; a token half inside belongs to it.

    Decodes O(log n) prefixes of the ids that were sampled. Nothing is encoded again.

    Args:
        decode: Text of token ids; the text of a prefix must not be longer than that of the whole.
        token_ids: Token ids of the text, n of them.
        span: Characters of `decode(token_ids)`.

    Returns:
        Token positions; empty for an empty span.
    """
    start, end = span
    if end <= start:
        return (0, 0)

    def begun(num_tokens: int) -> int:
        return len(decode(token_ids[:num_tokens]))

    def complete(num_tokens: int) -> int:
        return len(decode(token_ids[:num_tokens]).rstrip(_REPLACEMENT))

    counts = range(len(token_ids) + 1)
    first = bisect_right(counts, start, key=begun) - 1
    return (first, min(bisect_left(counts, end, key=complete), len(token_ids)))


def check_mode(mode: str) -> None:
    """Refuses a span mode that is not known."""
    if mode not in SPAN_MODES:
        raise ValueError(f"span_mode={mode!r} is not known. Use one of {', '.join(SPAN_MODES)}.")
