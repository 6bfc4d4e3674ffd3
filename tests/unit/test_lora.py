"""Adapters: off they are the base, their views share one model, and only they travel."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from stepopsd_rllib.episodes import to_rllib
from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.models.lora import (
    LoRASettings,
    adapted_layers,
    adapter_weights,
    merged_weights,
    write_adapter,
)
from stepopsd_rllib.sampling.transformers_sampler import TransformersSampler
from tests.helpers.agents import (
    build_learner,
    largest_difference,
    random_groups,
    small_config,
    update,
    weights_of,
)
from tests.helpers.methods import ACTIVE, method_config, method_groups

LORA = {"rank": 4, "alpha": 8, "sync": "merged"}
UNCHECKED = {"max_sampler_difference": None}


def module(**options) -> CausalLMModule:
    return CausalLMModule(model_config=small_config().module_options() | {"lora": LORA} | options)


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    ids_BT = torch.randint(0, 500, (3, 30), generator=torch.Generator().manual_seed(0))
    return ids_BT, torch.ones_like(ids_BT, dtype=torch.bool)


def scored(made: CausalLMModule, view: str) -> torch.Tensor:
    with made.view(view) as model, torch.no_grad():  # type: ignore[arg-type]
        return made.score(model, *rows())[0]


def moved(made: CausalLMModule) -> CausalLMModule:
    """With an adapter that does something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if ".policy." in name:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return made


@pytest.mark.parametrize("autocast_dtype", [None, "bfloat16"])
def test_a_model_with_its_adapter_off_is_the_base_bit_for_bit(autocast_dtype):
    made = moved(module(with_reference=True, autocast_dtype=autocast_dtype))
    base = module(lora={}, autocast_dtype=autocast_dtype)
    if autocast_dtype:  # the base of adapters is kept in bfloat16
        base.language_model.to(torch.bfloat16)  # type: ignore[call-overload]
    assert torch.equal(scored(made, "reference"), scored(base, "policy"))
    assert not torch.equal(scored(made, "policy"), scored(base, "policy"))


def test_a_new_adapter_changes_nothing_and_is_in_float32():
    made = module(with_teacher=True, autocast_dtype="bfloat16")
    trained = {name: w for name, w in made.named_parameters() if w.requires_grad}
    assert trained and all(".policy." in name for name in trained)
    assert {w.dtype for w in trained.values()} == {torch.float32}
    assert made.language_model.dtype == torch.bfloat16
    exact = module(with_teacher=True)
    assert torch.equal(scored(exact, "policy"), scored(module(lora={}), "policy"))


def test_the_teacher_keeps_its_adapter_until_it_is_refreshed():
    made = module(with_teacher=True)
    before = scored(made, "teacher")
    moved(made)
    assert torch.equal(scored(made, "teacher"), before)
    assert not torch.equal(scored(made, "policy"), before)
    made.refresh_teacher()
    assert torch.equal(scored(made, "teacher"), scored(made, "policy"))


def test_a_view_leaves_gradients_and_the_active_adapter_as_they_were():
    made = module(with_reference=True, with_teacher=True)
    before = {name: w.requires_grad for name, w in made.named_parameters()}
    for view in ("reference", "teacher", "policy"):
        scored(made, view)
    assert {name: w.requires_grad for name, w in made.named_parameters()} == before
    layers = adapted_layers(made)
    assert all(x.active_adapters == ["policy"] and not x.disable_adapters for x in layers.values())


def test_rank_0_trains_all_weights_bit_for_bit():
    plain, zero = (
        build_learner(small_config(**UNCHECKED, **keys)) for keys in ({}, {"lora": {"rank": 0}})
    )
    for learner in (plain, zero):
        update(learner, random_groups())
    assert largest_difference(weights_of(plain), weights_of(zero)) == 0


def test_one_update_moves_the_adapter_and_nothing_else():
    learner = build_learner(small_config(**UNCHECKED, lora=LORA, training={"kl_coeff": 0.1}))
    model = learner.language_module.language_model
    frozen = {n: w.clone() for n, w in model.named_parameters() if not w.requires_grad}
    before = {name: w.clone() for name, w in adapter_weights(model).items()}
    assert update(learner, random_groups())["gradient_norm"] > 0
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], weight) for name, weight in frozen.items())
    assert largest_difference(before, adapter_weights(model)) > 0
    optimized = {id(p) for g in learner.get_optimizer().param_groups for p in g["params"]}
    assert optimized == {id(weight) for weight in adapter_weights(model).values()}


