"""What `env:` takes, and what a method says to an environment that does not say enough."""

from __future__ import annotations

import re

import gymnasium
import pytest
from ray.tune import register_env
from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.checks import check_text_env
from stepopsd_envs.search_qa.env import SearchQAEnv

from stepopsd_rllib import ALGORITHMS, GRPOConfig
from stepopsd_rllib.environments import env_name, make_text_env, text_env_class
from stepopsd_rllib.tiny.tiny import package_folder
from tests.helpers.agents import SMALL
from tests.helpers.guessing import GuessEnv

GUESS = "tests.helpers.guessing:GuessEnv"
MODEL = {"model": str(package_folder("alfworld")), "env_config": {}}


def validate(name: str = "GRPO", **keys: object) -> None:
    """Validates a method's configuration of a small agent."""
    config = ALGORITHMS[name].get_default_config()
    config.update_from_dict({**SMALL, **MODEL, **keys})
    config.validate()


def refusal(name: str = "GRPO", **keys: object) -> str:
    """The line with which a method refuses a configuration; RLlib may add one of its own."""
    with pytest.raises(ValueError) as caught:
        validate(name, **keys)
    return str(caught.value).splitlines()[0]


def test_an_environment_is_named_by_its_id_its_class_or_where_its_class_is_found():
    assert text_env_class("stepopsd/SearchQA-v0") is SearchQAEnv
    assert text_env_class(GuessEnv) is GuessEnv
    assert text_env_class(GUESS) is GuessEnv
    for env in (GuessEnv, GUESS):
        made = make_text_env(env, {"turns": 2})
        assert isinstance(made, GuessEnv) and made.turns == 2
        check_text_env(made)
    assert env_name(GuessEnv) == GUESS and env_name("a/B-v0") == "a/B-v0"


def test_an_id_brings_its_own_arguments_and_env_config_goes_before_them():
    gymnasium.register("guessing/Short-v0", GUESS, kwargs={"turns": 1}, disable_env_checker=True)
    try:
        short = make_text_env("guessing/Short-v0", {})
        long = make_text_env("guessing/Short-v0", {"turns": 9})
        assert isinstance(short, GuessEnv) and isinstance(long, GuessEnv)
        assert (short.turns, long.turns) == (1, 9)
        assert short.spec is not None and short.spec.id == "guessing/Short-v0"
    finally:
        gymnasium.registry.pop("guessing/Short-v0")


def test_a_name_given_to_register_env_means_what_its_function_makes():
    calls = []

    def creator(env_config):
        calls.append(dict(env_config))
        return GuessEnv(**env_config)

    register_env("my guesses", creator)
    assert text_env_class("my guesses", {"turns": 2}) is GuessEnv
    made = make_text_env("my guesses", {"turns": 2})
    assert isinstance(made, GuessEnv) and made.turns == 2
    register_env("my guesses", ALFWorldEnv)
    assert text_env_class("my guesses") is ALFWorldEnv, "the newest of a name counts"


def test_a_configuration_trains_in_a_class_or_a_registered_name():
    register_env("guesses of a config", lambda env_config: GuessEnv(**env_config))
    for env in (GuessEnv, GUESS, "guesses of a config"):
        config = GRPOConfig().environment(env, env_config={"turns": 2})
        config.update_from_dict({key: value for key, value in SMALL.items() if "env" not in key})
        config.agent(model=MODEL["model"])
        config.validate()
        assert config.env_class() is GuessEnv
        assert isinstance(config.make_env(), GuessEnv)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("envs:stepopsd/ALFWorld-v0", "spelling of an earlier version. Write 'stepopsd/ALFWorld"),
        ("stepopsd/ALFWrold-v0", "Did you mean 'stepopsd/ALFWorld-v0'?"),
        ("tests.helpers.guessing:GessEnv", "written 'package.module:Class'"),
        ("tests.helpers.nowhere:GuessEnv", "No module named 'tests.helpers.nowhere'"),
        ("CartPole-v1", "not a text environment"),
        (gymnasium.Env, "'gymnasium.core:Env'.*not a text environment"),
        (3, "config.env=3: must be an id, a class"),
    ],
)
def test_an_environment_that_is_none_is_one_line(env, message):
    config = GRPOConfig()
    config.env = env
    with pytest.raises(ValueError, match=message) as caught:
        config.env_class()
    assert "\n" not in str(caught.value)


def test_a_function_of_register_env_must_make_a_text_environment():
    register_env("a cart", lambda env_config: gymnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"config.env='a cart' is .*CartPoleEnv.*no task list"):
        text_env_class("a cart")


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("GRPO", {"model": "tiny"}, "Set GuessEnv.embedded_model, or give the folder"),
        ("SDAR", {}, "config.skills='packaged': GuessEnv brings no skills. Set GuessEnv.skill_lib"),
        ("OPID", {}, "config.analyzer='rules': .* Set GuessEnv.refusals, such as"),
        ("GRSD", {"analyzer": "rules"}, "config.analyzer='rules': .* Set GuessEnv.refusals"),
        (
            "StepOPSD",
            {"span_mode": "answer_only"},
            "config.span_mode='answer_only': GuessEnv names no answer_tags",
        ),
    ],
)
def test_a_method_names_what_the_environment_does_not_say(name, keys, message):
    small_skills = {"skills": "search_qa_brief", "skill_max_tokens": 256} if name == "SDAR" else {}
    validate(name, **{"env": "stepopsd/SearchQA-v0", **keys, **small_skills})
    text = refusal(name, env=GUESS, **keys)
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("name", "hook"), [("SDAR", "skill_categories"), ("AgentOPSD", "largest_return")]
)
def test_a_method_names_the_method_that_the_environment_lacks(name, hook, tmp_path):
    (tmp_path / "general.md").write_text(
        "# General\n\n## Look {#look}\nPrinciple: Look.\nWhen to apply: Always.\n"
    )
    keys = {"env": GUESS, "skills": str(tmp_path), "skill_max_tokens": 256}
    if name == "AgentOPSD":
        keys["skill_retrieval"] = "keyword"
    text = refusal(name, **keys)
    assert f"GuessEnv.{hook}(" in text and ("AgentOPSD" in text or "skill_retrieval" in text)


@pytest.mark.parametrize("protocol", ["append", "window"])
@pytest.mark.parametrize("context", ["append", "window"])
def test_search_qa_protocol_and_context_must_agree(protocol, context):
    keys = {
        "env": "stepopsd/SearchQA-v0",
        "env_config": {"protocol": protocol},
        "context": context,
    }
    if protocol == context:
        validate(**keys)
    else:
        text = refusal(**keys)
        assert f"config.context={context!r}: env_config.protocol={protocol!r}" in text
        assert f"Set context={protocol!r}" in text


def test_a_context_that_an_environment_does_not_serve_is_refused():
    class GrowingGuess(GuessEnv):
        contexts = ("append",)

    text = refusal(env=GrowingGuess, context="window")
    assert text.endswith("GrowingGuess writes no messages for it. Use context='append'.")
