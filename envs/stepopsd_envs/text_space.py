"""The Gymnasium space of observations and actions: text."""

import string
from typing import Any

import gymnasium as gym
import numpy as np

# What a space may hold has no natural end; this is far above any context window, in characters.
_MAX_TEXT_LENGTH = 10_000_000
_MAX_SAMPLE_LENGTH = 64


class UnicodeText(gym.spaces.Text):
    """Every text, the empty one included; samples are short and printable.

    Gymnasium's own `Text` looks up each character in an explicit set, which for all of Unicode
    would hold a million entries in every environment.
    """

    def __init__(self, *, seed: int | np.random.Generator | None = None):
        """Makes the space; `seed` is for sampling."""
        super().__init__(_MAX_TEXT_LENGTH, min_length=0, charset=string.printable, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draws a printable text of at most 64 characters (or of the length in `mask`)."""
        if mask is None and probability is None:
            mask = (int(self.np_random.integers(_MAX_SAMPLE_LENGTH + 1)), None)
        return super().sample(mask, probability)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        """Shows the name alone; there is nothing to configure."""
        return "UnicodeText()"