def test_merged_weights_are_the_policy():
    made = moved(module())
    plain = AutoModelForCausalLM.from_pretrained(small_config().model_path())
    plain.load_state_dict(merged_weights(made.language_model))
    other = module(lora={})
    other.language_model = plain
    assert torch.allclose(scored(made, "policy"), scored(other, "policy"), atol=1e-4)


def test_a_checkpoint_holds_the_adapters_alone_and_brings_them_back():
    first = moved(module(with_reference=True, with_teacher=True))
    state = first.get_state()
    assert state and all(".lora_A." in name or ".lora_B." in name for name in state)
    second = module(with_reference=True, with_teacher=True)
    second.set_state(state)
    for view in ("policy", "teacher", "reference"):
        assert torch.equal(scored(first, view), scored(second, view))


def test_a_written_adapter_is_one_that_peft_reads_and_a_run_can_start_with(tmp_path):
    peft = pytest.importorskip("peft")
    made = moved(module())
    path = small_config().model_path()
    write_adapter(tmp_path, made.adapter_weights(), made.lora, base=path)
    base = AutoModelForCausalLM.from_pretrained(path)
    read = peft.PeftModel.from_pretrained(base, tmp_path).merge_and_unload()
    whole = made.whole_weights()
    assert largest_difference({n: read.state_dict()[n] for n in whole}, whole) < 1e-6
    again = module(lora=LORA | {"start": str(tmp_path)}, with_teacher=True)
    assert torch.equal(scored(again, "policy"), scored(made, "policy"))
    assert torch.equal(scored(again, "teacher"), scored(made, "policy"))
    with pytest.raises(ValueError, match=r"config\.lora\.start=.* is not of these layers"):
        module(lora=LORA | {"start": str(tmp_path), "rank": 8})


@pytest.mark.parametrize("name", ["GRPO", *sorted(ACTIVE)])
def test_every_method_trains_adapters(name):
    groups = method_groups("append")
    config = method_config(name, ACTIVE.get(name, {}), "append")
    config.agent(**UNCHECKED, lora=LORA)
    learner = build_learner(config)
    before = weights_of(learner)
    learner.update(episodes=[to_rllib(e) for group in groups for e in group], timesteps={})
    assert largest_difference(before, weights_of(learner)) > 0
    assert learner.language_module.reference is None
    assert learner.language_module.teacher is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rnk": 8}, r"config\.lora\.rnk is not a key of lora\. Did you mean 'rank'"),
        ({"rank": -1}, r"config\.lora\.rank=-1: must be a whole number"),
        ({"rank": 8, "alpha": "x"}, r"config\.lora\.alpha='x': must be a number"),
        ({"rank": 8, "targets": "q_proj"}, r"config\.lora\.targets='q_proj': must be 'all-linear'"),
        ({"rank": 8, "targets": ["q_prj"]}, r"no linear layer is called q_prj\. The model has "),
        ({"rank": 8, "dropout": 1}, r"config\.lora\.dropout=1"),
        ({"rank": 8, "sync": "adapter"}, r"lora\.sync='adapter': the sampler is 'transformers'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(value, message):
    with pytest.raises(ValueError, match=message):
        small_config(lora=value).validate()


@pytest.mark.vllm
def test_the_engine_applies_the_adapter_it_was_sent_and_the_next_one():
    pytest.importorskip("vllm")
    from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

    settings = LoRASettings.of(LORA)
    path = small_config().model_path()
    engine = VLLMSampler(path, max_context_tokens=64, max_concurrent=2, lora=settings)
    plain = TransformersSampler(path, max_context_tokens=64, max_concurrent=2)
    ids = rows()[0][0].tolist()
    try:
        unadapted = engine.score(ids)
        made = module()
        for version in range(2):
            moved(made)
            engine.load_weights(adapter_weights(made.language_model), version)
            plain.load_weights(merged_weights(made.language_model), version)
            assert engine.weights_version == version
            assert abs(engine.score(ids) - plain.score(ids)).max() < 1e-4
            assert abs(engine.score(ids) - unadapted).max() > 1e-2
        with pytest.raises(ValueError, match="started for an adapter and got a model's weights"):
            engine.load_weights(made.language_model.state_dict(), 3)
    finally:
        engine.close()


def test_settings_are_plain_values_in_a_checkpoint():
    assert LoRASettings.of(LoRASettings.of(LORA).as_dict()) == LoRASettings.of(LORA)
