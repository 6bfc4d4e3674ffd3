"""The shop's pages as text, and what can be clicked on each: WebShop's site without its HTML.

A page is a list of pieces, one for each visible string of the original's HTML. The observation
mode "text" joins them with " [SEP] "; "text_rich" gives each a line and marks buttons.
"""

import json
from collections.abc import Container, Iterator, Sequence
from enum import Enum, auto
from typing import Literal, NamedTuple

from stepopsd_envs.webshop.products import Product, Review

ObservationMode = Literal["text", "text_rich"]
OBSERVATION_MODES: tuple[ObservationMode, ...] = ("text", "text_rich")

SEPARATOR = " [SEP] "
BUY = "Buy Now"
NEXT = "Next >"
PREVIOUS = "< Prev"
BACK = "Back to Search"
SEARCH = "Search"
SUB_PAGES = ("Description", "Features", "Reviews", "Attributes")
"""In the order of their buttons; the last is shown only where attributes are."""

_HTML_SPACES = " \n\t\f\r"


class Kind(Enum):
    """What a piece of a page is."""

    TEXT = auto()
    BUTTON = auto()
    LINK = auto()
    OPTION = auto()


class Piece(NamedTuple):
    """One visible string; `group` is the group of an option."""

    text: str
    kind: Kind = Kind.TEXT
    group: str = ""


Page = Sequence[Piece]


def index_page(instruction: str) -> Page:
    """The page with the search bar."""
    return [
        Piece("WebShop"),
        Piece("Instruction: "),
        *_texts(instruction),
        Piece(SEARCH, Kind.BUTTON),
    ]


def results_page(
    instruction: str, products: Sequence[Product], *, page_number: int, total: int
) -> Page:
    """One page of what a search found.

    Args:
        instruction: What the shopper was told.
        products: Products of this page.
        page_number: Counted from 1.
        total: Products found.
    """
    return [
        *_head(instruction),
        Piece(f"Page {page_number} (Total results: {total})"),
        *([Piece(PREVIOUS, Kind.BUTTON)] if page_number > 1 else []),
        Piece(NEXT, Kind.BUTTON),
        *(
            piece
            for product in products
            for piece in (
                Piece(product.asin, Kind.LINK),
                *_texts(product.name),
                Piece(product.price_text),
            )
        ),
    ]


def item_page(instruction: str, product: Product, *, rating: str, with_attributes: bool) -> Page:
    """The page of a product, with its options."""
    sub_pages = SUB_PAGES if with_attributes else SUB_PAGES[:-1]
    return [
        *_head(instruction),
        Piece(PREVIOUS, Kind.BUTTON),
        *(
            piece
            for group, values in product.options.items()
            for piece in (
                *_texts(group),
                *(Piece(value, Kind.OPTION, group) for value in values),
            )
        ),
        *_texts(product.name),
        Piece(f"Price: {product.price_text}"),
        Piece(f"Rating: {rating}"),
        *(Piece(name, Kind.BUTTON) for name in sub_pages),
        Piece(BUY, Kind.BUTTON),
    ]


def sub_page(instruction: str, product: Product, name: str, reviews: Sequence[Review]) -> Page:
    """One of the pages behind a product's page.

    Args:
        instruction: What the shopper was told.
        product: The product.
        name: One of `SUB_PAGES`.
        reviews: Reviews that are shown.
    """
    body: Iterator[Piece]
    if name == "Description":
        body = _texts(product.description)
    elif name == "Features":
        body = (Piece(f" {line}") for line in product.bullet_points)
    elif name == "Attributes":
        described = (product.category, product.query, product.product_category)
        body = iter(
            [
                *(Piece(f" {attribute}") for attribute in product.attributes),
                *(piece for text in described for piece in _texts(text)),
            ]
        )
    else:
        body = (
            piece
            for review in reviews
            for text in (f'"{review.title}"', review.stars, review.text)
            for piece in _texts(text)
        )
    return [*_head(instruction), Piece(PREVIOUS, Kind.BUTTON), *body]


def done_page(asin: str, options: dict[str, str], score: float) -> Page:
    """The page after a purchase. Most of its fields are left empty by the original."""
    fields = (
        *("Thank you for shopping with us!", "Your code: ", "None"),
        *(" (Paste it in your MTurk interface.)", "Purchased", "asin", asin),
        *("options", _script_json(options), "attrs", "None", "category", "None", "query", "None"),
        *("product category", "None", "Target", "asin", "options", "attrs", "price upper"),
        *("instuction text", "category", "product category", "query", "Goal ", "None", "Reward"),
        *("Your score (min 0.0, max 1.0)", str(score), "Reward Details ", "None"),
    )
    return [Piece(text) for text in fields]


def clickables(page: Page) -> dict[str, Piece]:
    """What can be clicked, by name: buttons, links, then options; a later name replaces."""
    found: dict[str, Piece] = {}
    for kind in (Kind.BUTTON, Kind.LINK):
        found |= {piece.text.lower(): piece for piece in page if piece.kind is kind}
    return found | {piece.text: piece for piece in page if piece.kind is Kind.OPTION}


def plain_text(page: Page) -> str:
    """The observation of the mode "text"."""
    return SEPARATOR.join(text.strip() for text, _ in _visible(page))


def rich_text(page: Page, *, url: str, visited: Container[str]) -> str:
    """The observation of the mode "text_rich".

    Args:
        page: The page.
        url: The page's address. An option counts as clicked if it stands in it in quotes, as in
            the original, where a query in quotes has the same effect.
        visited: Products that were looked at.
    """
    lines, notes = [], []
    for text, kind in _visible(page):
        mark = "button"
        if kind is Kind.BUTTON:
            lines.append(f"[button] {text} [button_]\n")
        elif kind is Kind.OPTION:
            if f'"{text}"' in url:
                mark = "clicked button"
                notes.append(f"You have clicked {text}.\n")
            lines.append(f"  [{mark}] {text} [{mark}_]\n")
        elif kind is Kind.LINK:
            mark = "clicked button" if text in visited else mark
            lines.append(f"\n[{mark}] {text} [{mark}_]\n")
        else:
            lines.append(f"{text}\n")
    return "".join([*reversed(notes), *lines])


def _head(instruction: str) -> Page:
    return [Piece("Instruction:"), *_texts(instruction), Piece(BACK, Kind.BUTTON)]


def _texts(text: str) -> Iterator[Piece]:
    """A piece for a text; an empty string is no string on an HTML page."""
    if text:
        yield Piece(text)


def _visible(page: Page) -> Iterator[tuple[str, Kind]]:
    """Texts as an HTML parser leaves them: bare white space shrinks, and new lines alone vanish."""
    for text, kind, _ in page:
        if text.strip(_HTML_SPACES):
            yield text, kind
        elif text and "\n" not in text:
            yield " ", kind


def _script_json(options: dict[str, str]) -> str:
    """JSON that is safe inside a script, as Flask writes it."""
    text = json.dumps(options, sort_keys=True)
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
