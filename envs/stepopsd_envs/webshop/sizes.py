"""How large generated shops are: tiny, small, and full as the official set of 1,000 products."""

from collections.abc import Mapping
from dataclasses import dataclass

SIZES = ("tiny", "small", "full")


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeSpec:
    """How large a shop is; every pair is (least, most).

    Attributes:
        products: Products of a shop.
        kinds: Kinds of goods that a shop sells.
        kind_pool: Kinds that shops choose from, of each department.
        goal_share: Share of the products that goals are made from; the others are bystanders.
        attributes: Attributes of a product.
        asked: Attributes that a goal asks for.
        option_groups: Option groups of a product.
        option_values: Values of a group.
        compound_values: Share of the colours that have a shade.
        price_ranges: Share of the products whose price is a range.
        title_words: Extra words of a title.
        bullets: Lines of the page "Features".
        reviews: Reviews of a product.
        results_per_page: Products on a page of results.
        shops: Shops of the training split and, with numbers of their own, of `valid_unseen`.
        evaluation_goals: Goals of each evaluation split.
    """

    products: int
    kinds: int
    kind_pool: int
    goal_share: float
    attributes: tuple[int, int]
    asked: tuple[int, int]
    option_groups: tuple[int, int]
    option_values: tuple[int, int]
    compound_values: float
    price_ranges: float
    title_words: tuple[int, int]
    bullets: tuple[int, int]
    reviews: tuple[int, int]
    results_per_page: int
    shops: Mapping[str, int]
    evaluation_goals: int


SIZE_SPECS: dict[str, SizeSpec] = {
    "tiny": SizeSpec(
        products=40,
        kinds=8,
        kind_pool=2,
        goal_share=1.0,
        attributes=(2, 3),
        asked=(1, 2),
        option_groups=(1, 2),
        option_values=(2, 3),
        compound_values=0.0,
        price_ranges=0.0,
        title_words=(0, 0),
        bullets=(1, 1),
        reviews=(0, 1),
        results_per_page=4,
        shops={"train": 48, "valid_unseen": 4},
        evaluation_goals=256,
    ),
    "small": SizeSpec(
        products=150,
        kinds=16,
        kind_pool=6,
        goal_share=0.6,
        attributes=(3, 5),
        asked=(1, 3),
        option_groups=(0, 2),
        option_values=(2, 5),
        compound_values=0.2,
        price_ranges=0.15,
        title_words=(2, 5),
        bullets=(2, 4),
        reviews=(0, 3),
        results_per_page=10,
        shops={"train": 8, "valid_unseen": 2},
        evaluation_goals=400,
    ),
    "full": SizeSpec(
        products=1000,
        kinds=40,
        kind_pool=8,
        goal_share=0.42,
        attributes=(4, 8),
        asked=(2, 5),
        option_groups=(0, 2),
        option_values=(2, 9),
        compound_values=0.35,
        price_ranges=0.15,
        title_words=(4, 12),
        bullets=(3, 6),
        reviews=(0, 5),
        results_per_page=10,
        shops={"train": 1, "valid_unseen": 1},
        evaluation_goals=500,
    ),
}
