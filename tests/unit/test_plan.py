"""What a run will need, and what is named when it does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import Qwen2Config

from stepopsd_rllib import GRPOConfig, StepOPSDConfig
from stepopsd_rllib.commands import plan
from stepopsd_rllib.commands.plan import remedy
from stepopsd_rllib.models import memory
from stepopsd_rllib.training.resource_plan import Cards, misfit, plan_of
from tests.helpers.agents import build_learner, small_config

CARD = Cards.parse("1xH100-80GB")
GPU = {"num_gpus_per_learner": 1, "num_learners": 1, "num_env_runners": 1}
QWEN_3B = Qwen2Config(
    hidden_size=2048,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=16,
    num_key_value_heads=2,
    vocab_size=151936,
    tie_word_embeddings=True,
)


@pytest.fixture
def of_3b(monkeypatch):
    """A config whose model has the sizes of Qwen2.5-3B."""
    sizes = memory.ModelSizes.of_config(QWEN_3B)
    monkeypatch.setattr(memory.ModelSizes, "of_folder", classmethod(lambda cls, path: sizes))

    def config(made=None, **keys):
        made = made or GRPOConfig()
        for name, value in {**GPU, "num_gpus_per_env_runner": 1, **keys}.items():
            setattr(made, name, value)
        return made

    return config


def test_the_learner_of_the_plan_holds_what_the_learner_holds():
    config = small_config(training={"kl_coeff": 0.1})
    learner = build_learner(config)
    module = learner.language_module
    counted = plan_of(config).processes[0].memory
    weights = sum(w.numel() * 4 for w in module.language_model.parameters())
    assert counted["weights"] == weights == counted["copies"]
    assert counted["optimizer"] == 2 * counted["gradients"] == 2 * weights


def test_a_3b_model_at_the_papers_settings_fits_80_gb(of_3b):
    grpo, stepopsd = plan_of(of_3b()), plan_of(of_3b(StepOPSDConfig()))
    assert misfit(grpo, CARD) is None and misfit(stepopsd, CARD) is None
    added = stepopsd.processes[0].memory["copies"] - grpo.processes[0].memory["copies"]
    assert added == pytest.approx(6.2e9, rel=0.02)  # a teacher in bfloat16


def test_what_does_not_fit_is_named_with_the_cheapest_key_that_helps(of_3b):
    small = Cards.parse("1xA100-40GB")
    config = of_3b()
    problem = misfit(plan_of(config), small)
    assert problem is not None and problem.startswith("a learner needs ")
    assert "lora: {rank: 64}" in remedy(config, small)
    assert "larger card" in remedy(config, Cards.parse("1xA10-4GB"))


def test_sharded_learners_divide_what_they_hold_and_gather_a_part_of_it(of_3b):
    shared = {"num_learners": 4, "compile_layers": True}
    whole, sharded = (
        plan_of(of_3b(sharding=kind, **shared)).processes[0].memory for kind in ("off", "fsdp2")
    )
    for kind in ("weights", "gradients", "optimizer", "copies"):
        assert sharded[kind] == whole[kind] / 4 > 0
    assert 0 == whole["gathered"] < sharded["gathered"] < whole["weights"] / 2
    assert plan_of(of_3b(sharding="fsdp2", **shared)).checkpoint == plan_of(of_3b()).checkpoint


def test_sharding_is_named_where_there_are_learners_to_share_with(of_3b):
    small = Cards.parse("4xA100-40GB")
    told = remedy(of_3b(num_learners=4, compile_layers=True), small)
    assert told == "It fits with sharding: fsdp2, compile_layers: false."
    assert "lora" in remedy(of_3b(num_learners=1), small)


def test_adapters_shrink_optimizer_and_checkpoint(of_3b):
    full, lora = plan_of(of_3b()), plan_of(of_3b(lora={"rank": 64}))
    assert lora.processes[0].total < full.processes[0].total / 2
    assert lora.checkpoint < 0.06 * full.checkpoint
    assert lora.processes[0].memory["copies"] == 0


def test_rollouts_beside_the_update_cost_the_longer_of_the_two(of_3b):
    made = plan_of(of_3b(num_env_runners=1))
    beside = replace(made, overlap=True)
    parts = made.seconds
    assert made.iteration_seconds == sum(parts.values())
    assert beside.iteration_seconds == parts["sync"] + max(
        parts["rollout"], parts["update"] + parts["scoring"]
    )


def test_engine_and_learner_on_one_gpu_are_added_up(of_3b):
    shared = of_3b(num_learners=0, num_env_runners=0)
    made = plan_of(shared)
    assert made.together == sum(process.total for process in made.processes)


def test_the_command_prints_a_table_and_says_what_does_not_fit(capsys):
    file = "tuned_examples/grpo/alfworld_tiny.yaml"
    assert plan.run(file, [], gpus=None) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("learner", "runner", "iteration", "checkpoint"))
    assert plan.run(file, ["num_learners=2", "num_gpus_per_learner=1"], gpus="1xA10-24GB") == 1
    assert "2 GPUs are asked for, there are 1" in capsys.readouterr().out


def test_cards_of_another_form_are_refused():
    with pytest.raises(ValueError, match="--gpus 4 H100: is not of the form 4xH100-80GB"):
        Cards.parse("4 H100")


def test_a_plan_places_on_the_cards_that_are_named(tmp_path, capsys):
    file = tmp_path / "example.yaml"
    file.write_text(
        "mine: {run: GRPO, env: stepopsd/ALFWorld-v0, stop: {training_iteration: 1},\n"
        "  config: {placement: split, sampler: transformers}}\n"
    )
    assert plan.run(file, [], gpus="6xH100-80GB") == 0
    shown = capsys.readouterr().out
    assert "learner     2 x" in shown and "runner      4 x" in shown  # 8 groups over 2 learners
