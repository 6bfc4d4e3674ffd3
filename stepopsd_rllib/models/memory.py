"""The bytes of a causal language model: parameters, gradients, optimizer, activations, cache.

Arithmetic from sizes alone; nothing is allocated. It decides how much of a GPU an engine may take
beside a learner, and is what `stepopsd plan` shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

FLOAT32, BFLOAT16 = 4, 2
BYTES = {"float32": FLOAT32, "bfloat16": BFLOAT16}
"""Bytes of one number of each arithmetic."""

# Bytes that the backward pass keeps of one token in one decoder layer under bfloat16 autocast with
# float32 weights, counted with saved-tensor hooks on one layer of true width (Qwen3-1.7B 133 KB,
# Qwen2.5-3B 151 KB, Qwen2.5-7B 261 KB): a gated MLP keeps four bfloat16 numbers a unit; the rest
# scales with the hidden size; norms of queries and keys add theirs.
_AUTOCAST_BYTES = {"hidden": 30.6, "mlp": 8.0, "normed_heads": 7.0}
# The same in float32 throughout, counted on SmolLM2-135M and the embedded models.
_FLOAT32_BYTES = {"hidden": 35.0, "mlp": 16.0, "normed_heads": 10.4}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSizes:
    """What the memory of a dense decoder depends on.

    Attributes:
        parameters: Numbers in all weights; a tied head counts once.
        layers: Decoder layers.
        hidden: Width of the hidden states.
        mlp: Width of the gated MLP.
        heads: Width of all queries of a token.
        kv_heads: Width of all keys of a token.
        has_head_norms: Whether queries and keys are normed (Qwen3).
        vocabulary: Rows of the embedding.
        head_parameters: Numbers in the output head, tied or not.
    """

    parameters: int
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    has_head_norms: bool
    vocabulary: int
    head_parameters: int

    @classmethod
    def of_folder(cls, model_path: str) -> ModelSizes:
        """Reads the sizes from `config.json`; builds the model without memory for weights."""
        from transformers import AutoConfig

        return cls.of_config(AutoConfig.from_pretrained(model_path))

    @classmethod
    def of_config(cls, config: Any) -> ModelSizes:
        """The sizes of a Hugging Face configuration."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        names = dict(model.named_parameters())
        return cls(
            parameters=sum(weight.numel() for weight in names.values()),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            mlp=text.intermediate_size,
            heads=text.num_attention_heads * head_size,
            kv_heads=kv_heads * head_size,
            has_head_norms=any(name.endswith("q_norm.weight") for name in names),
            vocabulary=text.vocab_size,
            head_parameters=text.vocab_size * text.hidden_size,
        )

    @property
    def layer_parameters(self) -> int:
        """Numbers in the matrices of one decoder layer."""
        return sum(rows * columns for rows, columns in self._projections())

    def _projections(self) -> tuple[tuple[int, int], ...]:
        return (
            (self.hidden, self.heads),
            (self.hidden, self.kv_heads),
            (self.hidden, self.kv_heads),
            (self.heads, self.hidden),
            (self.hidden, self.mlp),
            (self.hidden, self.mlp),
            (self.mlp, self.hidden),
        )

    def gathered_bytes(self, number_bytes: int) -> int:
        """What a pass of a sharded model has whole at a time, bytes.

        Embedding and head in float32 with their gradients; of the layers the one that computes and
        the next one, each beside the buffer it arrived in, and one's gradients, as they are and
        summed in float32, twice.

        Args:
            number_bytes: Of a number in the arithmetic of the passes.
        """
        outer = self.parameters - self.layers * self.layer_parameters
        layer = self.layer_parameters * (5 * number_bytes + 2 * FLOAT32)
        return 2 * FLOAT32 * outer + layer

    def kv_bytes_per_token(self, number_bytes: int) -> int:
        """Key-value cache of one token over all layers, bytes."""
        return 2 * self.layers * self.kv_heads * number_bytes

    def activation_bytes(self, tokens: int, *, dtype: str, checkpointing: bool) -> int:
        """What a forward pass keeps for the backward pass, bytes.

        With checkpointing: the float32 input of each layer, and one layer twice, once kept and once
        as gradients.

        Args:
            tokens: Padded tokens of a micro-batch.
            dtype: Arithmetic, "float32" or "bfloat16" (autocast).
            checkpointing: Whether layers are recomputed.
        """
        weights = _FLOAT32_BYTES if dtype == "float32" else _AUTOCAST_BYTES
        layer = weights["hidden"] * self.hidden + weights["mlp"] * self.mlp
        if self.has_head_norms:
            layer += weights["normed_heads"] * (self.heads + self.kv_heads)
        if checkpointing:
            return int(tokens * (self.layers * FLOAT32 * self.hidden + 2 * layer))
        return int(tokens * self.layers * layer)


def adapter_parameters(sizes: ModelSizes, rank: int) -> int:
    """Numbers in the adapters of rank `rank` on every linear layer of the decoder (all-linear)."""
    widths = sum(rows + columns for rows, columns in sizes._projections())
    return sizes.layers * rank * widths


def engine_share(*, free: int, total: int, reserved: int, largest: float = 0.92) -> float:
    """Share of a GPU that an engine may take beside a learner that is on it already.

    Args:
        free: Free bytes now, the learner's weights taken off.
        total: Bytes of the GPU.
        reserved: What the learner will still take: gradients, optimizer, activations.
        largest: Share of an engine that has the GPU to itself (vLLM's own default).

    Returns:
        `gpu_memory_utilization`, in (0, largest].

    Raises:
        ValueError: Nothing worth starting an engine in is left.
    """
    share = min(largest * free / total, (free - reserved) / total)
    if share < 0.05:
        raise ValueError(
            f"config.sampler_config.gpu_memory_utilization: engine and learner share a GPU of "
            f"{total / 1e9:.0f} GB, of which {free / 1e9:.0f} are free and the learner will still "
            f"take about {reserved / 1e9:.0f}. Use LoRA (lora: {{rank: 64}}), smaller "
            "micro_batch_tokens, or a GPU each."
        )
    return round(share, 3)
