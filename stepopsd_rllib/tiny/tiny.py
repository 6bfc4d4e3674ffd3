"""The embedded models: a few million bytes that play one environment badly, and their recipes.

A laboratory animal, not a language model. `build_tiny` makes one offline from nothing: texts of
expert episodes of training tasks train a tokenizer, a small Qwen3 model (arXiv:2505.09388) clones
the expert's responses, and the recipe, its hash and what was measured go into `recipe.json`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stepopsd_envs.text_env import TextEnv
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.teachers.contexts import hindsight_text, render_episode
from stepopsd_rllib.tiny.alfworld_demonstrations import DemonstrationSettings
from stepopsd_rllib.tiny.demonstration import Demonstration
from stepopsd_rllib.tiny.demonstrations import (
    DEMONSTRATIONS,
    SearchDemonstrationSettings,
    ShopDemonstrationSettings,
)
from stepopsd_rllib.tiny.tiny_success import SAMPLES_PER_TASK, SPLIT, measure_success
from stepopsd_rllib.tiny.tiny_tokenizer import (
    CHAT_TEMPLATE,
    PADDING,
    TURN_END,
    token_id,
    train_tokenizer,
)
from stepopsd_rllib.tiny.told_success import measure_told
from stepopsd_rllib.tiny.warm_start import ChatRow, ChatRowBuilder, CloningSettings, clone

RECIPE_FILE = "recipe.json"
WEIGHTS_FILE = "model.safetensors"

_CODE_VERSION = 2  # raise it when code outside the recipe changes what a recipe makes


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Sizes of the Qwen3 model; embeddings are tied."""

    hidden_size: int = 128
    layers: int = 4
    attention_heads: int = 4
    key_value_heads: int = 2
    head_size: int = 32
    mlp_size: int = 384
    rope_theta: float = 10_000.0
    max_context_tokens: int = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyRecipe:
    """Everything that decides which weights come out.

    Attributes:
        environment: Key in `RECIPES` and `DEMONSTRATIONS`.
        environment_id: Gymnasium id, for measuring success.
        environment_config: Arguments of the environment that demonstrations are played in; the
            model is at home in exactly this one.
        seed: Seed of demonstrations, initial weights and batch order.
        vocabulary_size: Tokens of the tokenizer.
        tokenizer_episodes: Demonstrations whose texts train the tokenizer.
        phrase_words: See `train_tokenizer`.
        architecture: Sizes of the model.
        demonstrations: What is cloned.
        cloning: How it is cloned.
        chat_template: How turns are written.
        code_version: Changes with code that the other fields do not show.
    """

    environment: str
    environment_id: str
    environment_config: Mapping[str, Any]
    seed: int = 0
    vocabulary_size: int = 1024
    tokenizer_episodes: int = 1000
    phrase_words: tuple[str, ...] = ()
    architecture: Architecture = field(default_factory=Architecture)
    demonstrations: DemonstrationSettings | SearchDemonstrationSettings | ShopDemonstrationSettings
    cloning: CloningSettings
    chat_template: str = CHAT_TEMPLATE
    code_version: int = _CODE_VERSION


_ALFWORLD_PHRASES = (
    "Welcome to TextWorld ALFRED You are in the middle of a room Looking quickly around you see "
    "and is arrive at On In it nothing Nothing happens Your task put some them from go take move "
    "with open closed using pick up turn on carrying Next facing"
)

_SEARCH_QA_PHRASES = "In what city was Which company does work for born in and works Doc Title"

_WEBSHOP_PHRASES = (
    "Find me with and price lower than dollars Back to Search Page Total results Next Prev Price "
    "Rating N A Description Features Reviews Buy Now of"
)

# What a hindsight teacher reads around a sibling's episode; each word gets a token of its own.
_SIBLING_TEXT = hindsight_text(is_correct=False, peer=render_episode([("", "")] * 2))

RECIPES: dict[str, TinyRecipe] = {
    "alfworld": TinyRecipe(
        environment="alfworld",
        environment_id="stepopsd/ALFWorld-v0",
        environment_config={
            "size": "tiny",
            "max_turns": 20,
            "think": "off",
            "instructions": False,
            "show_admissible_commands": False,
        },
        phrase_words=tuple(sorted(set(_ALFWORLD_PHRASES.split()))),
        demonstrations=DemonstrationSettings(
            episodes=14000, noise=0.08, repeats=0.08, dithering=0.4
        ),
        cloning=CloningSettings(),
    ),
    "search_qa": TinyRecipe(
        environment="search_qa",
        environment_id="stepopsd/SearchQA-v0",
        environment_config={"level": "easy", "protocol": "append", "instructions": False},
        phrase_words=tuple(sorted(set(_SEARCH_QA_PHRASES.split()))),
        demonstrations=SearchDemonstrationSettings(
            episodes=50000, noise=0.1, guessing=0.45, confusion=0.45, informed=0.1
        ),
        cloning=CloningSettings(),
    ),
    "webshop": TinyRecipe(
        environment="webshop",
        environment_id="stepopsd/WebShop-v0",
        environment_config={
            "size": "tiny",
            "max_turns": 8,
            "think": "off",
            "instructions": False,
        },
        phrase_words=tuple(sorted(set(_WEBSHOP_PHRASES.split()))),
        demonstrations=ShopDemonstrationSettings(
            episodes=12000, noise=0.05, dithering=0.3, haste=0.1, informed=0.1
        ),
        cloning=CloningSettings(),
    ),
}
"""The recipe of each environment's embedded model, as shipped."""


def recipe_hash(recipe: TinyRecipe) -> str:
    """SHA-256 of the recipe's fields, hexadecimal."""
    return hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()


