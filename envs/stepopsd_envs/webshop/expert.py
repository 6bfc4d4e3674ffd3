"""Players of WebShop: one that knows the product, one that reads the pages, one that does not."""

from collections.abc import Iterator, Sequence

from stepopsd_envs.webshop import pages
from stepopsd_envs.webshop.goals import Goal
from stepopsd_envs.webshop.lucene_words import lucene_words
from stepopsd_envs.webshop.products import Product

_MAX_RESULT_PAGES = 5


class GoalExpert:
    """Knows what to buy and finds it by searching, paging and clicking.

    It reads only which names can be clicked. It looks through the pages of results of its first
    query, then searches for the title.
    """

    def __init__(self, goal: Goal, option_names: dict[str, str]):
        """Plans the episode.

        Args:
            goal: The goal; its product is bought.
            option_names: The values to click, by group.
        """
        self._wanted = goal.asin.lower()
        self._queries: Iterator[str] = iter([query_of(goal), goal.name.lower()])
        self._options = list(option_names.values())
        self._page_number = 0

    def act(self, clickables: Sequence[str]) -> str:
        """Returns the next action on a page where these names can be clicked."""
        if self._wanted in clickables:
            return f"click[{self._wanted}]"
        if pages.BUY.lower() in clickables:
            while self._options:
                option = self._options.pop(0)
                if option in clickables:
                    return f"click[{option}]"
            return f"click[{pages.BUY.lower()}]"
        if pages.NEXT.lower() in clickables and self._page_number < _MAX_RESULT_PAGES:
            self._page_number += 1
            return f"click[{pages.NEXT.lower()}]"
        self._page_number = 1
        return f"search[{next(self._queries, 'nothing')}]"


class ReadingShopper:
    """Sees what the policy sees: the goal's wording, the pages in the mode "text", the buttons.

    It takes the first product whose title names the kind of goods and every attribute asked for,
    and whose price keeps to the cap; a product that lacks an option is left again.
    """

    def __init__(self, goal: Goal):
        self._goal = goal
        self._kind = lucene_words(goal.query)[-1]
        self._values = [
            option[1] if isinstance(option, tuple) else option for option in goal.options
        ]
        self._chosen: list[str] = []
        self._refused: set[str] = set()
        self._open = ""
        self._pages_seen = 0

    def act(self, observation: str, clickables: Sequence[str], last_action: str) -> str:
        """Returns the next action.

        Args:
            observation: The page.
            clickables: What can be clicked on it.
            last_action: What led to it; not always what this player wanted.
        """
        pieces = observation.split(pages.SEPARATOR)
        if pages.BUY.lower() in clickables:
            return self._act_on_item(pieces, clickables, last_action)
        self._chosen = []
        if pages.NEXT.lower() in clickables:
            return self._act_on_results(pieces, clickables)
        if pages.PREVIOUS.lower() in clickables:
            return f"click[{pages.PREVIOUS.lower()}]"
        self._pages_seen = 0
        return f"search[{query_of(self._goal)}]"

    def _act_on_results(self, pieces: Sequence[str], clickables: Sequence[str]) -> str:
        products = [name for name in clickables if name not in _BUTTONS]
        for name in products:
            place = pieces.index(name.upper())
            if name not in self._refused and self._fits(pieces[place + 1], pieces[place + 2]):
                return f"click[{name}]"
        self._pages_seen += 1
        if products and self._pages_seen < _MAX_RESULT_PAGES:
            return f"click[{pages.NEXT.lower()}]"
        return f"click[{pages.BACK.lower()}]"

    def _act_on_item(
        self, pieces: Sequence[str], clickables: Sequence[str], last_action: str
    ) -> str:
        clicked = last_action.removeprefix("click[").removesuffix("]")
        if clicked in self._values:
            self._chosen.append(clicked)
        elif clicked[1:].isalnum() and any(character.isdigit() for character in clicked):
            self._open = clicked
        price = next(place for place, piece in enumerate(pieces) if piece.startswith("Price: "))
        missing = [value for value in self._values if value not in self._chosen]
        if not self._fits(pieces[price - 1], pieces[price].removeprefix("Price: ")) or any(
            value not in clickables for value in missing
        ):
            self._refused.add(self._open)
            self._chosen = []
            return f"click[{pages.PREVIOUS.lower()}]"
        return f"click[{missing[0] if missing else pages.BUY.lower()}]"

    def _fits(self, title: str, price: str) -> bool:
        dollars = float(price.split(" to ")[-1].removeprefix("$"))
        return (
            self._kind in lucene_words(title)
            and all(attribute in title.lower() for attribute in self._goal.attributes)
            and dollars <= self._goal.price_upper
        )


class FirstHitBuyer:
    """The baseline: searches for the instruction, opens the first product, buys it."""

    def __init__(self, instruction: str):
        self._instruction = instruction

    def act(self, clickables: Sequence[str]) -> str:
        """Returns the next action on a page where these names can be clicked."""
        if pages.BUY.lower() in clickables:
            return f"click[{pages.BUY.lower()}]"
        if pages.NEXT.lower() in clickables:
            products = [name for name in clickables if name not in _BUTTONS]
            return f"click[{products[0]}]" if products else "click[back to search]"
        return f"search[{self._instruction}]"


_BUTTONS = (pages.NEXT.lower(), pages.PREVIOUS.lower(), pages.BACK.lower())


def query_of(goal: Goal) -> str:
    """A short query for a goal: its attributes, the kind of goods and the options."""
    values = [option[1] if isinstance(option, tuple) else option for option in goal.options]
    return " ".join([*goal.attributes, goal.query, *values]).lower()


def wanted_options(goal: Goal, product: Product) -> dict[str, str]:
    """The option values to choose for a goal, by group.

    Human goals name values without groups; the first group that has a value is taken.
    """
    chosen: dict[str, str] = {}
    for option in goal.options:
        if isinstance(option, tuple):
            chosen[option[0]] = option[1]
            continue
        for group, values in product.options.items():
            if option in values and group not in chosen:
                chosen[group] = option
                break
    return chosen
