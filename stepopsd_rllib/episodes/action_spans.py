"""Where the action stands in a response's text (SERL, arXiv:2605.19447; the authors' rules)."""

from __future__ import annotations

import re
from itertools import chain

_OPENED = re.compile(r"<action\b[^>]*>", re.IGNORECASE)
# Each spelling is scanned on its own. The last needs no first bracket, so that behind an opening
# tag with attributes it begins in the closing tag, as in the authors' program.
_SPELLINGS = tuple(
    re.compile(opening + r"(.*?)</action>", re.IGNORECASE | re.DOTALL)
    for opening in (r"<action\b[^>]*>", r"\[action>", r"action>")
)
_CALL = re.compile(r"(?:search|click)\[[^\]\n]*\]", re.IGNORECASE)


def action_spans(response: str) -> list[tuple[int, int]]:
    """Finds the characters of the action.

    The contents of complete action tags, else from the first opening tag to the end of the text,
    else every bare `search[…]` or `click[…]` on one line. Spans that touch or overlap are merged.

    Args:
        response: Text of one response.

    Returns:
        Spans in characters, half open, in order; empty where there is no action.
    """
    matches = chain.from_iterable(spelling.finditer(response) for spelling in _SPELLINGS)
    spans = [match.span(1) for match in matches]
    spans = [(start, end) for start, end in spans if end > start]
    if not spans and (opened := _OPENED.search(response)) and opened.end() < len(response):
        spans = [(opened.end(), len(response))]
    if not spans:
        spans = [match.span() for match in _CALL.finditer(response)]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
