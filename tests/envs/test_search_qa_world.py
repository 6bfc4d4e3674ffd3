"""Generated worlds: reproducible, apart, and searching is necessary and sufficient."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from stepopsd_envs.search_qa.env import SearchQAEnv
from stepopsd_envs.search_qa.expert import SearchExpert, response_text
from stepopsd_envs.search_qa.tasks import GeneratedTasks, generated_world
from stepopsd_envs.search_qa.world import LEVELS
from stepopsd_envs.text_env import SPLITS

ROOT = Path(__file__).resolve().parents[2]
FINGERPRINT = """
import hashlib
from stepopsd_envs.search_qa.tasks import generated_world
made = [generated_world(level, 7) for level in ("easy", "two_hop")]
text = repr([(world.passages, questions) for world, questions, _ in made])
print(hashlib.sha256(text.encode()).hexdigest())
"""
EXPERT_EPISODES = 350
MIN_EXPERT_SUCCESS, MAX_GUESSER_SUCCESS = 0.98, 0.03


def play_expert(env: SearchQAEnv, task: str) -> bool:
    observation, info = env.reset(options={"task": task})
    expert = SearchExpert(env.question, max_searches=env.max_searches)
    is_over = False
    while not is_over:
        action = expert.act(observation)
        observation, _, terminated, truncated, info = env.step(response_text(action))
        is_over = terminated or truncated
    return info["won"]


def test_a_world_does_not_depend_on_hash_seeds():
    hashes = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_each_fact_is_stated_in_exactly_one_passage(level: str):
    world, _, _ = generated_world(level, 0)
    texts = [passage.contents for passage in world.passages]
    by_title: dict[str, list[str]] = {}
    for text in texts:
        by_title.setdefault(text.split("\n")[0].strip('"'), []).append(text)
    for (subject, _), statement in world.statements.items():
        holders = [text for text in by_title[subject] if statement in text]
        assert len(holders) == 1, (subject, statement)
    assert len({passage.id for passage in world.passages}) == len(world.passages)


def test_full_world_has_the_size_and_the_seven_kinds():
    world, questions, _ = generated_world("full", 0)
    assert sum(map(len, world.entities.values())) == 2000
    assert 4000 < len(world.passages) < 5000
    assert Counter(question.data_source for question in questions) == dict.fromkeys(
        ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle"), 100
    )


@pytest.mark.parametrize("level", LEVELS)
def test_worlds_of_different_splits_share_no_question_with_the_same_answer(level: str):
    source = GeneratedTasks(level)
    pairs: dict[str, set[tuple[str, str]]] = {}
    for split in ("train", "valid_unseen"):
        questions = [source.question(task) for task in source.tasks(split)]
        pairs[split] = {(question.text, question.golden_answers[0]) for question in questions}
    shared = pairs["train"] & pairs["valid_unseen"]
    assert len(shared) <= 0.01 * len(pairs["valid_unseen"])
    ids = [set(source.tasks(split)) for split in SPLITS]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("protocol", ["append", "window"])
def test_searching_is_sufficient(level: str, protocol):
    env = SearchQAEnv(level=level, protocol=protocol)
    tasks = env.tasks("valid_unseen")[:EXPERT_EPISODES]
    wins = sum(play_expert(env, task) for task in tasks)
    assert wins / len(tasks) >= MIN_EXPERT_SUCCESS


@pytest.mark.parametrize("level", LEVELS)
def test_searching_is_necessary(level: str):
    """The best guess per data source, learnt from all training worlds, is nearly always wrong."""
    source = GeneratedTasks(level)
    answers: dict[str, Counter[str]] = {}
    for task in source.tasks("train"):
        question = source.question(task)
        answers.setdefault(question.data_source, Counter()).update(question.golden_answers)
    best = {name: counts.most_common(1)[0][0] for name, counts in answers.items()}
    tasks = source.tasks("valid_unseen")
    right = sum(
        best[question.data_source] in question.golden_answers
        for question in map(source.question, tasks)
    )
    assert right / len(tasks) < MAX_GUESSER_SUCCESS


@pytest.mark.parametrize("level", LEVELS)
def test_no_answer_stands_in_its_question(level: str):
    for question in generated_world(level, 0).questions:
        assert question.golden_answers[0] not in question.text


def test_easy_level_needs_the_name_alone_and_one_passage():
    env = SearchQAEnv(level="easy")
    for task in env.tasks("train")[:80]:
        env.reset(options={"task": task})
        name = env.question.lookups[0].subject
        assert name in env.question.text
        observation = env.step(f"<search>{name}</search>")[0]
        assert observation.count("Doc ") == 1
        assert env.question.golden_answers[0] in observation
