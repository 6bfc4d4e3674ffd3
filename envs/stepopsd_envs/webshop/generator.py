"""Generated shops: products that nobody has seen, goals for them, and their official file form.

A shop follows from its size and number alone, whatever the hash seed. Shops of evaluation have
numbers, brands and product identifiers of their own.
"""

import json
import random
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stepopsd_envs.text_env import require_choice
from stepopsd_envs.webshop.goods import DEPARTMENT_PATHS, KINDS, OPTION_VALUES, SHADES, Kind
from stepopsd_envs.webshop.products import Product, read_product
from stepopsd_envs.webshop.sizes import SIZE_SPECS, SIZES, SizeSpec

FIRST_UNSEEN_SHOP = 10_000
"""Numbers of the shops of `valid_unseen` begin here."""

_ASIN_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ASIN_SPACE = {"tiny": (10, 5), "small": (32, 8), "full": (32, 8)}
_ASIN_STEP = 387_420_489  # coprime to both bases: goes round the whole space in a scattered order
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_TITLES = (
    "Premium Everyday Classic Improved Portable Stylish Practical Compact Reliable Genuine "
    "Handy Elegant Sturdy Handmade Seasonal Authentic Refined Cheerful"
)
_TITLE_WORDS = _TITLES.split()
_CLOSINGS = (
    "for Home",
    "for Travel",
    "for Men and Women",
    "Gift Idea",
    "for Every Day",
    "New Model",
)
_BULLETS = (
    "{Attribute}: made for people who look for a {noun} that is {attribute}.",
    "What you get is a {noun}, {attribute} and checked by hand.",
    "We chose {attribute} so that you enjoy this {noun} for a long time.",
    "{Attribute} is what our customers praise most about this {noun}.",
)
_DESCRIPTIONS = (
    "The {line} {noun} by {brand} is at home in every household. It is {attributes}.",
    "{brand} has made its {line} {noun} with care: {attributes}. Try it and see for yourself.",
    "Meet {line}, the {noun} that is {attributes}. Sent the next day from our own store.",
)
_REVIEWS = (
    ("Just right", "The {noun} is exactly what I was looking for."),
    ("Good value", "Came quickly, looks as in the picture."),
    ("Not for me", "I had hoped for more from this {noun}."),
    ("Again and again", "My second {noun} of this brand and surely not the last."),
)


def shop_numbers(size: str, split: str) -> range:
    """Returns the numbers of the shops that a split's goals are for.

    `valid_seen` asks for other products of the training shops.
    """
    require_choice("size", size, SIZES)
    shops = SIZE_SPECS[size].shops
    if split == "valid_unseen":
        return range(FIRST_UNSEEN_SHOP, FIRST_UNSEEN_SHOP + shops["valid_unseen"])
    return range(shops["train"])


def generate_rows(size: str, number: int) -> dict[str, Any]:
    """Makes a shop in the form of the official files.

    Args:
        size: "tiny", "small" or "full".
        number: Number of the shop.

    Returns:
        By file stem: "items_shuffle" (list), "items_ins_v2" (by ASIN), "items_human_ins" (empty:
        nobody wrote for them), "reviews" (list).
    """
    require_choice("size", size, SIZES)
    spec = SIZE_SPECS[size]
    rng = random.Random(f"shop/{size}/{number}")  # a text seeds by its bytes, not by its hash
    brands = _brands(rng, number)
    kinds = _kinds_sold(spec, rng)
    items, annotations, reviews = [], {}, []
    names: set[str] = set()
    while len(items) < spec.products:
        index = len(items)
        item, annotation, review = _product(
            spec, kinds[index % len(kinds)], brands, rng, _asin(size, number, index)
        )
        if item["name"] in names:
            continue
        names.add(item["name"])
        items.append(item)
        annotations[item["asin"]] = annotation
        reviews.append(review)
    return {
        "items_shuffle": items,
        "items_ins_v2": annotations,
        "items_human_ins": {},
        "reviews": reviews,
    }


