"""How close a purchase comes to what was asked for (WebShop, arXiv:2207.01206, section 3).

    score = type · (attributes hit + options hit + [price ≤ cap]) / (attributes + options + 1)

The thresholds are those of the authors' code, as are its quirks; `strict_options=False` mends the
one by which some goals cannot be won.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

from rapidfuzz import fuzz, utils

from stepopsd_envs.webshop.colours import base_colour
from stepopsd_envs.webshop.goals import Goal
from stepopsd_envs.webshop.nouns import NounTagger
from stepopsd_envs.webshop.products import Product

MATCH_ABOVE = 85
"""Percent of similarity above which two phrases count as one."""

_SAME_TYPE_ABOVE, _NEAR_TYPE_FROM = 0.2, 0.1
_CATEGORIES_IN_COMMON = 2
_TITLE_SCORE_WITHOUT_NOUNS = 0.2
_LATIN_1_SUPPLEMENT = dict.fromkeys(range(128, 256))
_CACHED_TEXTS = 100_000


class Score(NamedTuple):
    """A purchase scored, and the parts of the score.

    Attributes:
        total: The score, 0 to 1.
        type_factor: 1, 0.5, 0.1 or 0.
        attributes: Share of the attributes hit.
        options: Share of the options hit; None if none was asked for.
        price: Whether the price keeps to the cap.
        query_match: Whether both products were found with the same search.
        category_match: Whether two parts of their category paths are common.
        title_score: Share of the goal's title nouns in the purchase's title.
    """

    total: float
    type_factor: float
    attributes: float
    options: float | None
    price: bool
    query_match: bool
    category_match: bool
    title_score: float


def score_purchase(
    product: Product,
    options: Mapping[str, str],
    price: float,
    goal: Goal,
    *,
    nouns: NounTagger,
    strict_options: bool = True,
) -> Score:
    """Scores what was bought.

    Args:
        product: The product.
        options: The option chosen of each group.
        price: What the product costs, in dollars.
        goal: What was asked for.
        nouns: Finds the nouns of titles.
        strict_options: False: an option that was asked for and chosen to the letter always hits.
    """
    kind = _type_score(product, goal, nouns)
    attribute_hits = sum(_has_attribute(product, attribute) for attribute in goal.attributes)
    option_hits = _option_hits(options, goal, strict=strict_options)
    is_price_kept = price <= goal.price_upper
    parts = len(goal.attributes) + len(goal.options) + 1
    total = (attribute_hits + option_hits + is_price_kept) / parts * kind[0]
    return Score(
        total=total,
        type_factor=kind[0],
        attributes=attribute_hits / len(goal.attributes),
        options=option_hits / len(goal.options) if goal.options else None,
        price=is_price_kept,
        query_match=kind[1],
        category_match=kind[2],
        title_score=kind[3],
    )


def similarity(first: object, second: object) -> int:
    """Token-set similarity in percent, as thefuzz computes it."""
    return round(fuzz.token_set_ratio(_comparable(str(first)), _comparable(str(second))))


@functools.lru_cache(maxsize=_CACHED_TEXTS)
def _comparable(text: str) -> str:
    return utils.default_process(text.translate(_LATIN_1_SUPPLEMENT))


def _type_score(product: Product, goal: Goal, nouns: NounTagger) -> tuple[float, bool, bool, float]:
    query_match = product.query == goal.query
    common = _categories(product.product_category) & _categories(goal.product_category)
    category_match = len(common) >= _CATEGORIES_IN_COMMON
    wanted = nouns(goal.name)
    title_score = _TITLE_SCORE_WITHOUT_NOUNS
    if wanted:
        title_score = len(set(nouns(product.name)) & set(wanted)) / len(wanted)
    factor = 1.0 if query_match or category_match or title_score > _SAME_TYPE_ABOVE else 0.5
    if title_score < _NEAR_TYPE_FROM:
        factor = 0.1
    if title_score == 0.0:
        factor = 0.0
    return factor, query_match, category_match, title_score


def _categories(path: str) -> set[str]:
    return {part.strip() for part in path.split("›")}


def _has_attribute(product: Product, attribute: str) -> bool:
    return (
        any(similarity(known, attribute) > MATCH_ABOVE for known in product.attributes)
        or attribute in product.name.lower()
        or attribute in " ".join(product.bullet_points).lower()
        or attribute in product.description.lower()
    )


def _option_hits(options: Mapping[str, str], goal: Goal, *, strict: bool) -> int:
    chosen = [base_colour(value) for value in options.values()]
    hits = 0
    for wanted in goal.options:
        is_named = not strict and isinstance(wanted, tuple) and options.get(wanted[0]) == wanted[1]
        name = base_colour(wanted)
        hits += is_named or any(similarity(value, name) > MATCH_ABOVE for value in chosen)
    return hits
