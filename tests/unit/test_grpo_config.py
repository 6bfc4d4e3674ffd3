"""Every mistake in a GRPO config is one line that names key, value, reason and fix."""

from __future__ import annotations

import importlib.util

import pytest

from stepopsd_rllib import GRPOConfig
from stepopsd_rllib.commands.failures import one_line
from stepopsd_rllib.models.loading import load_causal_lm
from tests.helpers.agents import small_config


def refusal(config: GRPOConfig) -> str:
    with pytest.raises(ValueError) as raised:
        config.validate()
    return one_line(str(raised.value))


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ({"group_size": 1}, "group_size=1: GRPO compares episodes of one task, so a group of one"),
        ({"group_size": "8"}, "group_size='8': must be a whole number of episodes"),
        ({"group_size": True}, "group_size=True: must be a whole number"),
        ({"groups_per_step": 0}, "groups_per_step=0: must be a whole number of tasks"),
        ({"context": "apend"}, "context='apend': must be 'append' or 'window'"),
        ({"window_turns": -1}, "window_turns=-1: must be a whole number of turns"),
        ({"max_response_tokens": 512}, "max_response_tokens=512 leaves no room for a prompt in"),
        ({"temperature": 0.0}, "temperature=0.0: must be a number above 0"),
        ({"temperature": float("nan")}, "temperature=nan: must be a number above 0"),
        ({"top_p": 1.5}, r"top_p=1.5: must be a number in (0, 1]"),
        ({"eval_num_tasks": "ten"}, "eval_num_tasks='ten': must be a whole number of tasks"),
        ({"eval_temperature": -1}, "eval_temperature=-1: must be a number, at least 0"),
        ({"sampler": "vlm"}, "sampler='vlm': must be 'auto', 'vllm', 'transformers', or a class"),
        ({"sampler_config": "dtype"}, "sampler_config='dtype': must be a mapping"),
        ({"autocast_dtype": "half"}, "autocast_dtype='half': must be 'auto', 'float32'"),
        ({"max_sampler_difference": "small"}, "max_sampler_difference='small': must be 'auto'"),
        ({"min_groups_fraction": 2}, "min_groups_fraction=2: must be a number in [0, 1]"),
        ({"model": "/no/such/model"}, "model='/no/such/model': no Hugging Face model there"),
        ({"model": 7}, "language_model=7: must be a folder, a name of the hub"),
    ],
)
def test_a_wrong_value_of_the_agent_is_refused(agent, message):
    text = refusal(small_config(**agent))
    assert text.startswith("config.") and message in text


@pytest.mark.parametrize(
    ("key", "value", "requirement"),
    [
        ("clip_low", 1.0, "a number in [0, 1)"),
        ("clip_high", None, "a number, at least 0"),
        ("dual_clip", 1.0, "above 1, or none"),
        ("importance_ratio", "seq", "'token' or 'sequence'"),
        ("loss_aggregation", "mean", "one of token-mean, "),
        ("advantage_statistics", "turns", "'episodes' or 'rows'"),
        ("normalize_advantages", "false", "true or false"),
        ("advantage_eps", 0, "a number above 0"),
        ("kl_coeff", "0.01", "a number, at least 0"),
        ("kl_estimator", "k4", "one of k1, abs, k2, k3"),
        ("entropy_coeff", float("inf"), "a number, at least 0"),
        ("dynamic_sampling_rounds", 0, "a whole number, at least 1"),
        ("importance_cap", 0.0, "a number above 0, or none"),
        ("old_log_probs", "none", "'learner' or 'sampler'"),
        ("adam_betas", 0.9, "two numbers in [0, 1)"),
        ("lr_warmup_steps", 1.5, "a whole number, at least 0"),
        ("lr", "1e-6", "a number, at least 0, or a schedule"),
        ("grad_clip", 0, "a number above 0, or none"),
        ("num_epochs", 0, "a whole number, at least 1"),
        ("minibatch_size", 0, "a whole number of rows"),
    ],
)
def test_a_wrong_value_of_the_objective_is_refused(key, value, requirement):
    config = small_config()
    setattr(config, key, value)
    text = refusal(config)
    assert text.startswith(f"config.{key}={value!r}: must be {requirement}")


