"""Finds `<name>…</name>` in what a policy wrote, in time linear in its length.

A regular expression with a lazy middle scans the rest of the text again for every opening tag that
is never closed: a megabyte of them takes it hours.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple


class TagBlock(NamedTuple):
    """One block; positions in characters.

    Attributes:
        name: Name of its tags, as asked for.
        start: Start of the opening tag.
        end: Behind the closing tag.
        content: What stands between them.
    """

    name: str
    start: int
    end: int
    content: str


def tag_blocks(text: str, names: Sequence[str], *, ignore_case: bool = False) -> Iterator[TagBlock]:
    r"""Yields the complete blocks from left to right; none begins inside another.

    The same blocks as `re.finditer(r"<(name|other)>(.*?)</\1>", text, re.DOTALL)`.

    Args:
        text: What is searched.
        names: Names of the tags.
        ignore_case: Whether the tags count in any case (of ASCII letters).
    """
    position = 0
    waiting = {name: _tags(name, ignore_case)[0].search(text) for name in names}
    while True:
        for name, opening in waiting.items():
            if opening is not None and opening.start() < position:
                waiting[name] = _tags(name, ignore_case)[0].search(text, position)
        opened = [(found.start(), name) for name, found in waiting.items() if found is not None]
        if not opened:
            return
        start, name = min(opened)
        opening = waiting[name]
        assert opening is not None
        closing = _tags(name, ignore_case)[1].search(text, opening.end())
        if closing is None:
            waiting[name] = None  # nor is any later one closed
            continue
        yield TagBlock(name, start, closing.end(), text[opening.end() : closing.start()])
        position = closing.end()


def first_tag_block(
    text: str, names: Sequence[str], *, ignore_case: bool = False
) -> TagBlock | None:
    """The first of `tag_blocks`, or None."""
    return next(tag_blocks(text, names, ignore_case=ignore_case), None)


@cache
def _tags(name: str, ignore_case: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    flags = re.IGNORECASE | re.ASCII if ignore_case else re.NOFLAG
    name = re.escape(name)
    return re.compile(f"<{name}>", flags), re.compile(f"</{name}>", flags)
