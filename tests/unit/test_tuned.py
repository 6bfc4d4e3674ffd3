from pathlib import Path

import pytest
import yaml
from ray.rllib.algorithms.ppo import PPO

from stepopsd_rllib.commands import tuned
from stepopsd_rllib.commands.stop_keys import yaml_number

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
    assert tuned.read(example_file(), ["lr=1e-6"]).config["lr"] == 1e-6
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
        ("training_iteration: 3", "training_iteration: '1e3'", r"is text\. Write 1000\.0\."),
        ("training_iteration: 3", "training_iteration: .inf", r"no result reaches that"),
        ("training_iteration: 3", "evaluation/success_rate: 0.9", r"this run never evaluates"),
        ("training_iteration: 3", "env_runners/sucess_rate: 0.9", "'env_runners/success_rate'"),
        ("training_iteration: 3", "env_runners/success_rate: 90", r"at most 1\. Write 0\.9"),
        ("training_iteration: 3", "env_runners/task_score_mean: 90", r"at most 1\. Write 0\.9"),
        ("lr: {grid_search: [1.0e-3, 1.0e-4]}", "lr: {grid_search: 3}", "its grid is none"),
        ("lr: {grid_search: [1.0e-3, 1.0e-4]}", "lr: {eval: 1 + 1}", "is Python code"),
        ("num_env_runners: 0", "on: 0", "True is not the name of a key"),
        ("num_env_runners: 0", "lr_: 2020-01-01", "is a date"),
        ("run: ray.rllib.algorithms.ppo:PPO", "run: [PPO]", "is not a name"),
        ("  config:", "  num_samples: 0\n  config:", "at least 1"),
        ("  config:", "  preemption_grace_s: -1\n  config:", "seconds, at least 0"),
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


@pytest.mark.parametrize("override", ["lr", "=3", "lr=[", "run.x=1", "lr=1\nlr: 2"])
def test_a_broken_override_is_refused_by_its_text(example_file, override):
    with pytest.raises(ValueError, match="--set"):
        tuned.read(example_file(), [override])


def test_what_is_set_twice_is_refused(example_file):
    with pytest.raises(ValueError, match="lr is set twice, before by --set lr=1"):
        tuned.read(example_file(), ["lr=1", "lr=2"])
    with pytest.raises(ValueError, match=r"config\.model is written twice, once as language_model"):
        tuned.read(example_file(), ["model=tiny", "language_model=tiny"])


def test_top_level_keys_may_hold_what_aliases_refer_to(example_file):
    text = "x-shared: &shared {num_env_runners: 0}\n" + CARTPOLE.replace(
        "    num_env_runners: 0", "    <<: *shared"
    )
    example = tuned.read(example_file(text), ["num_env_runners=2"])
    assert example.config["num_env_runners"] == 2


def test_a_missing_file_says_where_examples_are():
    with pytest.raises(ValueError, match=r"nowhere\.yaml: no such file\. Tuned examples are in"):
        tuned.read("nowhere.yaml")


@pytest.mark.parametrize("value", [1e-6, 1.5e-7, 0.1, 3e22, 2.0])
def test_the_advised_number_is_read_as_that_number(value):
    advice = yaml_number(value)
    assert yaml.safe_load(advice) == value


def test_the_tuner_gets_stop_checkpoints_and_storage(example_file, tmp_path):
    text = CARTPOLE.replace("  config:", "  checkpoint_freq: 5\n  max_failures: 2\n  config:")
    runner = tuned.tuner(tuned.read(example_file(text)), storage=tmp_path, name="here")
    assert runner._local_tuner is not None
    settings = runner._local_tuner._run_config
    assert settings.checkpoint_config is not None and settings.failure_config is not None
    assert settings.name == "here"
    assert settings.stop == {"training_iteration": 3}
    assert settings.checkpoint_config.checkpoint_frequency == 5
    assert settings.checkpoint_config.checkpoint_at_end
    assert settings.failure_config.max_failures == 2


def test_a_run_writes_the_commit_behind_a_model_of_the_hub(monkeypatch):
    monkeypatch.setattr("stepopsd_rllib.models.hub.hub_folder", lambda name: f"/cache/{name}/abc")
    example = tuned.read("tuned_examples/grpo/alfworld_tiny.yaml", ["model=owner/name@main"])
    assert tuned.pinned(example).config["model"] == "owner/name@abc"
    tiny = tuned.read("tuned_examples/grpo/alfworld_tiny.yaml")
    assert tuned.pinned(tiny) is tiny
