"""Weights on their way to samplers: rounded once, in one buffer, nothing twice."""

from __future__ import annotations

import pickle

import pytest
import torch

from stepopsd_rllib.sampling.sent_weights import SentWeights
from stepopsd_rllib.sampling.transformers_sampler import TransformersSampler
from tests.helpers.agents import build_learner, largest_difference, small_config


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 5, generator=generator),
        "b": torch.randn(5, 4, generator=generator).T,  # not contiguous
        "counts": torch.arange(6),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_arrives_is_what_rounding_at_the_sampler_would_give(dtype):
    sent = pickle.loads(pickle.dumps(SentWeights.of(tensors(), dtype)))
    for name, tensor in sent.tensors().items():
        wanted = tensors()[name]
        if wanted.is_floating_point():
            wanted = wanted.to(getattr(torch, dtype))
        assert tensor.dtype == wanted.dtype
        assert torch.equal(tensor, wanted)


def test_in_bfloat16_half_as_many_bytes_travel():
    single, half = (SentWeights.of(tensors(), dtype) for dtype in ("float32", "bfloat16"))
    assert half.numbers.nbytes * 2 == single.numbers.nbytes


def test_a_tied_head_is_sent_once_and_filled_in_by_the_sampler():
    config = small_config()
    learner = build_learner(config)
    weights = learner.sampler_weights()
    assert "model.embed_tokens.weight" in weights and "lm_head.weight" not in weights
    sampler = TransformersSampler(config.model_path(), max_context_tokens=64, max_concurrent=1)
    with torch.no_grad():
        for tensor in weights.values():
            tensor.mul_(1.01)
    sampler.load_weights(SentWeights.of(weights, "float32").tensors(), version=3)
    loaded = sampler._model.state_dict()
    assert largest_difference(weights, {name: loaded[name] for name in weights}) == 0
    assert torch.equal(loaded["lm_head.weight"], weights["model.embed_tokens.weight"])
