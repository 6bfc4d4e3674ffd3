from pathlib import Path

import pytest
import yaml
from ray.rllib.algorithms.ppo import PPO

from stepopsd_rllib.commands import tuned

CARTPOLE = """
cartpole:
  run: ray.rllib.algorithms.ppo:PPO
  env: CartPole-v1
  stop: {training_iteration: 3}
  config:
    lr: {grid_search: [1.0e-3, 1.0e-4]}
    num_env_runners: 0
"""


@pytest.fixture
def example_file(tmp_path: Path):
    def write(text: str = CARTPOLE, name: str = "example.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_an_example_is_read_with_all_its_keys(example_file):
    example = tuned.read(example_file())
    assert (example.name, example.run) == ("cartpole", "ray.rllib.algorithms.ppo:PPO")
    assert example.stop == {"training_iteration": 3}
    assert tuned.algorithm_class(example) is PPO


def test_a_grid_becomes_one_config_a_variant(example_file):
    configs = tuned.configs(tuned.read(example_file()))
    assert [config.lr for config in configs] == [1.0e-3, 1.0e-4]
    assert all(config.env == "CartPole-v1" and config.num_env_runners == 0 for config in configs)


def test_overrides_reach_config_stop_and_nested_keys(example_file):
    overrides = ["lr=5.0e-4", "env_config.size=small", "stop.training_iteration=7", "num_samples=2"]
    example = tuned.read(example_file(), overrides)
    assert example.config["lr"] == 5.0e-4
    assert example.config["env_config"] == {"size": "small"}
    assert example.stop == {"training_iteration": 7}
    assert example.num_samples == 2


def test_param_space_is_a_copy(example_file):
    example = tuned.read(example_file())
    tuned.param_space(example)["lr"]["grid_search"].clear()
    assert example.config["lr"] == {"grid_search": [1.0e-3, 1.0e-4]}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("run:", "rum:", r"cartpole\.rum is not a key of a tuned example; did you mean 'run'\?"),
        ("  stop: {training_iteration: 3}\n", "", r"cartpole\.stop is missing\. Say when to end"),
        ("training_iteration: 3", "training_iteration: 1e3", r"'1e3' is text\. Write 1000\.0\."),
        ("training_iteration: 3", "training_iterations: 3", "did you mean 'training_iteration'"),
        ("training_iteration: 3", "training_iteration: many", r"is text\. Write a number\."),
        ("ray.rllib.algorithms.ppo:PPO", "GRPOO", r"run='GRPOO' is not an algorithm"),
        ("ppo:PPO", "ppo:PPPO", r"cannot be imported"),
        ("ppo:PPO", "ppo:PPOConfig", r"is not an RLlib Algorithm"),
        ("    num_env_runners: 0", "    lr: 0.1", r"lr is written twice \(line 8\)"),
        ("  config:", "  num_samples: two\n  config:", r"num_samples='two' is not a whole number"),
        ("cartpole:", "cartpole: [", "is not valid YAML"),
        ("  env:", "other:\n  env:", "has 2 top-level keys"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_the_file_and_the_key(
    example_file, old, new, message
):
    assert old in CARTPOLE
    path = example_file(CARTPOLE.replace(old, new))
    with pytest.raises(ValueError, match=message) as refusal:
        tuned.configs(tuned.read(path))
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("override", ["lr", "=3", "lr=[", "run.x=1"])
def test_a_broken_override_is_refused_by_its_text(example_file, override):
    with pytest.raises(ValueError, match="--set"):
        tuned.read(example_file(), [override])


def test_a_missing_file_says_where_examples_are():
    with pytest.raises(ValueError, match=r"nowhere\.yaml: no such file\. Tuned examples are in"):
        tuned.read("nowhere.yaml")


@pytest.mark.parametrize("value", [1e-6, 1.5e-7, 0.1, 3e22, 2.0])
def test_the_advised_number_is_read_as_that_number(value):
    advice = tuned.yaml_number(value)
    assert yaml.safe_load(advice) == value


def test_the_tuner_gets_stop_checkpoints_and_storage(example_file, tmp_path):
    text = CARTPOLE.replace("  config:", "  checkpoint_freq: 5\n  max_failures: 2\n  config:")
    runner = tuned.tuner(tuned.read(example_file(text)), storage=tmp_path, name="here")
    settings = runner._local_tuner._run_config
    assert settings.name == "here"
    assert settings.stop == {"training_iteration": 3}
    assert settings.checkpoint_config.checkpoint_frequency == 5
    assert settings.checkpoint_config.checkpoint_at_end
    assert settings.failure_config.max_failures == 2
