"""The method of docs/add_a_method.md, taken from the page and trained from outside the package."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib.commands import tuned
from stepopsd_rllib.episodes import to_rllib
from tests.helpers.agents import SMALL, build_learner, random_groups, weights_of

PAGE = Path(__file__).parents[2] / "docs" / "add_a_method.md"
MODULE = "short_first_of_the_page"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found.group(1)


@pytest.fixture
def method(tmp_path, monkeypatch):
    path = tmp_path / f"{MODULE}.py"
    path.write_text(block("python"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


def trained(config, **keys) -> dict[str, torch.Tensor]:
    config.update_from_dict({**SMALL, "lr": 3e-4, "kl_coeff": 0.0, "entropy_coeff": 0.0, **keys})
    config.max_sampler_difference = None  # recorded log-probs are random numbers
    config.validate()
    learner = build_learner(config)
    episodes = [to_rllib(episode) for group in random_groups((3, 2)) for episode in group]
    results = learner.update(episodes=episodes, timesteps={})
    assert results[DEFAULT_MODULE_ID]
    return weights_of(learner)


def test_the_method_of_the_page_trains_and_is_grpo_at_power_0(method):
    expected = trained(tuned.ALGORITHMS["GRPO"].get_default_config())
    neutral = trained(method.ShortFirst.get_default_config(), turn_power=0.0)
    shaped = trained(method.ShortFirst.get_default_config(), turn_power=0.5)
    assert all(torch.equal(neutral[name], value) for name, value in expected.items())
    assert not all(torch.equal(shaped[name], value) for name, value in expected.items())


def test_a_tuned_example_finds_it_and_refuses_its_wrong_values(method, tmp_path):
    path = tmp_path / "example.yaml"
    text = block("yaml").replace("my_package.short_first", MODULE)
    path.write_text(text, encoding="utf-8")
    (config,) = tuned.configs(tuned.read(path))
    assert (type(config).__name__, config.turn_power) == ("ShortFirstConfig", 0.5)
    with pytest.raises(ValueError, match=r"config\.turn_power=-1: must be"):
        tuned.configs(tuned.read(path, ["turn_power=-1"]))
    assert yaml.safe_load(text)


def test_the_method_is_about_forty_lines(method):
    code = [line for line in block("python").splitlines() if line.strip()]
    assert len(code) <= 45
