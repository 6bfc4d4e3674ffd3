"""Which goals are trained on and which are kept for evaluation; where each is found.

Lists are explicit, sorted and disjoint. The original draws prices and price caps without a seed and
shuffles the goals with one; the environments of the agent family give each worker a seed of its
own, so that goals of training are evaluated on. `goal_shuffle="verl_agent"` does that too.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from stepopsd_envs.text_env import SPLITS, require_choice
from stepopsd_envs.webshop.generator import FIRST_UNSEEN_SHOP, generate_products, shop_numbers
from stepopsd_envs.webshop.goals import Goal, GoalTable, draw_prices
from stepopsd_envs.webshop.official import find_files, read_products
from stepopsd_envs.webshop.products import CatalogueError
from stepopsd_envs.webshop.shop import MemoryShop, Shop
from stepopsd_envs.webshop.sizes import SIZE_SPECS, SIZES

GoalKind = Literal["synthetic", "human"]
GOAL_KINDS: tuple[GoalKind, ...] = ("synthetic", "human")
GoalShuffle = Literal["fixed", "verl_agent"]
GOAL_SHUFFLES: tuple[GoalShuffle, ...] = ("fixed", "verl_agent")

SHUFFLE_SEED = 233
"""The original's seed of the order of goals."""

SPLIT_SIZES = (500, 1000)
"""Goals of `valid_unseen` and of `valid_seen`: the original's test and development sets."""

WORKER_SEEDS = {"train": range(16), "valid_unseen": range(1000, 1128)}
"""Seeds of the workers of the agent family, with its 16 groups and 128 validation episodes."""

IN_MEMORY_BYTES = 500_000_000
"""Size of a product file above which its shop stays on disk and is searched with tantivy."""

_CACHED_SHOPS = 64
_CACHED_TABLES = 16
_SEEN_SHARE = 0.2  # of the training shops' products with goals
_TASK_ID = re.compile(r"(?P<source>[a-z_]+)-s(?P<shop>\d{5})-g(?P<goal>\d{7})")


class TaskIdError(ValueError):
    """A task id that names no task."""


class Task(NamedTuple):
    """A goal in its shop, and what the products of that shop cost."""

    goal: Goal
    shop: Shop
    prices: Sequence[float]


class TaskSource(Protocol):
    """The tasks of all splits, and the goal of each."""

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of a split, sorted."""
        ...

    def task(self, task_id: str) -> Task:
        """Returns the goal of an id and its shop."""
        ...


class _Goals(NamedTuple):
    shop: Shop
    prices: array[float]
    table: GoalTable


class GeneratedTasks:
    """Goals in generated shops; needs no file.

    `valid_seen` asks for products of the training shops that no training goal was made from,
    `valid_unseen` for products of other shops. What is asked for (kind, attributes, options) is
    never the same in two splits.
    """

    def __init__(self, size: str):
        """Picks the size, one of `sizes.SIZES`."""
        require_choice("size", size, SIZES)
        self._size = size

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of a split, sorted."""
        require_choice("split", split, SPLITS)
        return _generated_ids(self._size)[split]

    def task(self, task_id: str) -> Task:
        """Returns the goal of an id and its shop."""
        number, index = _parsed(task_id, self._size, self.tasks("train")[0])
        is_shop = any(number in shop_numbers(self._size, split) for split in SPLITS)
        if not is_shop or index >= len(generated_goals(self._size, number).table):
            raise _no_task(task_id, self.tasks("train")[0])
        goals = generated_goals(self._size, number)
        return Task(goals.table.goal(index), goals.shop, goals.prices)


