"""What generated shops sell: kinds of goods, what is said of them, and in which versions."""

from dataclasses import dataclass
from pathlib import Path

_TABLE = Path(__file__).with_name("goods.txt")

_COLOURS = (
    "black white red blue green grey pink yellow brown purple orange navy beige teal ivory burgundy"
)
_SCENTS = "lavender vanilla citrus rose mint coconut cedar unscented"
_FLAVOURS = "original honey chili lemon garlic cocoa ginger maple berry salted"

OPTION_VALUES: dict[str, tuple[str, ...]] = {
    "color": tuple(_COLOURS.split()),
    "scent": tuple(_SCENTS.split()),
    "flavor name": tuple(_FLAVOURS.split()),
    "size": ("x-small", "small", "medium", "large", "x-large", "xx-large"),
    "shoe size": ("6", "7", "8", "9", "10", "11", "12"),
    "item package quantity": ("pack of 1", "pack of 2", "pack of 4", "pack of 6", "pack of 12"),
    "bottle size": ("2 fl oz", "4 fl oz", "8 fl oz", "12 fl oz", "16 fl oz"),
    "length": ("3 ft", "6 ft", "10 ft", "15 ft", "25 ft"),
    "dimensions": (
        *("16x16 inch", "18x18 inch", "20x30 inch"),
        *("24x36 inch", "48x72 inch", "60x84 inch"),
    ),
    "capacity": ("32gb", "64gb", "128gb", "256gb", "512gb"),
    "style": ("classic", "modern", "sport", "travel", "deluxe"),
}
"""Values of each option group, in the order shown."""

SHADES = ("dark", "light", "matte", "bright")

DEPARTMENT_PATHS = {
    "beauty": "Beauty & Personal Care",
    "electronics": "Electronics",
    "fashion": "Clothing, Shoes & Jewelry",
    "garden": "Home & Kitchen",
    "grocery": "Grocery & Gourmet Food",
}
"""Departments, and how category paths in them begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of goods.

    Attributes:
        department: The shop's category.
        query: The search that its products are found with, in the plural.
        noun: What one of them is called.
        path: Categories below the department's.
        attributes: What can be true of one.
        options: Option groups that one can have.
        dollars: Least and most usual price.
    """

    department: str
    query: str
    noun: str
    path: tuple[str, ...]
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    dollars: tuple[int, int]


def _kind(line: str) -> Kind:
    department, query, noun, path, attributes, options, dollars = line.split(" | ")
    low, high = dollars.split("-")
    return Kind(
        department=department,
        query=query,
        noun=noun,
        path=tuple(path.split(" > ")),
        attributes=tuple(attributes.split(", ")),
        options=tuple(options.split(", ")),
        dollars=(int(low), int(high)),
    )


KINDS: tuple[Kind, ...] = tuple(
    _kind(line)
    for line in _TABLE.read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
"""All kinds, eight a department."""
