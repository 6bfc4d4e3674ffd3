"""Arithmetic of a model's memory against what PyTorch keeps."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from stepopsd_rllib.models.loading import load_causal_lm
from stepopsd_rllib.models.memory import ModelSizes, adapter_parameters
from tests.helpers.agents import small_config


def kept_bytes(model, tokens: int) -> int:
    """Bytes of everything that a pass keeps for the backward pass, weights aside."""
    weights = {weight.data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ids = torch.zeros(1, tokens, dtype=torch.int64)
        out = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    assert out.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def test_activations_are_counted_as_pytorch_keeps_them():
    path = small_config().model_path()
    sizes = ModelSizes.of_folder(path)
    counted = sizes.activation_bytes(512, dtype="float32", checkpointing=False)
    assert counted == pytest.approx(kept_bytes(load_causal_lm(path), 512), rel=0.1)


def test_parameters_are_the_models_own_a_tied_head_once():
    path = small_config().model_path()
    assert ModelSizes.of_folder(path).parameters == sum(
        weight.numel() for weight in AutoModelForCausalLM.from_pretrained(path).parameters()
    )


def test_the_cache_of_a_token_is_its_keys_and_values_in_every_layer():
    sizes = ModelSizes.of_folder(small_config().model_path())
    assert sizes.kv_bytes_per_token(2) == 2 * 4 * 2 * 32 * 2  # k and v, layers, heads, size, bytes


def test_adapters_grow_with_their_rank():
    sizes = ModelSizes.of_folder(small_config().model_path())
    assert adapter_parameters(sizes, 16) == 2 * adapter_parameters(sizes, 8)