class OfficialTasks:
    """Goals over the products of official files."""

    def __init__(
        self,
        data: str | Path | Mapping[str, str],
        *,
        human: bool,
        num_products: int | None,
        goal_seed: int,
        goal_shuffle: GoalShuffle,
        split_sizes: tuple[int, int],
    ):
        """Reads the files, once a process.

        Args:
            data: See `official.find_files`.
            human: Whether the goals are the human ones.
            num_products: See `official.read_products`.
            goal_seed: Seed of prices and price caps.
            goal_shuffle: "fixed", or "verl_agent" for a seed a worker.
            split_sizes: Goals of `valid_unseen` and of `valid_seen`, in this order from the
                beginning of the shuffled goals.
        """
        self._key = json.dumps(data if isinstance(data, Mapping) else str(data))
        self._num_products = num_products
        self._human = human
        self._goal_seed = goal_seed
        self._is_leaking = goal_shuffle == "verl_agent"
        self._split_sizes = split_sizes
        self._ids: dict[str, tuple[str, ...]] = {}

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of a split, sorted."""
        require_choice("split", split, SPLITS)
        if not self._ids:
            self._ids = self._leaking_ids() if self._is_leaking else self._fixed_ids()
        if not self._ids[split]:
            raise TaskIdError(
                f"split={split!r} has no goals with goal_shuffle='verl_agent': the agent family "
                "has no second validation set. Use 'valid_unseen'."
            )
        return self._ids[split]

    def task(self, task_id: str) -> Task:
        """Returns the goal of an id and its shop."""
        seed, place = _parsed(task_id, self._source, self.tasks("train")[0])
        seeds = itertools.chain(*WORKER_SEEDS.values()) if self._is_leaking else (self._goal_seed,)
        if seed not in seeds:
            raise _no_task(task_id, self.tasks("train")[0])
        goals, order = self._goals(seed)
        if place >= len(order):
            raise _no_task(task_id, self.tasks("train")[0])
        return Task(goals.table.goal(order[place]), goals.shop, goals.prices)

    @property
    def _source(self) -> str:
        return "human" if self._human else "synthetic"

    def _goals(self, seed: int) -> tuple[_Goals, array[int]]:
        shuffle_seed = seed if self._is_leaking else SHUFFLE_SEED
        return _official_goals(self._key, self._num_products, self._human, seed, shuffle_seed)

    def _fixed_ids(self) -> dict[str, tuple[str, ...]]:
        goals, order = self._goals(self._goal_seed)
        test, development = self._split_sizes
        if len(order) <= test + development:
            raise CatalogueError(
                f"split_sizes={list(self._split_sizes)}: the files give only {len(order)} "
                f"{self._source} goals, so that none is left to train on. Ask for fewer."
            )
        cuts = {
            "valid_unseen": range(test),
            "valid_seen": range(test, test + development),
            "train": range(test + development, len(order)),
        }
        # Options that come out alike make goals that come out alike: they stay in one split.
        table = goals.table
        taken: set[str] = set()
        fingerprints: set[int] = set()
        ids: dict[str, tuple[str, ...]] = {}
        for split, places in cuts.items():
            kept = [
                place
                for place in places
                if table.fingerprint(order[place]) not in fingerprints
                or table.goal(order[place]).instruction not in taken
            ]
            ids[split] = self._named(self._goal_seed, kept)
            if split != "train":  # the last, and perhaps millions
                taken |= {table.goal(order[place]).instruction for place in kept}
                fingerprints |= {table.fingerprint(order[place]) for place in kept}
        return ids

    def _leaking_ids(self) -> dict[str, tuple[str, ...]]:
        count = len(self._goals(0)[1])
        test = self._split_sizes[0]
        places = {"train": range(test, count), "valid_unseen": range(test)}
        ids = {
            split: tuple(
                name for seed in WORKER_SEEDS[split] for name in self._named(seed, places[split])
            )
            for split in places
        }
        return {**ids, "valid_seen": ()}

    def _named(self, seed: int, places: Sequence[int]) -> tuple[str, ...]:
        return tuple(f"{self._source}-s{seed:05d}-g{place:07d}" for place in places)


def task_source(
    data: str | Path | Mapping[str, str],
    size: str,
    *,
    goals: GoalKind,
    num_products: int | None,
    goal_seed: int,
    goal_shuffle: GoalShuffle,
    split_sizes: Sequence[int],
) -> TaskSource:
    """Returns the tasks that the environment's keys of these names ask for."""
    if num_products is not None and (type(num_products) is not int or num_products <= 0):
        raise ValueError(f"num_products={num_products!r} must be a whole number above 0.")
    if isinstance(goal_seed, bool) or not isinstance(goal_seed, int) or goal_seed < 0:
        raise ValueError(f"goal_seed={goal_seed!r} must be a whole number, at least 0.")
    sizes = tuple(split_sizes) if isinstance(split_sizes, Sequence) else ()
    if len(sizes) != 2 or not all(type(count) is int and count > 0 for count in sizes):
        raise ValueError(
            f"split_sizes={split_sizes!r} must be two whole numbers above 0: goals of valid_unseen "
            "and of valid_seen."
        )
    if data == "generated":
        for key, value, default in (
            ("goals", goals, "synthetic"),
            ("num_products", num_products, None),
            ("goal_shuffle", goal_shuffle, "fixed"),
            ("split_sizes", sizes, SPLIT_SIZES),
            ("goal_seed", goal_seed, SHUFFLE_SEED),
        ):
            if value != default:
                raise ValueError(
                    f"{key}={value!r} with data='generated': generated shops have synthetic goals "
                    "and splits of their own. Leave it out, or name official files in data."
                )
        return GeneratedTasks(size)
    return OfficialTasks(
        data,
        human=goals == "human",
        num_products=num_products,
        goal_seed=goal_seed,
        goal_shuffle=goal_shuffle,
        split_sizes=(sizes[0], sizes[1]),
    )


