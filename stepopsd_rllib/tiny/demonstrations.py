"""Expert episodes of training tasks, from which the embedded models are cloned.

Each environment has one function here; it plays with an expert that sees what the policy sees.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepopsd_envs.search_qa.env import SearchQAEnv
from stepopsd_envs.search_qa.expert import SearchExpert
from stepopsd_envs.search_qa.protocol import SearchAction
from stepopsd_envs.search_qa.world import Question
from stepopsd_envs.webshop.env import WebShopEnv
from stepopsd_envs.webshop.expert import ReadingShopper

from stepopsd_rllib.teachers.skill_retrieval import (
    keyword_categories,
    privileged_preamble,
    student_preamble,
)
from stepopsd_rllib.teachers.skills import SkillLibrary, environment_library
from stepopsd_rllib.tiny.alfworld_demonstrations import alfworld_demonstrations
from stepopsd_rllib.tiny.demonstration import DemonstratedTurn, Demonstration, training_tasks


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchDemonstrationSettings:
    """Which Search-QA episodes are shown to a model; every field moves the result.

    Two mistakes *are* imitated, one in each turn that a question takes. They make a model that
    can search and copy lose most questions, and so give reinforcement learning something to
    unlearn.

    Attributes:
        episodes: Number of episodes; the training questions are gone through in random order,
            again and again.
        noise: Probability, each search, of somebody else's name in place of the expert's query.
            It is not imitated: the model sees the wrong passage and how the expert goes on.
        guessing: Probability that an episode is answered without a search, with the answer to an
            earlier question of the kind. Imitated.
        confusion: Probability that the answer is another name of the passage. Imitated.
        informed: Probability that the skills of `skills` stand in the prompt. Such an episode is
            played without the two mistakes, so that skills in a prompt call for better play: what
            a skill-informed teacher needs. Half of them stand where a teacher reads them, in front
            of the whole prompt, half where a student does, in its first message.
        skills: Name of the packaged library.
    """

    episodes: int
    noise: float = 0.0
    guessing: float = 0.0
    confusion: float = 0.0
    informed: float = 0.0
    skills: str = "search_qa_brief"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShopDemonstrationSettings:
    """Which WebShop episodes are shown to a model; every field moves the result.

    Two habits *are* imitated, both on the page of a product. They make a model that can search,
    read and copy lose most episodes, and so give reinforcement learning something to unlearn.

    Attributes:
        episodes: Number of episodes; the training goals are gone through in random order, again
            and again.
        max_turns: Turn limit of the demonstrations; wider than the limit the model is measured
            with, so that long episodes are demonstrated too.
        noise: Probability, each turn, of a random click in place of the shopper's. It is not
            imitated: the model sees what comes of it and how the shopper goes on.
        dithering: Probability, each turn on a product's page, of looking at its description,
            features or reviews, which costs two turns. Imitated.
        haste: Probability, each turn before all options are chosen, of buying at once. Imitated.
        informed: Probability that the skills of `skills` stand in the prompt. Such an episode is
            played without the two habits, so that skills in a prompt call for better play: what a
            skill-informed teacher needs. Half of them stand where a teacher reads them, in front
            of the whole prompt, half where a student does, in its first message.
        skills: Name of the packaged library.
    """

    episodes: int
    max_turns: int = 20
    noise: float = 0.0
    dithering: float = 0.0
    haste: float = 0.0
    informed: float = 0.0
    skills: str = "webshop_brief"


def search_qa_demonstrations(
    env_config: Mapping[str, Any], settings: SearchDemonstrationSettings, *, seed: int
) -> list[Demonstration]:
    """Plays Search-QA training questions with an expert that errs; lost episodes stay.

    Args:
        env_config: Arguments of the environment.
        settings: How many episodes, and which mistakes.
        seed: Seed of the order of questions and of the mistakes.
    """
    env = SearchQAEnv(**env_config)
    library = environment_library(SearchQAEnv, settings.skills)
    rng = random.Random(seed)
    earlier: dict[str, Question] = {}  # the last question about each relation
    demonstrations = []
    for task in training_tasks(env, settings.episodes, rng):
        _, info = env.reset(options={"task": task})
        relation = env.question.lookups[-1].relation
        demonstrations.append(
            _play_search_qa(env, info, earlier.get(relation, env.question), settings, library, rng)
        )
        earlier[relation] = env.question
    return demonstrations


def _play_search_qa(
    env: SearchQAEnv,
    info: dict[str, Any],
    earlier: Question,
    settings: SearchDemonstrationSettings,
    library: SkillLibrary,
    rng: random.Random,
) -> Demonstration:
    question = env.question
    expert = SearchExpert(question, max_searches=env.max_searches)
    observation = env.first_message(info["question"], info)
    is_informed = rng.random() < settings.informed
    privileged, preamble = _told(library, info, rng) if is_informed else ("", "")
    first_message = preamble + observation
    is_guessing = not is_informed and rng.random() < settings.guessing
    turns: list[DemonstratedTurn] = []
    is_over = False
    while not is_over:
        action, is_learned = expert.act(observation), True
        draw = rng.random()
        if is_guessing:
            action = SearchAction("answer", earlier.golden_answers[0], True)
        elif action.kind == "search" and draw < settings.noise:
            action, is_learned = SearchAction("search", earlier.lookups[0].subject, True), False
        elif action.kind == "answer" and draw < settings.confusion and not is_informed:
            names = _NAME.findall(question.lookups[-1].statement)
            wrong = rng.choice([name for name in names if name != action.content])
            action = SearchAction("answer", wrong, True)
        observation, _, terminated, truncated, info = env.step(action.text())
        is_over = terminated or truncated
        turns.append(
            DemonstratedTurn(
                response=action.text(),
                is_learned=is_learned,
                next_message=env.append_message(observation, info),
            )
        )
    return Demonstration(
        task_id=info["task_id"],
        system_prompt=env.system_prompt,
        first_message=first_message,
        turns=tuple(turns),
        won=info["won"],
        privileged=privileged,
    )


def _told(library: SkillLibrary, info: Mapping[str, Any], rng: random.Random) -> tuple[str, str]:
    """Skills of the question as a teacher reads them, or as a student does."""
    if rng.random() < 0.5:
        categories = SearchQAEnv.skill_categories(info["task_type"], info["question"])
        return privileged_preamble(library.text(categories)), ""
    categories = keyword_categories(library, info["question"])
    return "", student_preamble(library.text(categories))


def webshop_demonstrations(
    env_config: Mapping[str, Any], settings: ShopDemonstrationSettings, *, seed: int
) -> list[Demonstration]:
    """Plays WebShop training goals with a shopper that reads the pages; lost episodes stay.

    Args:
        env_config: Arguments of the environment.
        settings: How many episodes, and which detours and mistakes.
        seed: Seed of the order of goals, of detours and mistakes.
    """
    env = WebShopEnv(**{**env_config, "max_turns": settings.max_turns})
    library = environment_library(WebShopEnv, settings.skills)
    rng = random.Random(seed)
    return [
        _play_webshop(env, task, settings, library, rng)
        for task in training_tasks(env, settings.episodes, rng)
    ]


def _play_webshop(
    env: WebShopEnv,
    task: str,
    settings: ShopDemonstrationSettings,
    library: SkillLibrary,
    rng: random.Random,
) -> Demonstration:
    observation, info = env.reset(options={"task": task})
    shopper = ReadingShopper(env.goal)
    is_informed = rng.random() < settings.informed
    privileged, preamble = _told_shopper(library, info, rng) if is_informed else ("", "")
    first_message = preamble + env.first_message(observation, info)
    turns: list[DemonstratedTurn] = []
    is_over = False
    while not is_over:
        offered = info["available_actions"]
        wanted = shopper.act(observation, env.clickables, info["action"])
        action, is_learned = wanted, True
        draw = rng.random()
        if "click[buy now]" in offered and not is_informed and draw < settings.dithering:
            action = rng.choice(_IDLE_CLICKS)
        elif (
            "click[buy now]" in offered
            and wanted != "click[buy now]"
            and not is_informed
            and draw < settings.dithering + settings.haste
        ):
            action = "click[buy now]"
        elif draw > 1 - settings.noise:
            choices = [name for name in offered if name not in _NEVER_AT_RANDOM]
            if choices:
                action, is_learned = rng.choice(choices), False
        observation, _, terminated, truncated, info = env.step(f"<action>{action}</action>")
        is_over = terminated or truncated
        turns.append(
            DemonstratedTurn(
                response=f"<action>{action}</action>",
                is_learned=is_learned,
                next_message=env.append_message(observation, info),
            )
        )
    return Demonstration(
        task_id=task,
        system_prompt=env.system_prompt,
        first_message=first_message,
        turns=tuple(turns),
        won=info["won"],
        privileged=privileged,
    )


def _told_shopper(
    library: SkillLibrary, info: Mapping[str, Any], rng: random.Random
) -> tuple[str, str]:
    """Skills of the department as a teacher reads them, or as a student does."""
    text = library.text(WebShopEnv.skill_categories(info["task_type"], info["instruction"]))
    if rng.random() < 0.5:
        return privileged_preamble(text), ""
    return "", student_preamble(text)


_IDLE_CLICKS = ("click[description]", "click[features]", "click[reviews]")
_NEVER_AT_RANDOM = ("click[buy now]", "click[search]", "search[<your query>]")

_NAME = re.compile(r"[A-Z]\w+(?: [A-Z]\w+)*")

DemonstrationFunction = Callable[..., list[Demonstration]]

DEMONSTRATIONS: dict[str, DemonstrationFunction] = {
    "alfworld": alfworld_demonstrations,
    "search_qa": search_qa_demonstrations,
    "webshop": webshop_demonstrations,
}
"""The function of each environment for which a recipe exists."""
