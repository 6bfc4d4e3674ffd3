"""Generated shops: the same everywhere, disjoint between splits, winnable by reading."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from stepopsd_envs.text_env import SPLITS
from stepopsd_envs.webshop.env import WebShopEnv
from stepopsd_envs.webshop.expert import FirstHitBuyer, ReadingShopper
from stepopsd_envs.webshop.generator import generate_products, generate_rows, write_shop
from stepopsd_envs.webshop.goals import Goal
from stepopsd_envs.webshop.sizes import SIZE_SPECS, SIZES
from stepopsd_envs.webshop.tasks import GeneratedTasks

ROOT = Path(__file__).parents[2]
EPISODES = 200


@pytest.mark.parametrize("size", SIZES)
def test_no_product_and_no_request_is_in_two_splits(size: str):
    tasks = GeneratedTasks(size)
    seen: dict[tuple, str] = {}
    for split in SPLITS:
        for name in tasks.tasks(split):
            goal = tasks.task(name).goal
            request = (goal.query, tuple(sorted(goal.attributes)), goal.options)
            for key in (("product", goal.asin), ("request", *request)):
                assert seen.setdefault(key, split) == split, (name, key)
    for split in ("valid_seen", "valid_unseen"):
        assert len(tasks.tasks(split)) == SIZE_SPECS[size].evaluation_goals


def test_shops_of_evaluation_share_no_product_with_shops_of_training():
    kinds = [
        {product.asin for number in numbers for product in generate_products("tiny", number)}
        for numbers in (range(48), range(10_000, 10_004))
    ]
    assert not kinds[0] & kinds[1]
    assert len(kinds[0]) == 48 * SIZE_SPECS["tiny"].products


def test_the_full_size_is_as_large_as_the_official_set():
    products = generate_products("full", 0)
    assert len(products) == 1000
    assert {product.category for product in products} == {
        *("beauty", "electronics", "fashion", "garden", "grocery")
    }
    assert any(len(product.prices) == 2 for product in products)
    with_goals = sum(product.instruction is not None for product in products)
    assert 380 <= with_goals <= 460  # the official set has 415


def test_a_shop_does_not_depend_on_the_hash_seed():
    script = (
        "import hashlib, json\n"
        "from stepopsd_envs.webshop.generator import generate_rows\n"
        "from stepopsd_envs.webshop.tasks import GeneratedTasks\n"
        "tasks = GeneratedTasks('tiny')\n"
        "said = [json.dumps(generate_rows(s, 0)) for s in ('tiny', 'small')]\n"
        "said += [repr(tasks.task(t)[0]) for t in tasks.tasks('valid_seen')]\n"
        "print(hashlib.sha256(repr(said).encode()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "envs")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(digests) == 1


def success(size: str, player: type, split: str) -> float:
    env = WebShopEnv(size=size, think="off")
    tasks = random.Random(0).sample(env.tasks(split), EPISODES)
    wins = 0
    for task in tasks:
        observation, info = env.reset(options={"task": task})
        buyer = player(env.goal if player is ReadingShopper else info["instruction"])
        is_over = False
        while not is_over:
            if player is ReadingShopper:
                action = buyer.act(observation, env.clickables, info["action"])
            else:
                action = buyer.act(env.clickables)
            observation, _, terminated, truncated, info = env.step(f"<action>{action}</action>")
            is_over = terminated or truncated
        wins += info["won"]
    return wins / len(tasks)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("split", SPLITS)
def test_an_expert_that_knows_the_product_wins_what_can_be_won(size: str, split: str):
    env = WebShopEnv(size=size)
    tasks = env.tasks(split)[:EPISODES]
    infos = [env.reset(options={"task": task})[1] for task in tasks]
    assert sum(info["solvable"] for info in infos) >= 0.98 * len(tasks)
    assert all(("golden_rollout" in info) == info["solvable"] for info in infos)


def test_reading_the_pages_is_enough_and_buying_the_first_hit_is_not():
    assert success("tiny", ReadingShopper, "valid_unseen") >= 0.98
    assert success("tiny", FirstHitBuyer, "valid_unseen") <= 0.05
    assert success("full", FirstHitBuyer, "valid_unseen") <= 0.25


def test_a_written_shop_is_read_back_as_it_was(tmp_path: Path):
    paths = write_shop("tiny", 3, tmp_path)
    assert all(isinstance(json.loads(path.read_text()), list | dict) for path in paths)
    env = WebShopEnv(data=tmp_path, split_sizes=(10, 20))
    generated = WebShopEnv(size="tiny")
    shop = generate_products("tiny", 3)
    env.reset(seed=0)
    assert isinstance(env.goal, Goal)
    assert env.goal.asin in {product.asin for product in shop}
    assert len(env.tasks("valid_unseen")) == 10
    assert not set(env.tasks("train")) & set(generated.tasks("train"))


def test_reviews_fill_their_page_where_they_are_shown():
    reviewed = next(row for row in generate_rows("small", 0)["reviews"] if len(row["reviews"]) > 0)
    product = next(p for p in generate_products("small", 0) if p.asin == reviewed["asin"])
    assert [review.title for review in product.reviews] == [
        review["title"] for review in reviewed["reviews"]
    ]
    for shown in (False, True):
        env = WebShopEnv(size="small", think="off", show_reviews=shown)
        env.reset(options={"task": "small-s00000-g0000000"})
        env.step(f"<action>search[{product.name}]</action>")
        observation = env.step(f"<action>click[{product.asin.lower()}]</action>")[0]
        assert (f"Rating: {reviewed['average_rating']}" in observation) is shown
        observation = env.step("<action>click[reviews]</action>")[0]
        assert (product.reviews[0].text in observation) is shown
