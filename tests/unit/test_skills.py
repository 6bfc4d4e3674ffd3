from __future__ import annotations

import json
from pathlib import Path

import pytest
from stepopsd_envs import TextEnv
from stepopsd_envs.alfworld import skill_categories as alfworld
from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.search_qa import skill_categories as search_qa
from stepopsd_envs.search_qa.env import SearchQAEnv
from stepopsd_envs.webshop.env import WebShopEnv
from transformers import AutoTokenizer

import stepopsd_rllib
from stepopsd_rllib.teachers.skill_insertion import insert_skills
from stepopsd_rllib.teachers.skill_retrieval import keyword_categories, privileged_preamble
from stepopsd_rllib.teachers.skills import SkillLibraryError, environment_library, load_library

ENVIRONMENTS = {"alfworld": ALFWorldEnv, "search_qa": SearchQAEnv, "webshop": WebShopEnv}
EMBEDDED_MODELS = Path(stepopsd_rllib.__file__).parent / "tiny" / "weights"

ITEM = """\
# Skills for tests

## Read the goal {#goal}
Principle: Read it twice,
  over two lines.
When to apply: Always.
"""


def folder(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_markdown_item_has_its_four_fields(tmp_path: Path) -> None:
    library = load_library(folder(tmp_path, general=ITEM))
    (skill,) = library.general.skills
    assert (skill.skill_id, skill.title) == ("goal", "Read the goal")
    assert (skill.principle, skill.when_to_apply) == ("Read it twice, over two lines.", "Always.")


@pytest.mark.parametrize(
    ("general_key", "categories_key"),
    [("general", "categories"), ("general_skills", "task_specific_skills")],
)
def test_a_json_bank_reads_like_a_folder(
    tmp_path: Path, general_key: str, categories_key: str
) -> None:
    item = {"skill_id": "a", "title": "t", "principle": "p", "when_to_apply": "w"}
    bank = {general_key: [item], categories_key: {"pick_heat": [item | {"skill_id": "b"}]}}
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(bank), encoding="utf-8")
    library = load_library(path)
    assert len(library) == 2
    assert library.text(["pick_heat"]).count("- t: p (When: w)") == 2


def test_text_is_general_then_blank_line_then_category() -> None:
    library = environment_library(ALFWorldEnv)
    general, category = library.text(["pick_heat"]).split("\n\n")
    assert general == library.general.text()
    assert category == library.categories["pick_heat"].text()


def test_full_text_holds_every_skill_once() -> None:
    library = environment_library(SearchQAEnv)
    parts = (library.general, *library.categories.values())
    for skill in (skill for part in parts for skill in part.skills):
        assert library.full_text().count(skill.text()) == 1


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_packaged_libraries_have_twelve_general_and_five_special_skills(name: str) -> None:
    library = environment_library(ENVIRONMENTS[name], name)
    assert len(library.general.skills) == 12
    assert {len(category.skills) for category in library.categories.values()} == {5}


def test_every_retrieved_category_is_packaged() -> None:
    assert set(alfworld.CATEGORIES.values()) == set(environment_library(ALFWorldEnv).categories)
    searched = {*search_qa.CATEGORIES.values(), "comparison"}
    assert searched == set(environment_library(SearchQAEnv).categories)


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_brief_skills_have_the_same_categories_and_fit_the_embedded_model(name: str) -> None:
    library = environment_library(ENVIRONMENTS[name], f"{name}_brief")
    assert set(library.categories) == set(environment_library(ENVIRONMENTS[name], name).categories)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODELS / name)
    for category in library.categories:
        assert len(tokenizer(library.text([category]))["input_ids"]) <= 200


@pytest.mark.parametrize(
    ("task", "category"),
    [
        ("pick_and_place_simple", "pick_and_place"),
        ("train/pick_two_obj_and_place-Book-None-Drawer-304/trial_1", "pick_and_place"),
        ("look_at_obj_in_light", "look_at_obj_in_light"),
        ("pick_heat_then_place_in_recep", "pick_heat"),
        ("pick_cool_then_place_in_recep", "pick_cool"),
        ("pick_clean_then_place_in_recep", "pick_clean"),
    ],
)
def test_alfworld_skills_follow_the_task_type(task: str, category: str) -> None:
    assert ALFWorldEnv.skill_categories(task, "") == (category,)


def test_an_unknown_task_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'wash_car'.*Known: pick_and_place"):
        ALFWorldEnv.skill_categories("wash_car", "")


