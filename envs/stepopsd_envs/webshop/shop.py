"""A shop: its products, found by identifier or by search. Shared by all sessions, never changed."""

import functools
from collections.abc import Iterable, Sequence
from typing import Protocol

from stepopsd_envs.bm25 import BM25, lucene_length
from stepopsd_envs.webshop.lucene_words import lucene_words
from stepopsd_envs.webshop.products import CatalogueError, Product

SEARCH_RESULTS = 50
"""Most products that a search returns."""

MAX_QUERY_CHARACTERS = 2000
"""A longer query is searched by its beginning."""

_CACHED_SEARCHES = 4096


class Shop(Protocol):
    """Products by number, in the shop's order."""

    def __len__(self) -> int:
        """The number of products."""
        ...

    def product(self, number: int) -> Product:
        """Returns a product."""
        ...

    def number(self, asin: str) -> int:
        """Returns the number of an ASIN, in capital letters."""
        ...

    def search(self, query: str) -> Sequence[int]:
        """Returns the numbers of at most `SEARCH_RESULTS` products, best first."""
        ...

    def price_ranges(self) -> Iterable[Sequence[float]]:
        """Returns the price, or the ends of a range, of each product."""
        ...

    def with_instructions(self, *, human: bool) -> Iterable[tuple[int, Product]]:
        """Returns numbers and products that have human, or synthetic, instructions."""
        ...


class MemoryShop:
    """A shop of up to about 100,000 products in memory."""

    def __init__(self, products: Sequence[Product], *, where: str):
        """Indexes the products; `where` names them in errors."""
        if not products:
            raise CatalogueError(f"{where}: no products. Name files that hold some.")
        self._products = tuple(products)
        self._numbers = {
            product.asin.upper(): number for number, product in enumerate(self._products)
        }
        self._index = BM25(
            (product.search_text() for product in self._products),
            analyze=lucene_words,
            remembered_length=lucene_length,
        )
        self._cached = functools.lru_cache(maxsize=_CACHED_SEARCHES)(self._search)

    def __len__(self) -> int:
        """The number of products."""
        return len(self._products)

    def product(self, number: int) -> Product:
        """Returns a product."""
        return self._products[number]

    def number(self, asin: str) -> int:
        """Returns the number of an ASIN, in capital letters."""
        return self._numbers[asin]

    def search(self, query: str) -> Sequence[int]:
        """Returns the numbers of at most `SEARCH_RESULTS` products, best first."""
        return self._cached(query[:MAX_QUERY_CHARACTERS])

    def price_ranges(self) -> Iterable[Sequence[float]]:
        """Returns the price, or the ends of a range, of each product."""
        return (product.prices for product in self._products)

    def with_instructions(self, *, human: bool) -> Iterable[tuple[int, Product]]:
        """Returns numbers and products that have human, or synthetic, instructions."""
        return (
            (number, product)
            for number, product in enumerate(self._products)
            if (product.human if human else product.instruction is not None)
        )

    def _search(self, query: str) -> tuple[int, ...]:
        code, _, rest = query.partition(" ")
        if code in _LISTED_BY:
            field = _LISTED_BY[code]
            wanted = rest.split(" ")[0].strip() if code == "<c>" else rest.strip()
            return tuple(
                number for number, product in enumerate(self._products) if wanted in field(product)
            )
        numbers, _ = self._index.best(query, SEARCH_RESULTS)
        return tuple(numbers.tolist())


# Codes that the original understands in place of a query. Its fourth, "<r>", draws products at
# random, so that two visits of one page would differ; it is taken for words here.
_LISTED_BY = {
    "<c>": lambda product: (product.category,),
    "<q>": lambda product: (product.query,),
    "<a>": lambda product: product.attributes,
}
