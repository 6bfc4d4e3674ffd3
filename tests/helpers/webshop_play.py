"""Shoppers for comparing two implementations: random ones, and ones that know the goal."""

import random
from collections.abc import Sequence

from stepopsd_envs.webshop.expert import GoalExpert, query_of
from stepopsd_envs.webshop.goals import Goal
from stepopsd_envs.webshop.products import Product

_ODD_ACTIONS = (
    "",
    "search",
    "search[]",
    "search[ ]",
    "search[a] and click[b]",
    "click[nothing of the kind]",
    "click[search]",
    "click[Search]",
    "CLICK[back to search]",
    "click [back to search]",
    "click[back to search] please",
    "search[the of and]",
    'search["red" "large" "small"]',
    "search[item_page done search_results]",
    "search[[red]]",
    "search[café été 中]",
    "search[<q> throw pillows]",
    "search[<c> fashion]",
    "search[" + "very long " * 1000 + "]",
    "search[two\nlines]",
)


def random_action(
    goal: Goal, product: Product, clickables: Sequence[str], rng: random.Random
) -> str:
    """Draws an action: mostly one that the page has, sometimes one that it has not."""
    draw = rng.random()
    if draw < 0.06:
        return rng.choice(_ODD_ACTIONS)
    if draw < 0.2 or not clickables or tuple(clickables) == ("search",):
        words = f"{query_of(goal)} {product.name}".split()
        chosen = rng.sample(words, min(len(words), rng.randint(1, 8)))
        return f"search[{' '.join(chosen)}]"
    names = [name for name in clickables if name != "buy now" or rng.random() < 0.3]
    name = rng.choice(names)
    if rng.random() < 0.2:
        name = name.upper()
    return f"click[{name}]"


class Shopper:
    """Plays one episode: at random, as the expert, or as the expert with random steps between."""

    def __init__(
        self,
        goal: Goal,
        product: Product,
        options: dict[str, str],
        rng: random.Random,
        *,
        randomness: float,
    ):
        """Takes the share of random steps."""
        self._goal, self._product, self._rng = goal, product, rng
        self._expert = GoalExpert(goal, options)
        self._randomness = randomness

    def act(self, clickables: Sequence[str]) -> str:
        """Returns the next action."""
        if self._rng.random() < self._randomness:
            return random_action(self._goal, self._product, clickables, self._rng)
        return self._expert.act(clickables)
