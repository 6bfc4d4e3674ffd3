"""One shopping session: which page is shown, and what an action does. WebShop's state machine.

The order in which names are tried, and what each does, is the original's, quirks included: a search
is understood on any page, a page of results never ends the list, "Back to Search" forgets options
and visits, and two option groups that share a value set the last of them.
"""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from stepopsd_envs.webshop import pages
from stepopsd_envs.webshop.pages import Kind, ObservationMode, Page
from stepopsd_envs.webshop.products import NO_RATING, Product
from stepopsd_envs.webshop.reward import Score
from stepopsd_envs.webshop.shop import Shop

RESULTS_PER_PAGE = 10
_SITE = "http://127.0.0.1:3000"
_SESSION = "session"
_ACTION = re.compile(r"(.+)\[(.+)\]")

Buy = Callable[[Product, dict[str, str]], Score]
"""Scores a purchase of a product with the options chosen."""


class Effect(NamedTuple):
    """What an action did.

    Attributes:
        is_executed: Whether the page had such an action; otherwise nothing happened.
        purchase: The score of what was bought, or None.
    """

    is_executed: bool
    purchase: Score | None = None


class Session:
    """A shopper before a page."""

    def __init__(
        self,
        instruction: str,
        *,
        shop: Shop,
        buy: Buy,
        results_per_page: int = RESULTS_PER_PAGE,
        show_attributes: bool = False,
        show_reviews: bool = False,
    ):
        """Begins before the search bar.

        Args:
            instruction: What the shopper is told.
            shop: Where to shop.
            buy: Scores a purchase.
            results_per_page: Products on a page of results.
            show_attributes: Whether a product's annotations have a page.
            show_reviews: Whether ratings and reviews are filled in.
        """
        self._instruction = instruction
        self._shop = shop
        self._buy = buy
        self._results_per_page = results_per_page
        self._show_attributes = show_attributes
        self._show_reviews = show_reviews
        self.asin: str | None = None
        self.options: dict[str, str] = {}
        self._visited: set[str] = set()
        self._keywords: list[str] = []
        self._page_number = 1
        self._open_index()

    @property
    def has_search_bar(self) -> bool:
        """Whether the page shows a search bar."""
        return self._has_search_bar

    @property
    def clickables(self) -> tuple[str, ...]:
        """Names that can be clicked on, in the original's order."""
        return tuple(self._clickables)

    def observation(self, mode: ObservationMode) -> str:
        """What the page says."""
        if mode == "text":
            return pages.plain_text(self._page)
        return pages.rich_text(self._page, url=self._url, visited=self._visited)

    def act(self, action: str) -> Effect:
        """Does `search[words]` or `click[name]`; anything else leaves the page as it is."""
        match = _ACTION.match(action)
        if match is None:
            return Effect(False)
        name, argument = match[1], match[2].lower()
        if name == "search":
            self._keywords = argument.split(" ")
            self._open_results(1)
            return Effect(True)
        if name == "click" and argument in self._clickables and argument != "search":
            return self._click(argument)
        return Effect(False)

    def _click(self, name: str) -> Effect:
        place = self._place()
        if name == pages.BUY.lower():
            return Effect(True, self._purchase())
        if name == pages.BACK.lower():
            self._forget()
            self._open_index()
        elif name == pages.NEXT.lower() and place == "search_results":
            self._open_results(self._page_number + 1)
        elif name == pages.PREVIOUS.lower() and place == "search_results":
            self._open_results(self._page_number - 1)
        elif name == pages.PREVIOUS.lower() and place == "item_sub_page":
            self._open_item()
        elif name == pages.PREVIOUS.lower() and place == "item_page":
            self._open_results(self._page_number)
        elif name in _SUB_PAGE_OF:
            self._open_sub_page(_SUB_PAGE_OF[name])
        else:
            self._choose(name)
            self._open_item()
        return Effect(True)

    def _choose(self, name: str) -> None:
        """Takes note of a product opened or an option chosen."""
        piece = self._clickables[name]
        if piece.kind is Kind.LINK:
            self.asin = name.upper()
            self._visited.add(self.asin)
        elif piece.kind is Kind.OPTION:
            self.options[piece.group.lower()] = name

    def _purchase(self) -> Score:
        product = self._product()
        score = self._buy(product, self.options)
        self._show(pages.done_page(product.asin, self.options, score.total), "done")
        return score

    def _forget(self) -> None:
        self.asin = None
        self.options = {}
        self._visited = set()

    def _open_index(self) -> None:
        self._show(pages.index_page(self._instruction), "", has_search_bar=True)

    def _open_results(self, page_number: int) -> None:
        self._page_number = page_number
        self.asin = None
        self.options = {}
        found = self._shop.search(" ".join(self._keywords))
        start = (page_number - 1) * self._results_per_page
        shown = [
            self._shop.product(number) for number in found[start : start + self._results_per_page]
        ]
        self._show(
            pages.results_page(self._instruction, shown, page_number=page_number, total=len(found)),
            f"search_results/{_SESSION}/{'+'.join(self._keywords)}/{page_number}",
        )

    def _open_item(self) -> None:
        product = self._product()
        rating = product.rating if self._show_reviews else NO_RATING
        page = pages.item_page(
            self._instruction, product, rating=rating, with_attributes=self._show_attributes
        )
        self._show(page, f"item_page/{self._path()}/{json.dumps(self.options)}")

    def _open_sub_page(self, name: str) -> None:
        product = self._product()
        reviews = product.reviews if self._show_reviews else ()
        page = pages.sub_page(self._instruction, product, name, reviews)
        self._show(page, f"item_sub_page/{self._path()}/{name}/{self.options}")

    def _path(self) -> str:
        return f"{_SESSION}/{self.asin}/{'+'.join(self._keywords)}/{self._page_number}"

    def _show(self, page: Page, path: str, *, has_search_bar: bool = False) -> None:
        self._page = page
        self._url = f"{_SITE}/{path}"
        self._clickables = pages.clickables(page)
        self._has_search_bar = has_search_bar

    def _place(self) -> str:
        """Name of the page, found in its address, where a query can pretend another one."""
        return next((name for name in _PLACES if name in self._url), "")

    def _product(self) -> Product:
        if self.asin is None:
            raise RuntimeError("No product is open.")
        return self._shop.product(self._shop.number(self.asin))


_PLACES = ("search_results", "item_page", "item_sub_page", "done")
_SUB_PAGE_OF = {name.lower(): name for name in pages.SUB_PAGES}
