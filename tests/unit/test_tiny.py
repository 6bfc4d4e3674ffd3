"""The embedded model as shipped: is it what its recipe says, and does it keep to the format?"""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stepopsd_envs.search_qa.env import SearchQAEnv
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.teachers.skill_retrieval import student_preamble
from stepopsd_rllib.teachers.skills import environment_library
from stepopsd_rllib.tiny.alfworld_demonstrations import DemonstrationSettings
from stepopsd_rllib.tiny.batched_play import play
from stepopsd_rllib.tiny.tiny import (
    RECIPE_FILE,
    RECIPES,
    WEIGHTS_FILE,
    Architecture,
    build_from_recipe,
    build_tiny,
    make_environment,
    package_folder,
    recipe_hash,
)
from stepopsd_rllib.tiny.warm_start import CloningSettings

MAX_BYTES = 8_000_000
FRESH_GAMES = 12


@pytest.fixture(params=sorted(RECIPES))
def environment(request):
    return request.param


def test_shipped_weights_are_what_the_recipe_in_the_code_makes(environment):
    folder = package_folder(environment)
    recorded = json.loads((folder / RECIPE_FILE).read_text())
    assert recorded["recipe_hash"] == recipe_hash(RECIPES[environment])
    weights = (folder / WEIGHTS_FILE).read_bytes()
    assert recorded["weights_sha256"] == hashlib.sha256(weights).hexdigest()


def test_the_documents_give_the_sizes_of_all_models():
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    said = re.findall(r"([\d,]+) parameters[^.]*? vocabulary ([\d,]+), ([\d.]+ MB)\)", page)
    real = []
    for environment in RECIPES:
        folder = package_folder(environment)
        model = AutoModelForCausalLM.from_pretrained(folder)
        megabytes = (folder / WEIGHTS_FILE).stat().st_size / 1e6
        real.append(
            (f"{model.num_parameters():,}", f"{model.config.vocab_size:,}", f"{megabytes:.1f} MB")
        )
    assert said == real


def test_any_changed_setting_changes_the_hash(environment):
    recipe = RECIPES[environment]
    changed = [
        replace(recipe, seed=recipe.seed + 1),
        replace(recipe, architecture=replace(recipe.architecture, layers=5)),
        replace(recipe, cloning=replace(recipe.cloning, learning_rate=1.0)),
        replace(recipe, demonstrations=replace(recipe.demonstrations, noise=0.5)),
    ]
    assert len({recipe_hash(each) for each in [recipe, *changed]}) == 5


def test_shipped_model_is_small_and_loads_as_any_hugging_face_model(environment):
    folder = package_folder(environment)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= MAX_BYTES
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert 500_000 <= model.num_parameters() <= 3_000_000
    assert model.config.tie_word_embeddings
    assert model.config.vocab_size == len(tokenizer)
    assert ChatFormat(tokenizer).end_of_turn_ids == (model.config.eos_token_id,)


def test_shipped_model_acts_in_the_right_format_on_games_it_was_not_trained_on(environment):
    folder = package_folder(environment)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chat = ChatFormat(AutoTokenizer.from_pretrained(folder))
    envs = [make_environment(RECIPES[environment]) for _ in range(FRESH_GAMES)]
    unseen = envs[0].tasks("valid_unseen")
    tasks = unseen[:: len(unseen) // FRESH_GAMES][:FRESH_GAMES]
    episodes = play(model, chat, envs, tasks, temperature=1.0, max_response_tokens=32, seed=0)
    turns = sum(episode.turns for episode in episodes)
    assert turns > FRESH_GAMES
    assert sum(episode.valid_turns for episode in episodes) / turns >= 0.95


def test_recorded_success_before_reinforcement_learning_leaves_room_and_signal(environment):
    recorded = json.loads((package_folder(environment) / RECIPE_FILE).read_text())
    sampled = recorded["success_before_rl"]["sampled"]
    assert 0.2 <= sampled["success_rate"] <= 0.5
    assert sampled["mixed_groups"] >= 0.3
    assert all(kind["num_wins"] > 0 for kind in sampled["task_type"].values())


class ToldEnv(SearchQAEnv):
    """Search-QA with the packaged short skills in its first message."""

    def first_message(self, observation, info):
        library = environment_library(SearchQAEnv, "search_qa_brief")
        skills = library.text(SearchQAEnv.skill_categories(info["task_type"], info["question"]))
        return student_preamble(skills) + super().first_message(observation, info)


def test_the_search_qa_model_plays_better_when_it_is_told_skills():
    recipe, folder = RECIPES["search_qa"], package_folder("search_qa")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chat = ChatFormat(AutoTokenizer.from_pretrained(folder))
    won = {}
    for kind in (SearchQAEnv, ToldEnv):
        envs = [kind(**recipe.environment_config) for _ in range(40)]
        tasks = envs[0].tasks("valid_unseen")[::4]
        played = play(model, chat, envs, tasks, temperature=1.0, max_response_tokens=24, seed=0)
        won[kind] = sum(episode.won for episode in played) / len(played)
    assert won[ToldEnv] >= won[SearchQAEnv] + 0.3


@pytest.fixture
def miniature():
    """A recipe of seconds."""
    return replace(
        RECIPES["alfworld"],
        vocabulary_size=400,
        architecture=Architecture(hidden_size=32, layers=1, attention_heads=1, key_value_heads=1),
        demonstrations=DemonstrationSettings(episodes=12, noise=0.2),
        cloning=CloningSettings(warmup_updates=2),
    )


def test_the_same_recipe_builds_the_same_files(miniature, tmp_path):
    folders = [
        build_from_recipe(miniature, tmp_path / name, measure=False, report=lambda line: None)
        for name in ("first", "second")
    ]
    for file in (WEIGHTS_FILE, "tokenizer.json", "config.json", "chat_template.jinja"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file
    other = build_from_recipe(
        replace(miniature, seed=1), tmp_path / "other", measure=False, report=lambda line: None
    )
    assert (folders[0] / WEIGHTS_FILE).read_bytes() != (other / WEIGHTS_FILE).read_bytes()


def test_an_environment_without_a_recipe_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"environment='chess': there is no recipe.*alfworld"):
        build_tiny(tmp_path, "chess")
