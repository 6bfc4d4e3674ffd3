"""Products as a shop shows them, and how one is read from the official files.

The original (arXiv:2207.01206) changes what stands in the files as it loads them; so does
`read_product`: options in lower case with " | " for "/", a price of 100 where there is none, the
placeholder attribute where nobody annotated one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

MISSING_PRICE = 100.0
"""Dollars that a product without a price costs in the original."""

NO_ATTRIBUTES = ("DUMMY_ATTR",)
NO_RATING = "N.A."

_MAX_ASIN_LENGTH = 10
_NOT_A_NUMBER = re.compile(r"[^\d.]")
_REQUIRED = ("asin", "name", "category", "query", "product_category")


class CatalogueError(ValueError):
    """The product files cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """One review: headline, stars from 1 to 5, text."""

    title: str
    stars: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HumanInstruction:
    """What a person was told to look for who wrote an instruction for a product.

    Attributes:
        text: The instruction.
        attributes: Attributes that are scored.
        options: Option values that are scored, without the names of their groups.
    """

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """What the pages of a product show, and what is asked about it.

    Attributes:
        asin: Identifier.
        name: Title.
        description: Text of its page "Description".
        bullet_points: Lines of its page "Features".
        category: The shop's department.
        query: The search that it was found with, in lower case.
        product_category: Path of categories, joined with " › ".
        prices: One price in dollars, or the ends of a range.
        price_text: The price as shown.
        options: Values of each option group, in the order shown; values may repeat.
        attributes: What annotators found true of it.
        instruction: Synthetic instruction without options and price, or None.
        instruction_attributes: Attributes that the synthetic instruction asks for.
        human: What people wrote for it.
        rating: Rating as shown.
        reviews: Reviews as shown.
    """

    asin: str
    name: str
    description: str
    bullet_points: tuple[str, ...]
    category: str
    query: str
    product_category: str
    prices: tuple[float, ...]
    price_text: str
    options: Mapping[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    instruction: str | None = None
    instruction_attributes: tuple[str, ...] = ()
    human: tuple[HumanInstruction, ...] = ()
    rating: str = NO_RATING
    reviews: tuple[Review, ...] = ()

    def search_text(self) -> str:
        """The text that the search engine knows the product by."""
        options = ", and ".join(
            f"{name}: {', '.join(values)}" for name, values in self.options.items()
        )
        first_bullet = self.bullet_points[0] if self.bullet_points else ""
        return " ".join([self.name, self.description, first_bullet, options]).lower()


def is_listed(asin: Any) -> bool:
    """Whether the original takes a product with this identifier into its shop."""
    return isinstance(asin, str) and asin != "nan" and 0 < len(asin) <= _MAX_ASIN_LENGTH


def read_product(
    row: Mapping[str, Any],
    annotation: Mapping[str, Any],
    human: Sequence[Mapping[str, Any]] = (),
    reviews: Mapping[str, Any] | None = None,
    *,
    where: str,
) -> Product:
    """Reads a product of the official form.

    Args:
        row: The product's entry in `items_shuffle*.json`.
        annotation: The product's entry in `items_ins_v2*.json`, or an empty mapping.
        human: The product's entries in `items_human_ins.json`.
        reviews: The product's entry in `reviews.json`.
        where: File and position, for errors.
    """
    for key in _REQUIRED:
        if not isinstance(row.get(key), str):
            raise CatalogueError(
                f"{where}: {key}={row.get(key)!r} is no text. The file must be in the form of "
                "WebShop's items_shuffle.json."
            )
    prices, price_text = read_price(row.get("pricing"), where=where)
    attributes = annotation.get("attributes")
    reviews = reviews or {}
    return Product(
        asin=row["asin"],
        name=row["name"],
        description=_text(row.get("full_description")),
        bullet_points=_texts(row.get("small_description")),
        category=row["category"],
        query=row["query"].lower().strip(),
        product_category=row["product_category"],
        prices=prices,
        price_text=price_text,
        options=read_options(row.get("customization_options"), where=where),
        attributes=NO_ATTRIBUTES if attributes is None else _texts(attributes),
        instruction=annotation.get("instruction"),
        instruction_attributes=_texts(annotation.get("instruction_attributes") or ()),
        human=tuple(
            HumanInstruction(
                text=_text(entry.get("instruction")),
                attributes=_texts(entry.get("instruction_attributes") or ()),
                options=_texts(entry.get("instruction_options") or ()),
            )
            for entry in human
        ),
        rating=str(reviews.get("average_rating", NO_RATING)),
        reviews=tuple(
            Review(
                title=_text(review.get("title")),
                stars=str(review.get("score", review.get("stars", ""))),
                text=_text(review.get("review")),
            )
            for review in reviews.get("reviews", ())
        ),
    )


def read_price(pricing: Any, *, where: str) -> tuple[tuple[float, ...], str]:
    """Reads a price such as "$12.99" or "$10.00 to $15.00", and writes it as the shop shows it.

    Returns:
        One number or two, in dollars, and the text.
    """
    if not pricing:
        return (MISSING_PRICE,), f"${MISSING_PRICE}"
    try:
        prices = tuple(
            float(Decimal(_NOT_A_NUMBER.sub("", part))) for part in pricing.split("$")[1:]
        )
    except (ArithmeticError, AttributeError):
        prices = ()
    if not prices or not all(map(math.isfinite, prices)):
        raise CatalogueError(
            f"{where}: pricing={pricing!r:.80} is no price. Write '$12.99', '$10.00 to $15.00', or "
            "nothing for a product without one."
        )
    if len(prices) == 1:
        return prices, f"${prices[0]}"
    return prices[:2], f"${prices[0]} to ${prices[1]}"


def read_options(options: Any, *, where: str) -> dict[str, tuple[str, ...]]:
    """Reads the option groups of a product as the original does; values may come out alike."""
    if not options:
        return {}
    try:
        return {
            name.lower(): tuple(
                content["value"].strip().replace("/", " | ").lower() for content in contents
            )
            for name, contents in options.items()
            if contents is not None
        }
    except (AttributeError, KeyError, TypeError):
        raise CatalogueError(
            f"{where}: customization_options={options!r:.80} are not of the form "
            "{{group: [{{'value': ...}}, ...]}}.".replace("{{", "{").replace("}}", "}")
        ) from None


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _texts(values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        return (_text(values),)
    return tuple(map(_text, values))
