"""What a module leaves in a checkpoint, and what it makes of it again."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from safetensors.torch import load_file

from stepopsd_rllib import StepOPSDConfig
from stepopsd_rllib.episodes import to_rllib
from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.models.module_state import leave_out_weights
from stepopsd_rllib.training import checkpoint_files as files
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


def save_beside_its_model(saved: CausalLMModule, folder: Path) -> Path:
    """A checkpoint's two parts: the module's state, and the model that has its weights."""
    state = folder / "state" / "default_policy"
    saved.save_to_path(state)
    files.write_model(folder / "model", saved.whole_weights(), {"config.json": b"{}"})
    leave_out_weights(state / "module_state.pkl", folder / "model" / files.WEIGHTS)
    return state


def test_weights_stand_in_a_checkpoint_once_and_come_back_bit_for_bit(tmp_path):
    first, second = (module(with_teacher=True) for _ in range(2))
    with torch.no_grad():
        for weight in first.parameters():
            weight.mul_(1.25)
    first.refresh_teacher()
    state = save_beside_its_model(first, tmp_path)
    kept = pickle.loads((state / "module_state.pkl").read_bytes())
    assert not [name for name in kept if name.startswith("language_model.")]
    second.restore_from_path(state)
    assert not second.awaits_weights
    own, other = first.state_dict(), second.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_only_weights_that_are_the_same_bit_for_bit_are_left_out(tmp_path):
    saved = module()
    state = save_beside_its_model(saved, tmp_path / "a")
    assert "language_model.model.norm.weight" not in pickle.loads(
        (state / "module_state.pkl").read_bytes()
    )
    other = tmp_path / "b" / "default_policy"
    saved.save_to_path(other)
    weights = saved.whole_weights() | {"model.norm.weight": torch.zeros(3)}
    files.write_model(tmp_path / "b" / "model", weights, {"config.json": b"{}"})
    leave_out_weights(other / "module_state.pkl", tmp_path / "b" / "model" / files.WEIGHTS)
    left = pickle.loads((other / "module_state.pkl").read_bytes())
    assert list(left) == ["language_model.model.norm.weight", "weights_in"]
    restored = module()
    restored.restore_from_path(other)
    assert torch.equal(
        restored.language_model.model.norm.weight, saved.language_model.model.norm.weight
    )


def test_a_part_of_a_checkpoint_alone_awaits_its_weights_and_refuses_every_pass(tmp_path):
    first, second = module(), module()
    with torch.no_grad():
        for weight in first.parameters():
            weight.mul_(1.25)
    state = save_beside_its_model(first, tmp_path)
    alone = state.rename(tmp_path / "on_another_machine")
    second.restore_from_path(alone)
    ids = torch.zeros((1, 4), dtype=torch.int64)
    passes = {"batch": {"input_ids": ids, "response_mask": ids == 0}}
    for refused in (lambda: second.forward_train(**passes), second.whole_weights, second.get_state):
        with pytest.raises(RuntimeError, match="weights are in the checkpoint's folder model/"):
            refused()
    second.set_policy_weights(load_file(tmp_path / "model" / files.WEIGHTS))
    own, other = first.state_dict(), second.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own)