@pytest.mark.parametrize(
    ("source", "question", "categories"),
    [
        ("popqa", "which or", ("entity_attribute_lookup",)),
        ("nq", "who", ("direct_retrieval",)),
        ("triviaqa", "who", ("direct_retrieval",)),
        ("hotpotqa", "Which film is older, A or B?", ("multi_hop",)),
        ("2wikimultihopqa", "Which film is older, A or B?", ("comparison",)),
        ("2wikimultihopqa", "Who is the mother of A?", ("multi_hop",)),
        ("musique", "Which of A or B is known for C?", ("multi_hop",)),
        ("bamboogle", "who", ("multi_hop",)),
        ("elsewhere", "Which is older, A or B?", ("comparison",)),
        ("elsewhere", "who", ()),
    ],
)
def test_search_skills_follow_the_data_source(
    source: str, question: str, categories: tuple[str, ...]
) -> None:
    assert SearchQAEnv.skill_categories(source, question) == categories


def test_keywords_call_for_every_category_they_belong_to() -> None:
    library = environment_library(ALFWorldEnv)
    assert keyword_categories(library, "HEAT it, then clean it") == ("pick_clean", "pick_heat")
    assert keyword_categories(library, "sing") == ()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"general": ITEM, "pick_heat": "# Nothing here\n"}, r"pick_heat\.md: not a single skill"),
        ({"pick_heat": ITEM}, "no general skills"),
        ({"general": ITEM, "other": ITEM}, "skill_id 'goal' stands in general and in other"),
        ({"general": ITEM.replace("When to apply: Always.", "")}, "lacks when_to_apply"),
        ({"general": ITEM.replace(" {#goal}", "")}, r"'Read the goal'\) lacks skill_id"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(SkillLibraryError, match=message):
        load_library(folder(tmp_path, **files))


def test_a_path_that_is_no_library_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "bank.json"
    broken.write_text("[", encoding="utf-8")
    with pytest.raises(SkillLibraryError, match="not JSON"):
        load_library(broken)
    with pytest.raises(SkillLibraryError, match="neither a folder"):
        load_library(tmp_path / "absent")
    with pytest.raises(SkillLibraryError, match="Use one of alfworld, alfworld_brief, or a path"):
        environment_library(ALFWorldEnv, "webshop")


def test_an_environment_without_skills_is_told_which_name_to_set() -> None:
    class Bare(TextEnv):
        pass

    with pytest.raises(SkillLibraryError, match=r"Set Bare\.skill_libraries"):
        environment_library(Bare)


def test_a_category_that_the_library_lacks_is_refused() -> None:
    with pytest.raises(SkillLibraryError, match="no skills for category 'pick_paint'"):
        environment_library(ALFWorldEnv).text(["pick_paint"])


def test_blank_skills_give_no_preamble() -> None:
    assert privileged_preamble(" \n") == ""
    assert privileged_preamble("- a: b").endswith("\n- a: b\n\n")


def test_the_task_may_stand_on_the_line_after_the_colon() -> None:
    prompt = "Your question:\n\n  who?  \nrest"
    inserted = insert_skills(prompt, episode_skill="E")
    before, after = inserted.split("[E]")
    assert before.startswith("Your question:\n\n  who?\n\n**")
    assert after == "\n\nrest"


def test_the_preferred_task_phrase_wins_over_an_earlier_other_one() -> None:
    inserted = insert_skills("Your question: a\nYour task is to: b\nc", episode_skill="E")
    assert inserted.startswith("Your question: a\nYour task is to: b\n\n**")
    assert inserted.endswith("[E]\n\nc")


@pytest.mark.parametrize("think", ["required", "optional", "off"])
def test_skills_stand_after_the_task_and_before_the_turn_in_our_own_prompts(think):
    env = ALFWorldEnv(size="tiny", think=think)
    observation, info = env.reset(seed=0)
    later = env.window_message([], observation, info | {"turn": 1})
    for message in (env.first_message(observation, info), later):
        prompt = insert_skills(
            message,
            episode_skill="E",
            step_skill="S",
            task_phrases=env.task_phrases,
            turn_phrases=env.turn_phrases,
        )
        assert f"Your task is to: {info['task']}\n\n**" in prompt
        assert prompt.index("[E]") < prompt.index("[S]") < prompt.index("Now it's your turn to")


def test_the_longer_turn_phrase_wins_over_an_earlier_short_one() -> None:
    prompt = "Now it's your turn.\nNow it's your turn to act."
    inserted = insert_skills(prompt, step_skill="S")
    assert inserted.startswith("Now it's your turn.\n\n**")
    assert inserted.endswith("[S]\n\nNow it's your turn to act.")


def test_episode_skill_comes_first_where_both_go_before_the_turn_phrase() -> None:
    inserted = insert_skills("a\nNow it's your turn", episode_skill="E", step_skill="S")
    assert inserted.index("[E]") < inserted.index("[S]") < inserted.index("Now it's your turn")
    # A phrase inside a skill is no place for the other one.
    quoted = insert_skills("a", episode_skill="Now it's your turn to b", step_skill="S")
    assert quoted.endswith("[S]")
