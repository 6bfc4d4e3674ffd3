"""A Hugging Face causal language model from its folder, in the form that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stepopsd_rllib.models.whole_weights import require_whole_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_causal_lm(
    model_path: str, *, random_weights: bool = False, device: str = "cpu"
) -> PreTrainedModel:
    """Loads a Hugging Face causal language model in float32, without dropout.

    Args:
        model_path: Folder in the Hugging Face format.
        random_weights: Build the architecture only; for tests of configurations.
        device: Where the weights go, straight from the file.

    Raises:
        ValueError: The folder is no causal language model, or one whose logits are not
            `head(hidden)`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if not random_weights:
        require_whole_weights(model_path)
    try:
        if random_weights:
            with torch.device(device):
                model = AutoModelForCausalLM.from_config(
                    AutoConfig.from_pretrained(model_path), dtype=torch.float32
                )
        else:
            # Without a device map the weights pass through the host's memory, once a copy.
            placed = {} if device == "cpu" else {"device_map": {"": device}}
            model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, **placed)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"config.model={model_path!r}: its folder holds Python code of its own, which is "
                "not run here. Use a model whose architecture Transformers knows."
            ) from error
        raise ValueError(
            f"config.model={model_path!r} cannot be loaded as a causal language model ({error}). "
            "Give the folder of a Hugging Face model, or model='tiny'."
        ) from error
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Attention dropout is a number on the attention modules, not a module of its own.
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # pyright: ignore[reportArgumentType]
    _check_head(model, model_path)
    return model


def _check_head(model: PreTrainedModel, model_path: str) -> None:
    """Refuses a model that changes its logits after the head, which `score` would leave out."""
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    ids = torch.arange(4, device=embedding.weight.device)[None] % len(embedding.weight)
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        actual = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(expected, actual, atol=1e-3, rtol=1e-3):
        raise ValueError(
            f"config.model={model_path!r}: its logits are not head(hidden states) (a model with "
            "scaled or capped logits). Such architectures are not supported; Qwen, Llama and "
            "Mistral are."
        )


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers that a decoder repeats: those that can be recomputed by themselves."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def untied(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the names that stand for another's tensor."""
    shared: dict[str, str] = dict(model.all_tied_weights_keys)
    return {name: w for name, w in weights.items() if shared.get(name) not in weights}