def generate_products(size: str, number: int) -> tuple[Product, ...]:
    """Makes the products of a shop, in the shop's order."""
    rows = generate_rows(size, number)
    return tuple(
        read_product(
            item,
            rows["items_ins_v2"][item["asin"]],
            (),
            review,
            where=f"generated shop {number}",
        )
        for item, review in zip(rows["items_shuffle"], rows["reviews"], strict=True)
    )


def write_shop(size: str, number: int, folder: str | Path) -> tuple[Path, ...]:
    """Writes a generated shop as the files that the original loads, and returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = generate_rows(size, number)
    count = len(rows["items_shuffle"])
    names = {
        "items_shuffle": f"items_shuffle_{count}.json",
        "items_ins_v2": f"items_ins_v2_{count}.json",
        "items_human_ins": "items_human_ins.json",
        "reviews": "reviews.json",
    }
    for stem, name in names.items():
        (folder / name).write_text(json.dumps(rows[stem]), encoding="utf-8")
    return tuple(folder / name for name in names.values())


def write_large_shop(products: int, folder: str | Path) -> tuple[Path, ...]:
    """Writes a shop of any size in the official form: one "full" shop after the other.

    Args:
        products: How many; a multiple of a full shop's 1,000.
        folder: Made if need be.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    size = SIZE_SPECS["full"].products
    if products <= 0 or products % size or products // size > FIRST_UNSEEN_SHOP:
        raise ValueError(f"products={products!r} must be a multiple of {size}, at most 10,000,000.")
    names = ("items_shuffle", "items_ins_v2", "items_human_ins")
    paths = tuple(folder / f"{name}.json" for name in names)
    with ExitStack() as stack:
        items, annotations, human = (
            stack.enter_context(path.open("w", encoding="utf-8")) for path in paths
        )
        for number in range(products // size):
            rows = generate_rows("full", number)
            for file, name in ((items, names[0]), (annotations, names[1])):
                text = json.dumps(rows[name])
                file.write(f"{text[0] if number == 0 else ','}{text[1:-1]}")
        items.write("]")
        annotations.write("}")
        human.write("{}")
    return paths


def _asin(size: str, number: int, index: int) -> str:
    """A distinct identifier for each product of all shops of a size, scattered over its space."""
    base, digits = _ASIN_SPACE[size]
    space = base**digits
    # Evaluation shops come from the upper half of the numbers.
    shop = number if number < FIRST_UNSEEN_SHOP else number - FIRST_UNSEEN_SHOP + space // 2000
    value = (shop * SIZE_SPECS[size].products + index) * _ASIN_STEP % space
    text = ""
    for _ in range(digits):
        value, digit = divmod(value, base)
        text = _ASIN_LETTERS[digit] + text
    return f"B{text}" if size == "tiny" else f"B0{text}"


def _brands(rng: random.Random, number: int) -> list[str]:
    """Made-up names; those of evaluation end otherwise than those of training."""
    ending = "x" if number >= FIRST_UNSEEN_SHOP else ""
    names: set[str] = set()
    while len(names) < 30:
        syllables = [rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(2)]
        names.add(("".join(syllables) + ending).capitalize())
    return sorted(names)


def _kinds_sold(spec: SizeSpec, rng: random.Random) -> list[Kind]:
    departments = list(DEPARTMENT_PATHS)
    pool = [
        kind
        for department in departments
        for kind in [kind for kind in KINDS if kind.department == department][: spec.kind_pool]
    ]
    return rng.sample(pool, min(spec.kinds, len(pool)))


def _product(
    spec: SizeSpec, kind: Kind, brands: Sequence[str], rng: random.Random, asin: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """One product: its entries in the products, the annotations and the reviews."""
    attributes = rng.sample(
        kind.attributes, min(len(kind.attributes), rng.randint(*spec.attributes))
    )
    brand = rng.choice(brands)
    line = rng.choice(brands)
    item = {
        "asin": asin,
        "name": _title(spec, kind, brand, line, attributes, rng),
        "full_description": rng.choice(_DESCRIPTIONS).format(
            line=line, noun=kind.noun, brand=brand, attributes=", ".join(attributes)
        ),
        "small_description": _bullets(spec, kind, attributes, rng),
        "pricing": _pricing(spec, kind, rng),
        "images": [f"https://example.com/{asin}.jpg"],
        "product_category": " › ".join([DEPARTMENT_PATHS[kind.department], *kind.path]),
        "customization_options": {
            group: [{"value": value, "image": None} for value in values]
            for group, values in _options(spec, kind, rng).items()
        },
        "category": kind.department,
        "query": kind.query,
        "page": 1,
    }
    annotation: dict[str, Any] = {"attributes": attributes}
    if rng.random() < spec.goal_share:
        asked = rng.sample(attributes, min(len(attributes), rng.randint(*spec.asked)))
        annotation["instruction"] = f"Find me {', '.join(asked)} {kind.query}"
        annotation["instruction_attributes"] = asked
    return item, annotation, _review(spec, kind, asin, rng)


def _title(
    spec: SizeSpec,
    kind: Kind,
    brand: str,
    line: str,
    attributes: Sequence[str],
    rng: random.Random,
) -> str:
    words = rng.sample(_TITLE_WORDS, rng.randint(*spec.title_words))
    if not words:
        return f"{brand} {' '.join(attributes)} {kind.noun}"
    cut = len(words) // 2
    shown = ", ".join(map(str.title, attributes[:3]))
    return (
        f"{brand} {line} {' '.join(words[:cut])} {kind.noun.title()} {shown} "
        f"{' '.join(words[cut:])} {rng.choice(_CLOSINGS)}"
    )


def _bullets(
    spec: SizeSpec, kind: Kind, attributes: Sequence[str], rng: random.Random
) -> list[str]:
    count = rng.randint(*spec.bullets)
    if count == 1:
        return [", ".join(attributes)]
    return [
        rng.choice(_BULLETS).format(
            Attribute=attributes[index % len(attributes)].capitalize(),
            attribute=attributes[index % len(attributes)],
            noun=kind.noun,
        )
        for index in range(count)
    ]


def _pricing(spec: SizeSpec, kind: Kind, rng: random.Random) -> str:
    low, high = kind.dollars
    price = rng.randint(low, high)
    if spec.price_ranges == 0:
        return f"${price}.00"
    first = f"${price}.{rng.choice(('00', '49', '50', '95', '99'))}"
    if rng.random() >= spec.price_ranges:
        return first
    return f"{first} to ${price + rng.randint(2, 15)}.99"


def _options(spec: SizeSpec, kind: Kind, rng: random.Random) -> dict[str, list[str]]:
    count = min(len(kind.options), rng.randint(*spec.option_groups))
    chosen = sorted(rng.sample(kind.options, count), key=kind.options.index)
    groups = {}
    for group in chosen:
        known = OPTION_VALUES[group]
        picked = set(rng.sample(known, min(len(known), rng.randint(*spec.option_values))))
        values = [value for value in known if value in picked]
        if group == "color":
            values = [
                f"{rng.choice(SHADES)} {value}" if rng.random() < spec.compound_values else value
                for value in values
            ]
        groups[group] = values
    return groups


def _review(spec: SizeSpec, kind: Kind, asin: str, rng: random.Random) -> dict[str, Any]:
    stars = [rng.randint(1, 5) for _ in range(rng.randint(*spec.reviews))]
    written = [rng.choice(_REVIEWS) for _ in stars]
    return {
        "asin": asin,
        "average_rating": f"{sum(stars) / len(stars):.1f}" if stars else "N.A.",
        "reviews": [
            {"title": title, "stars": star, "review": text.format(noun=kind.noun)}
            for star, (title, text) in zip(stars, written, strict=True)
        ],
    }
