"""Counts and cuts texts in tokens of a policy's tokenizer, or in words where it is not known."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

Tokenizer = Callable[[str], Sequence[Any]]
"""Splits a text; only the number of pieces is used."""

_WORD = re.compile(r"\S+")


def split_words(text: str) -> list[str]:
    """Splits at white space."""
    return _WORD.findall(text)


def load_tokenizer(tokenizer: str | Tokenizer | None) -> Tokenizer:
    """Returns a function from text to tokens.

    Args:
        tokenizer: Folder or name of a Hugging Face tokenizer; a function; None for words.
    """
    if tokenizer is None:
        return split_words
    return _pretrained(tokenizer) if isinstance(tokenizer, str) else tokenizer


def count_tokens(text: str, tokenize: Tokenizer) -> int:
    """Returns the number of tokens in a text."""
    return len(tokenize(text))


def first_tokens(text: str, limit: int, tokenize: Tokenizer) -> str:
    """Returns the longest beginning of a text, found by bisection, that has at most `limit` tokens.

    Cutting characters instead of token ids keeps texts whole where a character takes several
    tokens.
    """
    if count_tokens(text, tokenize) <= limit:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if count_tokens(text[:middle], tokenize) <= limit:
            fits = middle
        else:
            too_long = middle
    return text[:fits]


@functools.lru_cache(maxsize=4)
def _pretrained(name: str) -> Tokenizer:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(name)
    return lambda text: loaded(text, add_special_tokens=False)["input_ids"]