def package_folder(environment: str) -> Path:
    """Where the package keeps an environment's embedded model."""
    return Path(str(files("stepopsd_rllib") / "tiny" / "weights" / environment))


def build_tiny(
    output: str | Path | None = None,
    environment: str = "alfworld",
    seed: int | None = None,
    *,
    measure: bool = True,
    report: Callable[[str], None] = print,
) -> Path:
    """Makes an embedded model from nothing, offline; the same weights each time on one machine.

    Args:
        output: Folder to write, in Hugging Face format; made if need be. None: the package's own.
        environment: Key of `RECIPES`.
        seed: A seed in place of the recipe's.
        measure: Whether success before reinforcement learning is measured too (minutes).
        report: Takes a line of progress.

    Returns:
        The folder.
    """
    if environment not in RECIPES:
        raise ValueError(
            f"environment={environment!r}: there is no recipe for it. Choose one of "
            f"{', '.join(sorted(RECIPES))}."
        )
    recipe = RECIPES[environment]
    return build_from_recipe(
        recipe if seed is None else replace(recipe, seed=seed),
        package_folder(environment) if output is None else output,
        measure=measure,
        report=report,
    )


def build_from_recipe(
    recipe: TinyRecipe,
    output: str | Path,
    *,
    measure: bool = True,
    report: Callable[[str], None] = print,
) -> Path:
    """Does the work of `build_tiny` for any recipe."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums split over threads round differently on other core counts
    try:
        return _build(recipe, Path(output), measure, report)
    finally:
        torch.set_num_threads(threads)


def _build(recipe: TinyRecipe, folder: Path, measure: bool, report: Callable[[str], None]) -> Path:
    started = time.perf_counter()
    demonstrations = DEMONSTRATIONS[recipe.environment](
        recipe.environment_config, recipe.demonstrations, seed=recipe.seed
    )
    report(f"{len(demonstrations)} expert episodes in {time.perf_counter() - started:.0f} s")
    tokenizer = _train_tokenizer(recipe, demonstrations)
    chat = ChatFormat(tokenizer)
    rows = [chat_row(demonstration, chat) for demonstration in demonstrations]
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(_model_config(recipe, tokenizer))
    cloning = clone(
        model, rows, recipe.cloning, seed=recipe.seed, report_progress=_progress(report)
    )
    model.generation_config = GenerationConfig(
        eos_token_id=list(chat.end_of_turn_ids),
        pad_token_id=token_id(tokenizer, PADDING),
        do_sample=True,
    )
    model.save_pretrained(folder)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors writes files that only their owner can read
    tokenizer.save_pretrained(folder)
    measured = {
        "recipe": asdict(recipe),
        "recipe_hash": recipe_hash(recipe),
        "weights_sha256": hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest(),
        "parameters": model.num_parameters(),
        "build_seconds": round(time.perf_counter() - started, 1),
        "cloning": asdict(cloning),
    }
    if measure:
        measured["success_before_rl"] = measure_success(
            model, chat, lambda: make_environment(recipe), report
        )
    told = recipe.demonstrations
    if measure and isinstance(told, DemonstrationSettings) and told.informed:
        measured["success_when_told"] = measure_told(
            model,
            chat,
            lambda: make_environment(recipe),
            split=SPLIT,
            samples=SAMPLES_PER_TASK,
            skills=told.skills,
            report=report,
        )
    (folder / RECIPE_FILE).write_text(json.dumps(measured, indent=2) + "\n")
    return folder


def make_environment(recipe: TinyRecipe) -> TextEnv:
    """The environment in which a recipe's model is at home."""
    env = gym.make(recipe.environment_id, **recipe.environment_config).unwrapped
    assert isinstance(env, TextEnv)
    return env


def chat_row(demonstration: Demonstration, chat: ChatFormat) -> ChatRow:
    """One demonstration as a row of tokens; the last message is never read, so it is left out."""
    row = ChatRowBuilder(
        chat,
        demonstration.first_message,
        demonstration.system_prompt,
        privileged=demonstration.privileged,
    )
    for index, turn in enumerate(demonstration.turns):
        if index > 0:
            row.add_message(demonstration.turns[index - 1].next_message)
        if turn.told:
            row.add_told(turn.told)
        row.add_response(turn.response, is_learned=turn.is_learned)
    return row.row()


def _train_tokenizer(
    recipe: TinyRecipe, demonstrations: list[Demonstration]
) -> PreTrainedTokenizerFast:
    texts = (
        text
        for demonstration in islice(demonstrations, recipe.tokenizer_episodes)
        for text in demonstration.texts()
    )
    return train_tokenizer(
        [*texts, *[_SIBLING_TEXT] * recipe.tokenizer_episodes],
        vocabulary_size=recipe.vocabulary_size,
        phrase_words=recipe.phrase_words,
    )


def _model_config(recipe: TinyRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    sizes = recipe.architecture
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.attention_heads,
        num_key_value_heads=sizes.key_value_heads,
        head_dim=sizes.head_size,
        intermediate_size=sizes.mlp_size,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        max_position_embeddings=sizes.max_context_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, TURN_END),
        pad_token_id=token_id(tokenizer, PADDING),
    )


def _progress(report: Callable[[str], None]) -> Callable[[int, int, float], None]:
    started = time.perf_counter()

    def show(done: int, updates: int, loss: float) -> None:
        if done % max(1, updates // _PROGRESS_LINES) == 0:
            seconds = time.perf_counter() - started
            report(f"update {done}/{updates}: {loss:.3f} nats per response token, {seconds:.0f} s")

    return show


_PROGRESS_LINES = 20