@functools.lru_cache(maxsize=_CACHED_SHOPS)
def generated_goals(size: str, number: int) -> _Goals:
    """Makes a generated shop and all its goals; shared between environments."""
    products = generate_products(size, number)
    shop = MemoryShop(products, where=f"generated shop {number}")
    rng = random.Random(f"goals/{size}/{number}")
    prices = draw_prices(shop.price_ranges(), rng)
    goods = shop.with_instructions(human=False)
    table = GoalTable(shop.product, goods, prices, rng, human=False)
    return _Goals(shop, prices, table)


@functools.lru_cache(maxsize=len(SIZES))
def _generated_ids(size: str) -> dict[str, tuple[str, ...]]:
    wanted = SIZE_SPECS[size].evaluation_goals
    rng = random.Random(f"splits/{size}")
    by_split: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    for number in (*shop_numbers(size, "train"), *shop_numbers(size, "valid_unseen")):
        table = generated_goals(size, number).table
        is_kept = {
            product: rng.random() < _SEEN_SHARE
            for product in dict.fromkeys(map(table.product_number, range(len(table))))
        }
        for index in range(len(table)):
            seen = "valid_seen" if is_kept[table.product_number(index)] else "train"
            split = "valid_unseen" if number >= FIRST_UNSEEN_SHOP else seen
            by_split[split].append((number, index))
    taken = {_request(size, *place) for place in by_split["train"]}
    for split in ("valid_seen", "valid_unseen"):
        fresh: list[tuple[int, int]] = []
        for place in rng.sample(by_split[split], len(by_split[split])):
            request = _request(size, *place)
            if request not in taken:
                taken.add(request)
                fresh.append(place)
        by_split[split] = sorted(fresh[:wanted])
    return {
        split: tuple(f"{size}-s{number:05d}-g{index:07d}" for number, index in places)
        for split, places in by_split.items()
    }


def _request(size: str, number: int, index: int) -> tuple[object, ...]:
    """What is asked for, without the price: in no two splits the same."""
    goal = generated_goals(size, number).table.goal(index)
    return goal.query, tuple(sorted(goal.attributes)), goal.options


@functools.lru_cache(maxsize=2)
def _official_shop(key: str, num_products: int | None) -> Shop:
    files = find_files(json.loads(key))
    if num_products is None and files.products.stat().st_size > IN_MEMORY_BYTES:
        from stepopsd_envs.webshop.disk_shop import open_disk_shop

        return open_disk_shop(files)
    products = read_products(files, num_products=num_products)
    return MemoryShop(products, where=str(files.products))


@functools.lru_cache(maxsize=_CACHED_TABLES)
def _official_goals(
    key: str, num_products: int | None, human: bool, seed: int, shuffle_seed: int
) -> tuple[_Goals, array[int]]:
    """All goals with prices drawn by a seed, and the order in which they are numbered."""
    shop = _official_shop(key, num_products)
    rng = random.Random(seed)
    prices = draw_prices(shop.price_ranges(), rng)
    goods = shop.with_instructions(human=human)
    table = GoalTable(shop.product, goods, prices, rng, human=human)
    if len(table) == 0:
        kind = "human" if human else "synthetic"
        raise CatalogueError(
            f"data={json.loads(key)!r}: none of its products has a {kind} instruction (and values "
            "in each of its option groups), so there are no goals. Choose "
            f"goals={'synthetic' if human else 'human'!r}, or other files."
        )
    order = list(range(len(table)))
    random.Random(shuffle_seed).shuffle(order)
    return _Goals(shop, prices, table), array("i", order)


def _parsed(task_id: str, source: str, known: str) -> tuple[int, int]:
    match = _TASK_ID.fullmatch(task_id) if isinstance(task_id, str) else None
    if match is None or match["source"] != source:
        raise _no_task(task_id, known)
    return int(match["shop"]), int(match["goal"])


def _no_task(task_id: str, known: str) -> TaskIdError:
    return TaskIdError(f"task={task_id!r} is none of these tasks. One is {known!r}.")
