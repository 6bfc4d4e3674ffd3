"""Against the original's own code: pages, actions, rewards, goals, prices.

On genuine products, on generated shops in the form of its files, and on hostile ones.
"""

import json
import os
import random
from pathlib import Path

import pytest
from stepopsd_envs.webshop.expert import wanted_options
from stepopsd_envs.webshop.generator import write_shop
from stepopsd_envs.webshop.nouns import packaged_nouns
from stepopsd_envs.webshop.official import OfficialFiles, find_files, read_products
from stepopsd_envs.webshop.reward import score_purchase
from stepopsd_envs.webshop.session import Session
from stepopsd_envs.webshop.sizes import SIZES
from stepopsd_envs.webshop.tasks import SHUFFLE_SEED, OfficialTasks, Task

from tests.helpers.webshop_original import Original, Reply
from tests.helpers.webshop_play import Shopper

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("WEBSHOP_DATA", ROOT / "../shared/data/webshop_real"))
ORIGINAL = os.environ.get("WEBSHOP_ORIGINAL")
STEPS = int(os.environ.get("WEBSHOP_STEPS", "600"))
FEWER_STEPS = max(200, STEPS // 7)
"""On each shop that is not genuine."""
MAX_TURNS = 30

pytestmark = pytest.mark.skipif(
    ORIGINAL is None,
    reason="WEBSHOP_ORIGINAL names no checkout of the original WebShop (princeton-nlp/WebShop)",
)


def tasks_of(files: OfficialFiles, *, human: bool, split_sizes: tuple[int, int]) -> OfficialTasks:
    return OfficialTasks(
        str(files.products.parent),
        human=human,
        num_products=None,
        goal_seed=SHUFFLE_SEED,
        goal_shuffle="fixed",
        split_sizes=split_sizes,
    )


@pytest.fixture(autouse=True)
def needed_packages() -> None:
    for package in ("flask", "bs4", "thefuzz"):
        pytest.importorskip(package, reason=f"the original needs {package}")


@pytest.fixture(scope="module")
def files() -> OfficialFiles:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} holds no WebShop data (WEBSHOP_DATA)")
    return find_files(DATA)


def original_of(files: OfficialFiles, tasks: OfficialTasks, *, human: bool) -> Original:
    shop = tasks.task(tasks.tasks("train")[0]).shop
    assert ORIGINAL is not None
    return Original(
        Path(ORIGINAL), files, shop, nouns=packaged_nouns, human=human, seed=SHUFFLE_SEED
    )


def session_of(task: Task, **settings: bool) -> Session:
    shop = task.shop

    def buy(product, options):
        price = task.prices[shop.number(product.asin)]
        return score_purchase(product, options, price, task.goal, nouns=packaged_nouns)

    return Session(
        task.goal.instruction,
        shop=shop,
        buy=buy,
        **settings,
    )


def reply_of(session: Session, reward: float = 0.0, done: bool = False) -> Reply:
    return Reply(
        text=session.observation("text"),
        rich=session.observation("text_rich"),
        has_search_bar=session.has_search_bar,
        clickables=session.clickables,
        reward=reward,
        done=done,
    )


@pytest.mark.parametrize("human", [False, True])
def test_goals_and_prices_are_the_originals_for_the_same_random_numbers(files, human: bool):
    compare_goals(files, human=human, split_sizes=(3, 3) if human else (500, 1000))


def compare_goals(files: OfficialFiles, *, human: bool, split_sizes: tuple[int, int]) -> None:
    tasks = tasks_of(files, human=human, split_sizes=split_sizes)
    original = original_of(files, tasks, human=human)
    products = read_products(files)
    first = tasks.task(tasks.tasks("train")[0])
    assert [original.prices[product.asin] for product in products] == list(first.prices)
    ids = sorted(
        (name for split in ("train", "valid_seen", "valid_unseen") for name in tasks.tasks(split)),
        key=lambda name: name.rpartition("-g")[2],
    )
    assert len(ids) > 0
    for name in ids:
        goal, theirs = tasks.task(name).goal, original.goals[int(name.rpartition("-g")[2])]
        assert goal.instruction == theirs["instruction_text"]
        assert goal.asin == theirs["asin"]
        assert list(goal.attributes) == theirs["attributes"]
        assert goal.price_upper == theirs["price_upper"]
        options = theirs["goal_options"]
        assert list(goal.options) == (options if human else list(options.items()))


def test_every_step_is_the_originals(files):
    assert compare_steps(files, STEPS, split_sizes=(500, 1000)) > 0


@pytest.mark.parametrize("size", SIZES)
def test_the_original_loads_a_generated_shop_and_plays_it_alike(size: str, tmp_path: Path):
    write_shop(size, 0, tmp_path)
    files = find_files(tmp_path)
    compare_goals(files, human=False, split_sizes=(50, 100))
    assert compare_steps(files, FEWER_STEPS, split_sizes=(50, 100)) > 0


HOSTILE_OPTIONS = (
    {"color": ["Red", "red ", "RED"], "size": ["red", "L/XL"]},
    {
        "color": ["Buy Now", "< Prev", "Search", "description"],
        "Style": ["Next >", "back to search"],
    },
    {"color": [" ", "a [SEP] b", "<b>", "[x]"], "size": ["]", "click[red]", "'\"&amp;"]},
    {},
)


def test_a_hostile_shop_is_played_as_the_original_plays_it(tmp_path: Path):
    (path, *_) = write_shop("tiny", 0, tmp_path)
    rows = json.loads(path.read_text())
    for number, row in enumerate(rows):
        row["customization_options"] = {
            group: [{"value": value} for value in values]
            for group, values in HOSTILE_OPTIONS[number % len(HOSTILE_OPTIONS)].items()
        }
        row["pricing"] = ("", None, "$3.00 to $1.00", "$2,000.00", "$9.99 to $12 to $20")[
            number % 5
        ]
        row["small_description"] = ("one line", [], ["", "a\n b"])[number % 3]
    path.write_text(json.dumps(rows))
    files = find_files(tmp_path)
    compare_goals(files, human=False, split_sizes=(50, 100))
    compare_steps(files, FEWER_STEPS, split_sizes=(50, 100))


def compare_steps(files: OfficialFiles, least: int, *, split_sizes: tuple[int, int]) -> int:
    """Plays at least so many steps beside the original; returns the number of wins."""
    tasks = tasks_of(files, human=False, split_sizes=split_sizes)
    original = original_of(files, tasks, human=False)
    rng = random.Random(0)
    ids = [name for split in ("train", "valid_seen", "valid_unseen") for name in tasks.tasks(split)]
    steps = wins = 0
    while steps < least:
        name = rng.choice(ids)
        task = tasks.task(name)
        product = task.shop.product(task.shop.number(task.goal.asin))
        shopper = Shopper(
            task.goal,
            product,
            wanted_options(task.goal, product),
            rng,
            randomness=rng.choice((0.0, 0.3, 1.0)),
        )
        session = session_of(task)
        assert reply_of(session) == original.reset(int(name.rpartition("-g")[2]))
        for _ in range(MAX_TURNS):
            action = shopper.act(session.clickables)
            purchase = session.act(action).purchase
            ours = reply_of(
                session, 0.0 if purchase is None else purchase.total, purchase is not None
            )
            assert ours == original.step(action), (name, action)
            steps += 1
            if purchase is not None:
                wins += purchase.total == 1.0
                break
    print(f"{files.products.name}: {steps} steps, {wins} wins, 0 differences")
    return wins
