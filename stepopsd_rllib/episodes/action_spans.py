"""Where the action stands in a response's text (SERL, arXiv:2605.19447; the authors' rules)."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Each spelling is scanned on its own. The last needs no first bracket, so that behind an opening
# tag with attributes it begins in the closing tag, as in the authors' program.
_OPENED = re.compile(r"<action\b", re.IGNORECASE)
_SPELLINGS = (_OPENED, re.compile(r"\[action", re.IGNORECASE), re.compile("action", re.IGNORECASE))
_CLOSED = re.compile(r"</action>", re.IGNORECASE)
_CALL = re.compile(r"(?:search|click)\[", re.IGNORECASE)


def action_spans(response: str) -> list[tuple[int, int]]:
    """Finds the characters of the action.

    The contents of complete action tags, else from the first opening tag to the end of the text,
    else every bare `search[…]` or `click[…]` on one line. Spans that touch or overlap are merged.

    Args:
        response: Text of one response.

    Returns:
        Spans in characters, half open, in order; empty where there is no action.
    """
    spans = [span for spelling in _SPELLINGS for span in _contents(response, spelling)]
    spans = [(start, end) for start, end in spans if end > start]
    if not spans and (opened := _OPENED.search(response)):
        bracket = response.find(">", opened.end())
        if 0 <= bracket < len(response) - 1:
            spans = [(bracket + 1, len(response))]
    if not spans:
        spans = list(_calls(response))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _contents(response: str, spelling: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """What stands in complete tags of one spelling, in time linear in the length of the text."""
    position = 0
    while opened := spelling.search(response, position):
        start = opened.end()
        if spelling is _OPENED:
            start = response.find(">", start)
        elif not response.startswith(">", start):
            position = start
            continue
        closed = _CLOSED.search(response, start + 1) if start >= 0 else None
        if closed is None:  # nor is any later one closed
            return
        yield start + 1, closed.start()
        position = closed.end()


def _calls(response: str) -> Iterator[tuple[int, int]]:
    """Every `search[…]` and `click[…]` on one line."""
    position = 0
    while opened := _CALL.search(response, position):
        line_end = response.find("\n", opened.end())
        line_end = len(response) if line_end < 0 else line_end
        closed = response.find("]", opened.end(), line_end)
        if closed >= 0:
            yield opened.start(), closed + 1
        position = closed + 1 if closed >= 0 else line_end
