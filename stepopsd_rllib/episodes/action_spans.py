"""Where the action stands in a response's text (SERL, arXiv:2605.19447; the authors' rules)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache


def action_spans(
    response: str, tags: Sequence[str] = ("action",), *, calls: Sequence[str] = ()
) -> list[tuple[int, int]]:
    """Finds the characters of the action.

    The contents of complete action tags, else from the first opening tag to the end of the text,
    else every bare call `name[…]` on one line. Spans that touch or overlap are merged.

    Args:
        response: Text of one response.
        tags: Names of the tags between which it acts; the authors know "action" alone.
        calls: Names of calls that act without tags, such as "click"; the authors look for those of
            WebShop in every environment.

    Returns:
        Spans in characters, half open, in order; empty where there is no action.
    """
    spans = [span for tag in tags for span in _contents_of_tag(response, tag)]
    spans = [(start, end) for start, end in spans if end > start]
    openings = (_patterns(tag)[0][0].search(response) for tag in tags)
    first = min((match for match in openings if match), key=re.Match.start, default=None)
    if not spans and first:
        bracket = response.find(">", first.end())
        if 0 <= bracket < len(response) - 1:
            spans = [(bracket + 1, len(response))]
    if not spans:
        spans = list(_calls(response, tuple(calls)))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


@cache
def _patterns(tag: str) -> tuple[tuple[re.Pattern[str], ...], re.Pattern[str]]:
    """How an action of a tag is opened, complete bracket first, and how it is closed.

    Each spelling is scanned on its own. The last needs no first bracket, so that behind an opening
    tag with attributes it begins in the closing tag, as in the authors' program.
    """
    name = re.escape(tag)
    spellings = (rf"<{name}\b", rf"\[{name}", name)
    opened = tuple(re.compile(spelling, re.IGNORECASE) for spelling in spellings)
    return opened, re.compile(rf"</{name}>", re.IGNORECASE)


def _contents_of_tag(response: str, tag: str) -> Iterator[tuple[int, int]]:
    opened, closed = _patterns(tag)
    for spelling in opened:
        yield from _contents(response, spelling, closed, takes_attributes=spelling is opened[0])


def _contents(
    response: str, spelling: re.Pattern[str], closing: re.Pattern[str], *, takes_attributes: bool
) -> Iterator[tuple[int, int]]:
    """What stands in complete tags of one spelling, in time linear in the length of the text."""
    position = 0
    while opened := spelling.search(response, position):
        start = opened.end()
        if takes_attributes:
            start = response.find(">", start)
        elif not response.startswith(">", start):
            position = start
            continue
        closed = closing.search(response, start + 1) if start >= 0 else None
        if closed is None:  # nor is any later one closed
            return
        yield start + 1, closed.start()
        position = closed.end()


@cache
def _call(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?:{'|'.join(map(re.escape, names))})\[", re.IGNORECASE)


def _calls(response: str, names: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Every `name[…]` on one line."""
    position = 0
    while names and (opened := _call(names).search(response, position)):
        line_end = response.find("\n", opened.end())
        line_end = len(response) if line_end < 0 else line_end
        closed = response.find("]", opened.end(), line_end)
        if closed >= 0:
            yield opened.start(), closed + 1
        position = closed + 1 if closed >= 0 else line_end
