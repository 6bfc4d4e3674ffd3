"""The score of a purchase, spelled out; the search behind the shop; skills read off an episode."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepopsd_envs.bm25 import BM25, lucene_length
from stepopsd_envs.webshop.colours import base_colour
from stepopsd_envs.webshop.env import WebShopEnv
from stepopsd_envs.webshop.goals import Goal
from stepopsd_envs.webshop.lucene_words import lucene_words
from stepopsd_envs.webshop.nouns import noun_tagger, packaged_nouns
from stepopsd_envs.webshop.products import Product
from stepopsd_envs.webshop.reward import Score, score_purchase
from stepopsd_envs.webshop.skill_rules import options_asked, shopping_skills


def product(**changes: Any) -> Product:
    fields: dict[str, Any] = {
        "asin": "B000000001",
        "name": "Mavo soft wool rug",
        "description": "A rug that is easy clean.",
        "bullet_points": ("Machine washable at any time.",),
        "category": "garden",
        "query": "area rugs",
        "product_category": "Home › Rugs › Area Rugs",
        "prices": (30.0,),
        "price_text": "$30.0",
        "options": {"color": ("red", "fashion black"), "size": ("large", "small")},
        "attributes": ("super soft", "low pile"),
    }
    return Product(**{**fields, **changes})


def goal(**changes: Any) -> Goal:
    fields: dict[str, Any] = {
        "asin": "B000000001",
        "instruction": "Find me super soft area rugs",
        "attributes": ("super soft",),
        "options": (("color", "red"), ("size", "large")),
        "price_upper": 40.0,
        "name": "Mavo soft wool rug",
        "category": "garden",
        "query": "area rugs",
        "product_category": "Home › Rugs › Area Rugs",
    }
    return Goal(**{**fields, **changes})


BOTH = {"color": "red", "size": "large"}


def scored(
    bought: Product, options: dict[str, str], wanted: Goal, price: float = 30.0, **keys: Any
) -> Score:
    return score_purchase(bought, options, price, wanted, nouns=packaged_nouns, **keys)


def test_everything_asked_for_scores_one():
    assert scored(product(), BOTH, goal()).total == 1.0


@pytest.mark.parametrize(
    ("options", "price", "hits"),
    [({}, 30.0, 2), ({"color": "red"}, 30.0, 3), (BOTH, 40.01, 3), ({"size": "small"}, 41.0, 1)],
)
def test_each_part_counts_the_same(options: dict[str, str], price: float, hits: int):
    assert scored(product(), options, goal(), price).total == pytest.approx(hits / 4)


@pytest.mark.parametrize(
    ("attribute", "is_hit"),
    [
        ("super soft", True),
        ("soft super", True),  # order does not count
        ("super softs", True),  # nor a letter
        ("wool", True),  # in the title
        ("easy clean", True),  # in the description
        ("machine washable", True),  # among the bullet points
        ("fire proof", False),
    ],
)
def test_an_attribute_is_looked_for_in_annotations_and_texts(attribute: str, is_hit: bool):
    wanted = goal(attributes=(attribute,), options=())
    assert scored(product(), {}, wanted).attributes == float(is_hit)


def test_the_type_of_goods_scales_the_score():
    other = {"query": "hair masks", "product_category": "Beauty › Hair › Masks"}
    kept = scored(product(name="Rug of another kind", **other), BOTH, goal())
    assert kept.title_score == 1 / 4 and kept.type_factor == 1.0  # 1 of mavo, soft, wool, rug
    long = goal(name="alpha beta gamma delta epsilon zeta eta rug")
    half = scored(product(name="rug", **other), BOTH, long)
    assert half.title_score == 1 / 8 and half.type_factor == 0.5
    longer = goal(name="alpha beta gamma delta epsilon zeta eta theta iota kappa rug")
    assert scored(product(name="rug", **other), BOTH, longer).type_factor == 0.1
    assert scored(product(name="nothing alike"), BOTH, goal()).total == 0.0


def test_a_colour_inside_a_word_loses_a_goal_unless_options_are_lenient():
    wanted = goal(options=(("shape", "rectangular"),))
    assert base_colour("rectangular") == "tan"
    chosen = {"shape": "rectangular"}
    assert scored(product(), chosen, wanted).options == 0.0
    assert scored(product(), chosen, wanted, strict_options=False).total == 1.0
    assert scored(product(), {"shape": "round"}, wanted, strict_options=False).options == 0.0


def test_human_options_have_no_groups():
    assert scored(product(), {"color": "deep black"}, goal(options=("black",))).total == 1.0


@given(text=st.text(max_size=60))
def test_nouns_are_words_of_the_title(text: str):
    assert all(noun in text.lower() for noun in packaged_nouns(text))


def test_the_tagger_says_which_it_is():
    assert noun_tagger("packaged") == ("packaged", packaged_nouns)
    env = WebShopEnv(nouns="packaged")
    assert env.reset(seed=0)[1]["noun_tagger"] == "packaged"
    assert packaged_nouns("Women's Boots for the 12oz Mug") == (*("women", "boots", "oz", "mug"),)


@pytest.mark.parametrize(
    ("text", "stems"),
    [
        ("The Men's Running Shoes", ["men", "run", "shoe"]),
        ("1,000 pieces of 12.5 oz, non-slip", ["1,000", "piec", "12.5", "oz", "non", "slip"]),
        ("machine-washable ponies", ["machin", "washabl", "poni"]),
    ],
)
def test_words_are_split_and_stemmed_as_lucene_does(text: str, stems: list[str]):
    assert lucene_words(text) == stems


@pytest.mark.parametrize(
    ("length", "remembered"), [(0, 0), (23, 23), (39, 39), (40, 40), (41, 40), (100, 96)]
)
def test_lengths_are_remembered_in_one_byte(length: int, remembered: int):
    assert lucene_length(length) == remembered


@given(texts=st.lists(st.text("abc ", max_size=12), min_size=1, max_size=8), query=st.text("abc "))
def test_the_index_ranks_by_its_own_scores(texts: list[str], query: str):
    numbers, scores = BM25(texts, analyze=str.split).best(query, 5)
    assert sorted(scores, reverse=True) == list(scores)
    wanted = set(query.split())
    assert all(wanted & set(texts[number].split()) for number in numbers)


def turn(observation: str, action: str, is_valid: bool = True) -> SimpleNamespace:
    return SimpleNamespace(
        observation=observation, response="", action=action, is_action_valid=is_valid
    )


TASK = (
    "WebShop [SEP] Instruction: [SEP] Find me soft rugs with color: red, and size: large, and "
    "price lower than 40.00 dollars [SEP] Search"
)


def test_options_are_read_off_the_instruction():
    assert options_asked(TASK) == ("red", "large")
    assert options_asked("Find me soft rugs, and price lower than 40.00 dollars") == ()


def test_a_purchase_without_its_options_is_advised_against_first():
    turns = [
        turn(TASK, "search[soft rug]"),
        turn("results", "click[b12345]"),
        turn("item", "click[description]"),
        turn("text", "click[< prev]"),
        turn("item", "click[red]"),
        turn("item", "click[buy now]"),
    ]
    skills = shopping_skills(TASK, turns, won=False, max_step_skills=2)
    assert skills.step_skills[5] == "Do not buy yet: choose `large` first."
    assert next(iter(skills.step_skills)) == 5 and len(skills.step_skills) == 2
    assert "`description`" in skills.episode_skill


def test_a_purchase_that_won_is_a_workflow_without_detours():
    turns = [
        turn(TASK, "search[rug]"),
        turn("results", "click[b99999]"),
        turn("item of b99999", "click[< prev]"),
        turn("results", "click[b12345]"),
        turn("item", "click[red]"),
        turn("item", "click[large]"),
        turn("item", "click[buy now]"),
    ]
    skills = shopping_skills(TASK, turns, won=True, max_step_skills=9)
    assert skills.episode_skill == (
        "Do these in order and leave out detours: `search[rug]`, then `click[b12345]`, then "
        "`click[red]`, then `click[large]`, then `click[buy now]`."
    )
    assert sorted(skills.step_skills) == [0, 3, 4, 5, 6]


def test_an_episode_without_a_purchase_is_told_to_buy():
    turns = [turn(TASK, "search[rug]"), turn("results", "dance", is_valid=False)]
    skills = shopping_skills(TASK, turns, won=False, max_step_skills=5)
    assert skills.episode_skill.startswith("Buy before the turns run out: 2 turns bought nothing.")
    assert list(skills.step_skills) == [1]
