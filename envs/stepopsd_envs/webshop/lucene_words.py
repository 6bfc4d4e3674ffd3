"""Words of a text as Lucene's English analyzer splits and stems them, near enough.

The original searches with Anserini's default: Unicode word breaks, possessives cut, lower case,
stop words out, Porter's stemmer.
"""

import functools
import re

import snowballstemmer

from stepopsd_envs.bm25 import STOP_WORDS

_CACHED_STEMS = 200_000

# A letter joins over one of these signs with a letter, a digit with a digit (Unicode Annex 29).
_WORD = re.compile(r"\w+(?:(?:(?<=[^\W\d_])['’.·:](?=[^\W\d_])|(?<=\d)[,;.'’](?=\d))\w+)*")
_POSSESSIVE = re.compile(r"['’]s$")


def lucene_words(text: str) -> list[str]:
    """Splits a text into stems without stop words."""
    words = (_POSSESSIVE.sub("", word) for word in _WORD.findall(text.lower()))
    return [_stem(word) for word in words if word not in STOP_WORDS]


@functools.lru_cache(maxsize=_CACHED_STEMS)
def _stem(word: str) -> str:
    return snowballstemmer.stemmer("porter").stemWord(word)
