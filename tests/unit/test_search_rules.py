"""Skills that rules read off Search-QA episodes, played in the real environment."""

from __future__ import annotations

from typing import Any

import pytest
from stepopsd_envs.search_qa.env import SearchQAEnv
from stepopsd_envs.search_qa.skill_rules import SearchEffect, SearchTurn, search_turns

from stepopsd_rllib.teachers.analysis.analyzer import EpisodeRecord, EpisodeSkills
from stepopsd_rllib.teachers.analysis.rule_analyzer import RuleAnalyzer
from stepopsd_rllib.teachers.skill_insertion import insert_skills
from tests.unit.test_rule_analyzer import Recorded


def played(*responses: str, protocol: Any = "append", level: str = "easy") -> EpisodeRecord:
    """The record of an episode in which a policy writes these responses.

    `{subject}` and `{answer}` stand for the name in the question and the right answer, `{other}`
    for the other name of the passage, `{elsewhere}` for a name of another question.
    """
    env = SearchQAEnv(level=level, protocol=protocol)
    tasks = env.tasks("train")
    env.reset(options={"task": tasks[1]})
    elsewhere = env.question.lookups[0].subject
    observation, info = env.reset(options={"task": tasks[0]})
    [lookup] = env.question.lookups
    city, _, company = lookup.statement.rstrip(".").partition(" and works for ")
    city = city.partition(" was born in ")[2]
    names = {
        "subject": lookup.subject,
        "answer": lookup.value,
        "other": city if lookup.value == company else company,
        "elsewhere": elsewhere,
    }
    task = observation
    turns = []
    for response in responses:
        before = observation
        observation, _, _, _, info = env.step(response.format(**names))
        turns.append(Recorded(before, info["action"], info["is_action_valid"]))
    return EpisodeRecord(task=task, outcome="success" if info["won"] else "failure", turns=turns)


def judged(record: EpisodeRecord) -> list[SearchTurn]:
    return search_turns(record.task, record.turns, won=record.outcome == "success")


def skills_of(record: EpisodeRecord, **settings: Any) -> EpisodeSkills:
    skills = RuleAnalyzer(SearchQAEnv, **settings).analyze(record)
    assert skills is not None
    return skills


SEARCH, ANSWER = "<search>{subject}</search>", "<answer>{answer}</answer>"
WRONG = "<answer>{other}</answer>"


@pytest.mark.parametrize("protocol", ["append", "window"])
@pytest.mark.parametrize(
    ("responses", "effects"),
    [
        ([SEARCH, ANSWER], [SearchEffect.FOUND, SearchEffect.RIGHT]),
        ([ANSWER], [SearchEffect.RIGHT_UNSEEN]),
        (["<answer>{elsewhere}</answer>"], [SearchEffect.GUESSED]),
        ([SEARCH, WRONG], [SearchEffect.FOUND, SearchEffect.MISREAD]),
        (
            [SEARCH, "<answer>it is {answer}</answer>"],
            [SearchEffect.FOUND, SearchEffect.UNSUPPORTED],
        ),
        (
            [SEARCH, "<search>{subject}</search>", ANSWER],
            [SearchEffect.FOUND, SearchEffect.REPEATED, SearchEffect.RIGHT],
        ),
        (
            [SEARCH, "<search>{subject} born</search>", ANSWER],
            [SearchEffect.FOUND, SearchEffect.NOTHING_NEW, SearchEffect.RIGHT],
        ),
        (
            ["<search>zzz</search>", "let me think", ANSWER],
            [SearchEffect.ELSEWHERE, SearchEffect.INVALID, SearchEffect.RIGHT_UNSEEN],
        ),
    ],
)
def test_effects_are_read_off_what_the_environment_says(protocol, responses, effects) -> None:
    record = played(*responses, protocol=protocol)
    assert [turn.effect for turn in judged(record)] == effects


def test_a_success_teaches_its_searches_and_its_answer_without_detours() -> None:
    record = played(SEARCH, "nothing", "<search>{subject}</search>", ANSWER)
    skills = skills_of(record, max_step_skills=2)
    subject, answer = (turn.content for turn in (judged(record)[0], judged(record)[3]))
    assert skills.episode_skill == (
        f"Do these in order and nothing else: search for `{subject}`, then answer `{answer}`."
    )
    assert set(skills.step_skills) == {0, 3}
    assert skills.step_skills[3] == f"Answer `{answer}` now: a passage says it."


def test_a_failure_teaches_the_answer_to_avoid_before_everything_else() -> None:
    record = played(SEARCH, "<search>{subject}</search>", "hm", WRONG)
    skills = skills_of(record, max_step_skills=2)
    assert list(skills.step_skills) == [3, 1]
    first, second, third = skills.episode_skill.split(". ")[:3]
    assert first.startswith("Do not answer `") and "a passage names it" in first
    assert second.endswith("again: the same query finds the same passages")
    assert third.startswith("Write one action here")


def test_an_episode_without_an_answer_is_told_to_answer() -> None:
    skills = skills_of(played(*[SEARCH] * 5))
    assert skills.episode_skill.startswith(
        "Answer before the turns run out: none of 5 turns gave an answer. Do not search `"
    )
    assert skills.episode_skill.count("Do not search") == 1


def test_an_invalid_response_with_the_right_answer_still_teaches_the_answer() -> None:
    record = played(SEARCH, "<answer>{answer}</answer><answer>x</answer>", protocol="window")
    assert not record.turns[1].is_action_valid and record.outcome == "success"
    assert judged(record)[1].effect is SearchEffect.RIGHT


def test_the_right_answer_of_a_failure_is_never_told() -> None:
    [right] = [turn.content for turn in judged(played(ANSWER))]
    for responses in ([SEARCH, WRONG], ["<answer>{elsewhere}</answer>"], [SEARCH] * 5):
        skills = skills_of(played(*responses))
        assert right not in " ".join([skills.episode_skill, *skills.step_skills.values()])


@pytest.mark.parametrize("protocol", ["append", "window"])
def test_skills_stand_after_the_question_and_before_the_turn(protocol: Any) -> None:
    env = SearchQAEnv(protocol=protocol)
    observation, info = env.reset(seed=0)
    prompt = insert_skills(
        env.first_message(observation, info),
        episode_skill="E",
        step_skill="S",
        task_phrases=env.task_phrases,
        turn_phrases=env.turn_phrases,
    )
    assert f"Your question: {info['question']}\n\n**" in prompt
    if protocol == "window":
        assert prompt.index("[E]") < prompt.index("[S]") < prompt.index("Now it's your turn to")


@pytest.mark.parametrize("told", ['{"result": null}', '{"result": 7}', "[" * 100_000, '["result"]'])
def test_a_passage_that_reads_like_json_is_text(told: str) -> None:
    turns = (
        Recorded("Who?", "<search>who</search>"),
        Recorded(f"<information>{told}</information>", "<answer>x</answer>"),
    )
    analyzer = RuleAnalyzer(SearchQAEnv)
    for outcome in ("success", "failure"):
        analyzer.analyze(EpisodeRecord(task="Who?", outcome=outcome, turns=turns))
    assert not analyzer.counts.failures
