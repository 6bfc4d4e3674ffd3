"""What a module leaves in a checkpoint, and what it makes of it again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib import StepOPSDConfig
from stepopsd_rllib.episodes import to_rllib
from stepopsd_rllib.models.causal_lm import CausalLMModule
from tests.helpers.agents import SMALL, build_learner, random_groups, small_config
from tests.helpers.houses import BARE


def module(**options) -> CausalLMModule:
    config = small_config().module_options() | options
    return CausalLMModule(model_config=config)


def test_a_checkpoint_holds_neither_the_reference_nor_a_tied_head_twice():
    state = module(with_reference=True, with_teacher=True).get_state()
    assert not [name for name in state if name.startswith("reference.")]
    assert [name for name in state if name.endswith("embed_tokens.weight")] == [
        "language_model.model.embed_tokens.weight",
        "teacher.model.embed_tokens.weight",
    ]
    assert not [name for name in state if name.endswith("lm_head.weight")]


@pytest.mark.parametrize("autocast_dtype", [None, "bfloat16"])
def test_policy_and_teacher_come_back_bit_for_bit(autocast_dtype):
    first = module(with_reference=True, with_teacher=True, autocast_dtype=autocast_dtype)
    with torch.no_grad():
        for weight in first.parameters():
            weight.mul_(1.25)
    second = module(with_reference=True, with_teacher=True, autocast_dtype=autocast_dtype)
    second.set_state(first.get_state())
    own, other = first.state_dict(), second.state_dict()
    for name, tensor in own.items():
        assert torch.equal(tensor, other[name]) != name.startswith("reference."), name


def test_frozen_copies_take_half_the_memory_where_passes_are_rounded():
    rounded = module(with_reference=True, with_teacher=True, autocast_dtype="bfloat16")
    assert rounded.teacher is not None
    assert {w.dtype for w in rounded.teacher.parameters()} == {torch.bfloat16}
    assert {w.dtype for w in rounded.language_model.parameters()} == {torch.float32}


def test_a_frozen_copy_in_bfloat16_scores_as_the_float32_one_to_bfloat16s_accuracy():
    scored = module(with_reference=True, autocast_dtype="bfloat16")
    ids = torch.randint(0, 500, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        exact, _ = scored.score(scored.language_model, ids, mask)
        rounded, _ = scored.score(scored.reference, ids, mask)  # type: ignore[arg-type]
    assert (exact - rounded).abs().mean() < 0.02


def test_a_state_of_another_model_is_refused_by_name():
    state = module().get_state()
    del state["language_model.model.norm.weight"]
    with pytest.raises(ValueError, match="checkpoint: the model has 1 tensors that the checkpoint"):
        module().set_state(state)
    state["language_model.model.norm.weight"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="has shape"):
        module().set_state(state)


def step(learner, *, version: int) -> None:
    groups = random_groups(seed=version, version=version)
    learner.update(episodes=[to_rllib(e) for group in groups for e in group], timesteps={})


def test_a_learner_whose_state_was_restored_goes_on_as_the_first_would():
    config = StepOPSDConfig().environment(env_config={**BARE, "max_turns": 4})
    config.agent(**SMALL, max_sampler_difference=None)
    config.training(lr=3e-4, kl_coeff=0.1, teacher_refresh_interval=2)
    first, second = build_learner(config), build_learner(config)
    step(first, version=0)
    second.set_state(first.get_state())
    for learner in (first, second):
        step(learner, version=1)
    own = first.module[DEFAULT_MODULE_ID].state_dict()  # type: ignore[index]
    other = second.module[DEFAULT_MODULE_ID].state_dict()  # type: ignore[index]
    assert all(torch.equal(own[name], other[name]) for name in own)
