"""Control conditions for what a teacher is told: another task's text, an unrelated one, or nothing.

Whether a teacher's text matters, or only that there is a teacher, is seen by telling it something
else: arXiv:2609.20612 and arXiv:2608.09228 ask for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

TeacherText = Literal["own", "shuffled", "foreign", "empty"]

UNRELATED = (
    "Rivers that rise in high mountains carry cold water and coarse gravel down to the plain. "
    "Where the valley widens the current slows, the gravel settles, and the river divides into "
    "many arms that wander from year to year. In spring the snow melts and the arms fill from "
    "bank to bank; in autumn most of them are dry, and grass grows between the stones. Farther "
    "down the land is flat and the water brown with silt. Villages stand on the old banks, a "
    "little above the fields, and their roads follow lines that the river left long ago."
)
"""What `foreign` tells: of no task, in no environment."""

QUICK_DRAWS = 16
"""Draws among all texts before those that will do are listed: a batch has thousands of turns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextControl:
    """Replaces the texts that a teacher would be told.

    Attributes:
        kind: `own` leaves them; `shuffled` gives each the text of another task of the batch,
            `foreign` an unrelated one of about as many tokens, `empty` none. Who is told nothing is
            told nothing under all of them.
        encode: Token ids of a text, without special tokens.
    """

    kind: TeacherText
    encode: Callable[[str], Sequence[int]]

    @property
    def is_off(self) -> bool:
        """Whether texts stay as they are."""
        return self.kind == "own"

    def replaced(self, texts: Sequence[str], tasks: Sequence[Hashable], *, seed: int) -> list[str]:
        """The texts that are told in their place.

        Args:
            texts: Own texts, "" where there is none.
            tasks: Task of each.
            seed: Seed of the draw of `shuffled`; equal batches and seeds are told the same.

        Returns:
            One for each. Under `shuffled` "" where no other task of the batch has another text.
        """
        if self.kind == "own":
            return list(texts)
        if self.kind == "empty":
            return [""] * len(texts)
        if self.kind == "foreign":
            by_text = {text: self._unrelated(text) for text in dict.fromkeys(texts)}
            return [by_text[text] for text in texts]
        return _of_other_tasks(texts, tasks, random.Random(seed))

    def _unrelated(self, text: str) -> str:
        """Words of `UNRELATED`, as many as have no more tokens than the text."""
        room = len(self.encode(text)) if text else 0
        words: list[str] = []
        for word in cycle(UNRELATED.split()):
            room -= len(self.encode(f" {word}"))
            if room < 0:
                return " ".join(words)
            words.append(word)
        raise AssertionError("a cycle does not end")


def _of_other_tasks(
    texts: Sequence[str], tasks: Sequence[Hashable], draw: random.Random
) -> list[str]:
    """A text of another task for each, drawn among those that differ from the own one."""
    told = [(task, text) for task, text in zip(tasks, texts, strict=True) if text.strip()]

    def another(task: Hashable, own: str) -> str:
        for _ in range(QUICK_DRAWS):
            other, text = draw.choice(told)
            if other != task and text != own:
                return text
        others = [text for other, text in told if other != task and text != own]
        return draw.choice(others) if others else ""

    return [
        another(task, own) if own.strip() else "" for task, own in zip(tasks, texts, strict=True)
    ]
