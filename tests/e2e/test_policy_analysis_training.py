"""A model that was taught to answer: its own replies become skills, through sampler and learner."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from stepopsd_rllib.environments import make_text_env
from stepopsd_rllib.episodes import AgentEpisode, from_rllib
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.rollout.env_runner import TextEnvRunner
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from stepopsd_rllib.teachers.analysis.analyzer import AnalyzerFailure, EpisodeRecord
from stepopsd_rllib.teachers.analysis.analyzer_prompt import analysis_messages, second_attempt
from stepopsd_rllib.tiny.tiny_tokenizer import train_tokenizer
from stepopsd_rllib.tiny.warm_start import ChatRow, ChatRowBuilder, CloningSettings, clone
from tests.helpers.agents import small_config
from tests.helpers.houses import BARE
from tests.unit.test_analyzer_fallback import EPISODES, same_as, trained

pytestmark = pytest.mark.e2e

UNHELPFUL = "I would rather not."
SKILL_AFTER = {"success": "Go on like this.", "failure": "Do not wait."}
STEP_SKILL = "Look around."


def taught_reply(outcome: str) -> str:
    return json.dumps({"episode_skill": SKILL_AFTER[outcome], "step_skills": {"0": STEP_SKILL}})


def questions(episode: AgentEpisode) -> list[list[dict[str, str]]]:
    """The chats of a first and of a second attempt."""
    first = analysis_messages(EpisodeRecord.of(episode), max_step_skills=5)
    failure = AnalyzerFailure.UNREADABLE
    return [first, second_attempt(first, reply=UNHELPFUL, failure=failure)]


def played_episodes() -> list[AgentEpisode]:
    """Twelve of the embedded model; every second one is called a success."""
    tasks = make_text_env("stepopsd/ALFWorld-v0", BARE).tasks("train")
    runner = TextEnvRunner(config=small_config(), worker_index=0)
    requests = [EpisodeRequest(task_id=tasks[g], group=g, rollout=0, seed=g) for g in range(12)]
    episodes = [from_rllib(episode) for episode in runner.sample(requests=requests)]
    runner.stop()
    return [replace(episode, won=i % 2 == 0) for i, episode in enumerate(episodes)]


def rows_of(episode: AgentEpisode, chat: ChatFormat) -> list[ChatRow]:
    """Refuse at the first attempt, answer at the second, and play as before."""
    rows = []
    for messages, reply in zip(
        questions(episode),
        (UNHELPFUL, taught_reply("success" if episode.won else "failure")),
        strict=True,
    ):
        prompt_ids = chat.first_prompt(messages)
        reply_ids = [
            *chat.tokenizer(reply, add_special_tokens=False)["input_ids"],
            chat.end_of_turn_ids[0],
        ]
        is_reply = [False] * len(prompt_ids) + [True] * len(reply_ids)
        rows.append(
            ChatRow(
                token_ids=np.array([*prompt_ids, *reply_ids], dtype=np.int32),
                response_mask=np.array(is_reply),
            )
        )
    play = ChatRowBuilder(chat, episode.turns[0].observation)
    for k, turn in enumerate(episode.turns):
        if k:
            play.add_message(turn.observation)
        play.add_response(turn.response)
    return [*rows, play.row()]


@pytest.fixture(scope="module")
def taught_model(tmp_path_factory) -> Path:
    """A random Qwen3 of two layers, overfitted on questions about a dozen episodes."""
    episodes = played_episodes()
    texts = [text for o in SKILL_AFTER for text in (taught_reply(o), UNHELPFUL)] * len(episodes)
    for episode in episodes:
        texts += [m["content"] for messages in questions(episode) for m in messages]
        texts += [text for turn in episode.turns for text in (turn.observation, turn.response)]
    tokenizer = train_tokenizer(texts, vocabulary_size=768)
    chat = ChatFormat(tokenizer)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=chat.end_of_turn_ids[0],
        )
    )
    rows = [row for episode in episodes for row in rows_of(episode, chat)]
    settings = CloningSettings(
        epochs=10,
        tokens_per_batch=1000,
        learning_rate=5.0e-3,
        warmup_updates=3,
        observation_weight=0.0,
    )
    clone(model, rows, settings, seed=0)
    folder = tmp_path_factory.mktemp("taught")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def setting(**keys) -> dict:
    return {"engine": "policy", "max_completion_tokens": 64, "temperature": 0.0, **keys}


def test_replies_become_skills_and_move_the_advantages_of_their_episodes(taught_model, local_ray):
    shared = {"language_model": str(taught_model), "updates": 1}
    grpo = trained("GRPO", **shared)
    weights, (result,), batches = trained("OPID", analyzer=setting(), **shared)
    counts = result["analyzer"]
    assert counts["episodes"] == EPISODES == counts["successes"] + counts["failures"]
    assert counts["successes"] > EPISODES / 2
    assert counts["requests"] > counts["successes"], "the first attempt was refused"
    (columns, skills), (plain, _) = batches[0], grpo[2][0]
    found = [skill for skill in skills if skill is not None]
    assert len(found) == counts["successes"]
    assert all(skill.episode_skill in SKILL_AFTER.values() for skill in found)
    assert {text for skill in found for text in skill.step_skills.values()} <= {STEP_SKILL}
    assert torch.equal(columns["response_mask"], plain["response_mask"]), "the same rollouts"
    for row, index in enumerate(columns["episode_index"].tolist()):
        is_same = torch.equal(columns["advantages"][row], plain["advantages"][row])
        assert is_same == (skills[index] is None)
    assert not same_as(grpo, weights, batches)


def test_without_a_second_attempt_nothing_is_readable(taught_model, local_ray):
    shared = {"language_model": str(taught_model), "updates": 1}
    grpo = trained("GRPO", **shared)
    weights, (result,), batches = trained("OPID", analyzer=setting(parse_attempts=1), **shared)
    assert result["analyzer"]["failure"]["unreadable"] == EPISODES
    assert result["analyzer"]["requests"] == EPISODES
    assert same_as(grpo, weights, batches)


def test_remote_runners_ask_and_counts_add_up_over_learners(taught_model, local_ray):
    shared = {"language_model": str(taught_model), "analyzer": setting(), "updates": 1}
    _, (local,), _ = trained("OPID", **shared)
    _, (remote,), _ = trained("OPID", num_env_runners=2, num_learners=2, **shared)
    assert remote["analyzer"] == local["analyzer"]
    assert remote["analyzer"]["successes"] > 0
