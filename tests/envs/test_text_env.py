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


class GuessEnv(TextEnv):
    """Say the last letter of the task within three turns."""

    def tasks(self, split):
        if split not in ("train", "valid_seen", "valid_unseen"):
            raise ValueError(f"split={split!r}")
        return (f"{split}/a", f"{split}/b")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = self.task_for_reset(options)
        if "/" not in self.task:
            raise ValueError(f"task={self.task!r}")
        self.turns = 0
        return "Guess!", self.info("", won=False)

    def step(self, action):
        self.turns += 1
        won = action == self.task[-1]
        observation = "Right." if won else "Wrong."
        return observation, float(won), won, not won and self.turns == 3, self.info(action, won=won)

    def info(self, action, *, won):
        return {
            "task_id": self.task,
            "task_type": "guess",
            "won": won,
            "is_action_valid": True,
            "action": action,
        }

    def first_message(self, observation, info):
        return observation

    def append_message(self, observation, info):
        return observation

    def window_message(self, history, observation, info):
        return f"{[turn.action for turn in history]} {observation}"


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
        ("info", lambda info: info | {"won": 1}, r"info\['won'\]=1 is no bool"),
        ("info", lambda info: {k: v for k, v in info.items() if k != "action"}, "lacks 'action'"),
        ("info", lambda info: info | {"anchor": None}, r"info\['anchor'\]=None is no str"),
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
