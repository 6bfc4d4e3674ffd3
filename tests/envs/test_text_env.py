"""The text contract: what the checker accepts, and that it catches each way to break it."""

import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
import stepopsd_envs
from stepopsd_envs.checks import TextEnvContractError, check_text_env
from stepopsd_envs.text_env import TextEnv
from stepopsd_envs.text_space import UnicodeText

from tests.helpers.guessing import GuessEnv


def broken(method: str, change: Callable[[Any], Any]) -> TextEnv:
    """Returns a GuessEnv whose `method` has its result changed."""
    env = GuessEnv()
    real = getattr(env, method)
    setattr(env, method, lambda *args, **kwargs: change(real(*args, **kwargs)))
    return env


def test_a_correct_environment_passes():
    check_text_env(GuessEnv())
    check_text_env(GuessEnv(), responses=("x", "a"))


@pytest.mark.parametrize(
    ("method", "change", "complaint"),
    [
        ("tasks", lambda tasks: list(tasks), "no full tuple"),
        ("tasks", lambda tasks: tasks[:0], "no full tuple"),
        ("tasks", lambda tasks: tasks[::-1], "unsorted or repeats"),
        ("tasks", lambda tasks: tasks + tasks[-1:], "unsorted or repeats"),
        ("tasks", lambda tasks: ("same/a",), "is in valid_seen and in train"),
        ("reset", lambda result: (b"", result[1]), "observation is a bytes"),
        ("_info", lambda info: info | {"won": 1}, r"info\['won'\]=1 is no bool"),
        ("_info", lambda info: {k: v for k, v in info.items() if k != "action"}, "lacks 'action'"),
        ("_info", lambda info: info | {"anchor": None}, r"info\['anchor'\]=None is no str"),
        ("step", lambda r: (r[0], 1, *r[2:]), "the reward is a int"),
        ("step", lambda r: (r[0], r[1], True, True, r[4]), "both terminated and truncated"),
        ("step", lambda r: (*r[:4], r[4] | {"tool_error": "x"}), "tool_error must be truncated"),
        ("step", lambda r: (*r[:2], False, False, r[4]), "no end after"),
        ("window_message", lambda text: None, "window_message is a NoneType"),
        ("append_message", lambda text: None, "append_message is a NoneType"),
        ("first_message", lambda text: None, "first_message is a NoneType"),
    ],
)
def test_each_breach_of_the_contract_is_named(method, change, complaint):
    with pytest.raises(TextEnvContractError, match=complaint):
        check_text_env(broken(method, change))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"action_tags": ["action"]}, r"action_tags=\['action'\] is no tuple of strings"),
        ({"refusals": "nothing happens"}, "refusals='nothing happens' is no tuple"),
        ({"turn_phrases": ("",)}, r"turn_phrases=\('',\) is no tuple of strings that say"),
        ({"answer_tags": ("answer",)}, r"answer_tags names \['answer'\], which action_tags does"),
        ({"moving_commands": ("go",)}, "which exploring_commands does not"),
        ({"contexts": ("append", "grow")}, "contexts=.* must name some of"),
        ({"contexts": ()}, "contexts=.* must name some of"),
        ({"skill_libraries": {"mine": "/no/such"}}, r"skill_libraries\['mine'\]='/no/such' is no"),
        ({"response_of": lambda self, command: None}, "response_of is a NoneType"),
        (
            {"skill_categories": classmethod(lambda cls, kind, text: ["a"])},
            r"skill_categories gave \['a'\], not a tuple",
        ),
    ],
)
def test_what_a_class_says_of_itself_must_be_usable(said, complaint):
    with pytest.raises(TextEnvContractError, match=complaint):
        check_text_env(type("Odd", (GuessEnv,), said)())


def test_a_category_that_a_library_lacks_is_caught(tmp_path):
    (tmp_path / "general.md").touch()
    said = {
        "skill_libraries": {"mine": tmp_path},
        "skill_categories": classmethod(lambda cls, kind, text: (kind,)),
    }
    env = type("Taught", (GuessEnv,), said)
    with pytest.raises(TextEnvContractError, match=r"'mine' lacks the categories \['guess'\]"):
        check_text_env(env())
    (tmp_path / "guess.md").touch()
    check_text_env(env())


def test_a_class_knows_what_it_says_itself_and_what_it_inherits_from_its_own():
    class Rated(GuessEnv):
        @classmethod
        def largest_return(cls, env_config):
            return 2.0

    class More(Rated):
        pass

    assert More.says("largest_return") and not More.says("skill_categories")
    assert not GuessEnv.says("largest_return") and not TextEnv.says("largest_return")


def test_a_bare_command_goes_into_the_first_tag_or_the_one_that_it_names():
    class Asking(GuessEnv):
        action_tags = ("search", "answer")

    class Tagless(GuessEnv):
        action_tags = ()

    assert GuessEnv().response_of("look here") == "<action>look here</action>"
    assert GuessEnv().response_of("action it") == "<action>action it</action>"
    assert Asking().response_of("who is it") == "<search>who is it</search>"
    assert Asking().response_of("ANSWER Lisbon") == "<answer>Lisbon</answer>"
    assert Asking().response_of("answer") == "<search>answer</search>"
    assert Tagless().response_of("look") == "look"


def test_an_environment_that_is_not_reproducible_is_caught():
    counter = iter(range(10_000))
    env = broken("step", lambda r: (f"{r[0]} {next(counter)}", *r[1:]))
    with pytest.raises(TextEnvContractError, match="two transcripts"):
        check_text_env(env)


def test_an_environment_that_takes_any_split_is_caught():
    env = GuessEnv()
    env.tasks = lambda split: (f"{split}/a",)
    with pytest.raises(TextEnvContractError, match="unknown split is not refused"):
        check_text_env(env)


def test_the_space_holds_real_text_and_samples_reproducibly():
    space = UnicodeText()
    for text in ("", "plain", "naïve 中文 🙂 \u202e", "x" * 100_000):
        assert space.contains(text)
    assert not space.contains(3) and not space.contains(b"bytes")
    space.seed(5)
    samples = [space.sample() for _ in range(20)]
    again = pickle.loads(pickle.dumps(UnicodeText(seed=5)))
    assert [again.sample() for _ in range(20)] == samples
    assert len(set(samples)) > 10 and all(space.contains(sample) for sample in samples)


def test_ids_are_registered_without_importing_the_environments():
    assert stepopsd_envs.TextEnv is TextEnv
    spec = gym.spec("stepopsd/ALFWorld-v0")
    assert spec.entry_point == "stepopsd_envs.alfworld.env:ALFWorldEnv"
    assert gym.spec("stepopsd/SearchQA-v0").entry_point == "stepopsd_envs.search_qa.env:SearchQAEnv"
