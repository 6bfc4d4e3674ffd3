"""Made-up names for generated worlds: nothing in a model's memory knows them.

All worlds draw from the same pools of short words, so that a small vocabulary covers every name;
which words are put together, and what is true of the name, differs from world to world.
"""

import random
from collections.abc import Iterator

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_POOL_SIZES = {
    "first": 70,
    "last": 160,
    "city": 120,
    "company": 120,
    "country": 40,
    "university": 90,
}
_ADJECTIVES = [
    "Silent",
    "Golden",
    "Hidden",
    "Broken",
    "Distant",
    "Crimson",
    "Empty",
    "Frozen",
    "Gentle",
    "Hollow",
    "Last",
    "Little",
    "Lonely",
    "Lost",
    "Midnight",
    "Painted",
    "Quiet",
    "Restless",
    "Secret",
    "Winter",
]
_FILM_NOUNS = [
    "River",
    "Garden",
    "Bridge",
    "Station",
    "Harbor",
    "Mirror",
    "Lantern",
    "Letter",
    "Window",
    "Island",
    "Forest",
    "Valley",
    "Market",
    "Tower",
    "Orchard",
    "Desert",
    "Signal",
    "Theater",
    "Voyage",
    "Stranger",
]
_BOOK_NOUNS = [
    "Alphabet",
    "Archive",
    "Cathedral",
    "Clockmaker",
    "Compass",
    "Diary",
    "Dream",
    "Kingdom",
    "Library",
    "Manuscript",
    "Memory",
    "Museum",
    "Novel",
    "Painter",
    "Physician",
    "Prophet",
    "Riddle",
    "Shepherd",
    "Teacher",
    "Weaver",
]
_CITY_ENDINGS = ("burg", "ford", "ton", "dale", "port", "field")
_COUNTRY_ENDINGS = ("ia", "land", "stan")
_COMPANY_KINDS = ("Works", "Motors", "Foods", "Systems", "Airlines", "Textiles", "Press", "Energy")
_UNIVERSITY_KINDS = ("University", "Institute")


def _word_pools() -> dict[str, list[str]]:
    rng = random.Random("word pools of the generated world")  # a text seeds alike everywhere
    syllables = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
    words = [one + two for one in syllables for two in syllables if one != two]
    drawn = iter(rng.sample(words, sum(_POOL_SIZES.values())))
    return {
        pool: [next(drawn).capitalize() for _ in range(size)] for pool, size in _POOL_SIZES.items()
    }


_POOLS = _word_pools()


def names(kind: str, rng: random.Random, *, pool_share: float = 1.0) -> Iterator[str]:
    """Yields the names of a kind in random order, each once.

    Args:
        kind: "person", "city", "country", "company", "film", "book" or "university".
        rng: Decides the order.
        pool_share: Share of each word pool that is used; less makes names easier to learn.
    """
    combined = _combinations(kind, pool_share)
    rng.shuffle(combined)
    yield from combined


def _combinations(kind: str, pool_share: float) -> list[str]:
    def pool(name: str) -> list[str]:
        return _POOLS[name][: max(1, round(len(_POOLS[name]) * pool_share))]

    match kind:
        case "person":
            return [f"{first} {last}" for first in pool("first") for last in pool("last")]
        case "city":
            return [stem + ending for stem in pool("city") for ending in _CITY_ENDINGS]
        case "country":
            return [stem + ending for stem in pool("country") for ending in _COUNTRY_ENDINGS]
        case "company":
            return [f"{stem} {what}" for stem in pool("company") for what in _COMPANY_KINDS]
        case "university":
            return [f"{stem} {what}" for stem in pool("university") for what in _UNIVERSITY_KINDS]
        case "film":
            return [f"The {adjective} {noun}" for adjective in _ADJECTIVES for noun in _FILM_NOUNS]
        case "book":
            return [f"The {adjective} {noun}" for adjective in _ADJECTIVES for noun in _BOOK_NOUNS]
    raise ValueError(f"kind={kind!r}: there are no names of that kind.")