def test_groups_must_divide_over_learners():
    config = small_config(groups_per_step=3).learners(num_learners=2)
    assert "groups_per_step=3 does not divide over num_learners=2" in refusal(config)
    assert "Set groups_per_step to a multiple of 2" in refusal(config)


def test_aggregators_are_refused():
    config = small_config().learners(num_aggregator_actors_per_learner=1)
    assert "num_aggregator_actors_per_learner must be 0" in refusal(config)


def test_an_unknown_environment_is_named_with_those_there_are():
    text = refusal(small_config(env="stepopsd/ALFWrold-v0"))
    assert "config.env='stepopsd/ALFWrold-v0'" in text and "'stepopsd/ALFWorld-v0'" in text
    assert "config.env='no_module:a/b-v0': No module named" in refusal(
        small_config(env="no_module:a/b-v0")
    )
    assert "not a text environment" in refusal(small_config(env="CartPole-v1"))


def test_the_embedded_model_belongs_to_its_environment():
    text = refusal(
        small_config(env="tests.helpers.houses:houses/OneThreadALFWorld-v0", model="huge")
    )
    assert "config.model='huge': no Hugging Face model there" in text


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_sampler_that_is_not_installed_is_refused():
    assert "vLLM is not installed. Install the extra" in refusal(small_config(sampler="vllm"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"grop_size": 8},
            "config.grop_size is not a key of GRPOConfig. Did you mean 'group_size'?",
        ),
        ({"clip_parm": 0.2}, "config.clip_parm is not a key of GRPOConfig. Did you mean 'clip_"),
        ({"lr": "1e-6"}, "config.lr='1e-6' is text. Write 1.0e-6."),
        ({"kl_coeff": "0.01"}, "config.kl_coeff='0.01' is text. Write 0.01."),
        ({"group_size": "eight"}, "config.group_size='eight' is text where 8 stands by default."),
    ],
)
def test_a_dict_is_read_strictly(given, message):
    with pytest.raises(ValueError) as raised:
        GRPOConfig().update_from_dict(given)
    assert str(raised.value).startswith(message)


def test_dict_and_fluent_methods_make_the_same_config():
    fluent = small_config(group_size=5, training={"kl_coeff": 0.5})
    given = {
        "env": fluent.env,
        "env_config": fluent.env_config,
        "model": "tiny",
        "sampler": "transformers",
        "group_size": 5,
        "groups_per_step": 4,
        "max_response_tokens": 12,
        "max_context_tokens": 512,
        "eval_num_tasks": 3,
        "lr": 3e-4,
        "kl_coeff": 0.5,
        "entropy_coeff": 0.0,
        "weight_decay": 0.0,
    }
    assert GRPOConfig().update_from_dict(given).to_dict() == fluent.to_dict()
    fluent.validate()


def test_a_model_folder_that_is_damaged_or_no_causal_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no_such_architecture"}')
    path = small_config(model=str(tmp_path)).model_path()
    with pytest.raises(ValueError, match="cannot be loaded as a causal language model"):
        load_causal_lm(path)


def test_search_limits_count_the_models_tokens_unless_told_otherwise():
    config = GRPOConfig().environment(
        "stepopsd/SearchQA-v0", env_config={"max_observation_tokens": 9}
    )
    for limit in ({}, {"tokenizer": list}):
        config.env_config = {"max_observation_tokens": 9} | limit
        env = config.make_env()
        env.reset(options={"task": env.tasks("train")[0]})
        observation = env.step("<search>x</search>")[0]
        documents = observation.strip().removeprefix("<information>")
        documents = documents.removesuffix("</information>")
        assert documents.startswith("Doc 1")
        tokens = config.tokenizer()(documents, add_special_tokens=False)["input_ids"]
        assert (len(documents) if limit else len(tokens)) == 9
