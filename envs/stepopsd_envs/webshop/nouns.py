"""Nouns of product titles, which the reward compares: by spaCy where it is, else by a word list.

Titles are strings of names, so that nearly every word that is not a function word counts as a
noun; the packaged tagger knows the exceptions that matter.
"""

import functools
import importlib.util
import re
from typing import Any, Literal, Protocol

TaggerName = Literal["auto", "spacy", "packaged"]
TAGGERS: tuple[TaggerName, ...] = ("auto", "spacy", "packaged")

SPACY_MODEL = "en_core_web_sm"
"""The model that the original loads."""

_CACHED_TITLES = 20_000
_NOUN_TAGS = ("NOUN", "PROPN")
# A number written together with its unit is two words, and so is a possessive.
_TOKEN = re.compile(r"\d*([^\W\d_][^\W_]*)")
_FUNCTION_WORDS = (
    "a about above after again against all along also always an and another any are as at be "
    "been before behind below between both but by can could do does down during each either else "
    "enough etc even ever every few for from had has have he her here him his how i if in inside "
    "into is it its just less let like many may me more most much must my near no non nor not now "
    "of off on once one only onto or other our out outside over own per same she should since "
    "so some such than that the their them then there these they this those through to together "
    "too two under until up upon us use using very via was we were what when where which while "
    "who whom whose why will with within without would yet you your three four five six seven "
    "eight nine ten made compatible includes b c f h m s w x"
)
_NOT_NOUNS = frozenset(_FUNCTION_WORDS.split())


class NounTagger(Protocol):
    """Returns the nouns of a title in lower case, in order, each as often as it occurs."""

    def __call__(self, title: str) -> tuple[str, ...]:
        """Tags a title."""
        ...


@functools.lru_cache(maxsize=_CACHED_TITLES)
def packaged_nouns(title: str) -> tuple[str, ...]:
    """Takes every word with a letter but the function words for a noun."""
    return tuple(token for token in _TOKEN.findall(title.lower()) if token not in _NOT_NOUNS)


@functools.lru_cache(maxsize=_CACHED_TITLES)
def spacy_nouns(title: str) -> tuple[str, ...]:
    """Takes what spaCy's small English model tags as a noun or a name."""
    return tuple(token.text.lower() for token in _spacy()(title) if token.pos_ in _NOUN_TAGS)


def is_spacy_there() -> bool:
    """Whether spaCy and its model are installed; imports neither."""
    return all(importlib.util.find_spec(name) is not None for name in ("spacy", SPACY_MODEL))


def noun_tagger(name: TaggerName) -> tuple[str, NounTagger]:
    """Returns the tagger of a name, and which one it is: "spacy" or "packaged"."""
    if name == "spacy" and not is_spacy_there():
        raise ValueError(
            f"nouns='spacy': spaCy or its model {SPACY_MODEL} is not installed. Install both, or "
            "leave nouns out for the packaged tagger."
        )
    if name == "spacy" or (name == "auto" and is_spacy_there()):
        return "spacy", spacy_nouns
    return "packaged", packaged_nouns


@functools.lru_cache(maxsize=1)
def _spacy() -> Any:
    import spacy

    return spacy.load(SPACY_MODEL)
