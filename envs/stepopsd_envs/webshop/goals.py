"""What shoppers are asked to buy: synthetic goals, one for each combination of options, and human.

Prices and price caps are drawn; every draw comes from the generator that is handed over, in the
original's order, so that the same stream of random numbers gives the same goals.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stepopsd_envs.webshop.products import CatalogueError, Product

NO_CAP = 1_000_000.0
"""Price cap, in dollars, of a product that costs more than every step."""

_PRICE_STEPS = [10.0 * step for step in range(1, 100)]
_STEPS_DRAWN_FROM = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What to buy.

    Attributes:
        asin: The product that the goal was made from.
        instruction: What the shopper is told.
        attributes: Attributes that are scored; at least one.
        options: Options that are scored: pairs of group and value, or values alone (human goals).
        price_upper: Most the purchase may cost, in dollars.
        name: Title of the product.
        category: Department of the product.
        query: The search that it was found with.
        product_category: Path of categories of the product.
    """

    asin: str
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, str], ...] | tuple[str, ...]
    price_upper: float
    name: str
    category: str
    query: str
    product_category: str


def draw_prices(ranges: Iterable[Sequence[float]], rng: random.Random) -> array[float]:
    """Returns what each product costs: a price range is drawn from uniformly.

    Args:
        ranges: A price, or the ends of a range, of each product in the shop's order.
        rng: Moves on once for each range.
    """
    return array("d", (ends[0] if len(ends) == 1 else rng.uniform(*ends) for ends in ranges))


def draw_price_cap(price: float, rng: random.Random) -> float:
    """Returns the higher of two of the next four steps of ten dollars above a price."""
    steps = [step for step in _PRICE_STEPS if step > price][:_STEPS_DRAWN_FROM]
    if len(steps) < 2:
        return NO_CAP
    return max(rng.sample(steps, 2))


class GoalTable:
    """All goals over a list of products, in the original's order; each is made when asked for."""

    def __init__(
        self,
        product_of: Callable[[int], Product],
        products: Iterable[tuple[int, Product]],
        prices: Sequence[float],
        rng: random.Random,
        *,
        human: bool,
    ):
        """Draws the price caps.

        Args:
            product_of: Finds a product by its number.
            products: Numbers and products that goals are made from, in the shop's order.
            prices: By number.
            rng: Moves on once for each synthetic product, or each human instruction.
            human: Whether the goals are the human ones.
        """
        self._product_of = product_of
        self._human = human
        self._numbers, self._variants, self._caps = array("i"), array("q"), array("d")
        self._fingerprints = array("q")
        for number, product in products:
            if human:
                self._add_human(number, product, prices[number], rng)
            elif product.instruction is not None:
                self._add_synthetic(number, product, prices[number], rng)

    def __len__(self) -> int:
        """The number of goals."""
        return len(self._numbers)

    def product_number(self, index: int) -> int:
        """Returns the number of the product that a goal was made from."""
        return self._numbers[index]

    def fingerprint(self, index: int) -> int:
        """A number that goals have in common whose instructions are the same, in this process."""
        return self._fingerprints[index]

    def goal(self, index: int) -> Goal:
        """Makes a goal."""
        product = self._product_of(self._numbers[index])
        variant, cap = self._variants[index], self._caps[index]
        price_text = "" if cap == NO_CAP else f", and price lower than {cap:.2f} dollars"
        if self._human:
            asked = product.human[variant]
            text = asked.text.strip(".") + price_text
            return _goal(product, text, asked.attributes, asked.options, cap)
        options = tuple(_combination(product, variant))
        with_options = ", and ".join(f"{name}: {value}" for name, value in options)
        with_options = f" with {with_options}" if with_options else ""
        text = f"{product.instruction}{with_options}{price_text}"
        return _goal(product, text, product.instruction_attributes, options, cap)

    def _add_human(self, number: int, product: Product, price: float, rng: random.Random) -> None:
        for variant, asked in enumerate(product.human):
            if asked.attributes:
                self._add(number, variant, draw_price_cap(price, rng), asked.text.strip("."))

    def _add_synthetic(
        self, number: int, product: Product, price: float, rng: random.Random
    ) -> None:
        if not product.instruction_attributes:
            raise CatalogueError(
                f"product {product.asin}: it has an instruction but no instruction_attributes, so "
                "that a purchase could not be scored. Add them, or remove the instruction."
            )
        cap = draw_price_cap(price, rng)
        for variant in range(math.prod(map(len, product.options.values()))):
            self._add(number, variant, cap, product.instruction)

    def _add(self, number: int, variant: int, cap: float, text: str | None) -> None:
        self._numbers.append(number)
        self._variants.append(variant)
        self._caps.append(cap)
        self._fingerprints.append(hash((text, cap)))


def _combination(product: Product, variant: int) -> Iterable[tuple[str, str]]:
    """The `variant`-th combination of option values, groups sorted, the last moving fastest."""
    names = sorted(product.options)
    sizes = [len(product.options[name]) for name in names]
    following = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
    for name, size, weight in zip(names, sizes, following, strict=True):
        yield name, product.options[name][variant // weight % size]


def _goal(
    product: Product,
    instruction: str,
    attributes: tuple[str, ...],
    options: tuple[tuple[str, str], ...] | tuple[str, ...],
    price_upper: float,
) -> Goal:
    return Goal(
        asin=product.asin,
        instruction=instruction,
        attributes=attributes,
        options=options,
        price_upper=price_upper,
        name=product.name,
        category=product.category,
        query=product.query,
        product_category=product.product_category,
    )
