"""The tensors of a Hugging Face checkpoint, and whether a set of weights covers them all.

Engines accept partial weights in silence and then sample from a mixture of two policies, so every
sampler compares names and shapes with this layout before it touches a weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

NAMES_SHOWN = 5  # in an error; a checkpoint has hundreds


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointLayout:
    """Parameter names and shapes of one causal language model.

    Attributes:
        shapes: name in the model's state dict -> shape; tied names included.
        tied: name that shares its tensor -> name of the tensor that it shares.
        vocabulary_size: rows of the embedding; token ids lie in [0, vocabulary_size).
        max_position: longest context the model was made for, tokens; None where it states none.
        kv_values_per_token: numbers that the key-value cache holds for one token, all layers.
    """

    shapes: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]
    vocabulary_size: int
    max_position: int | None
    kv_values_per_token: int

    @classmethod
    def of_folder(cls, model_path: str | Path) -> CheckpointLayout:
        """Reads the layout from the `config.json` of a model folder, without loading weights."""
        folder = Path(model_path)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"model={str(model_path)!r}: no such model folder (it must hold a config.json and "
                "weights in Hugging Face format). Give the path of a downloaded or exported model."
            )
        return cls.of_config(AutoConfig.from_pretrained(folder))

    @classmethod
    def of_config(cls, config: PreTrainedConfig) -> CheckpointLayout:
        """Builds the layout from a model configuration; no memory is taken for weights."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            shapes={name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
            tied=dict(model.all_tied_weights_keys),
            vocabulary_size=text.vocab_size,
            max_position=getattr(text, "max_position_embeddings", None),
            kv_values_per_token=2 * text.num_hidden_layers * heads * head_size,
        )

    def check_context(self, max_context_tokens: int) -> None:
        """Raises `ValueError` for a context that the model was not made for."""
        if max_context_tokens < 2:
            raise ValueError(
                f"max_context_tokens={max_context_tokens}: a prompt and a response need at least "
                "one token each. Raise it."
            )
        if self.max_position is not None and max_context_tokens > self.max_position:
            raise ValueError(
                f"max_context_tokens={max_context_tokens}: the model was made for contexts of at "
                f"most {self.max_position} tokens. Lower it."
            )

    def complete(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Checks names, shapes and ties; returns every tensor, tied names filled in.

        Raises:
            ValueError: a name is missing or unexpected, a shape differs, or a tied tensor differs
                from the one it shares.
        """
        found = dict(weights)
        for alias, source in self.tied.items():
            if source in found:
                _require_equal(alias, found.setdefault(alias, found[source]), source, found[source])
        missing = [name for name in self.shapes if name not in found]
        unexpected = [name for name in found if name not in self.shapes]
        if missing or unexpected:
            raise ValueError(self._difference(missing, unexpected))
        for name, shape in self.shapes.items():
            if tuple(found[name].shape) != shape:
                raise ValueError(
                    f"weights[{name!r}] has shape {tuple(found[name].shape)}, the model of this "
                    f"sampler {shape}. Learner and sampler must be built from the same model."
                )
        return {name: found[name] for name in self.shapes}

    def _difference(self, missing: list[str], unexpected: list[str]) -> str:
        parts = []
        if missing:
            parts.append(f"{len(missing)} of {len(self.shapes)} missing: {_shorten(missing)}")
        if unexpected:
            parts.append(f"{len(unexpected)} unexpected: {_shorten(unexpected)}")
            nearest = get_close_matches(unexpected[0], missing or list(self.shapes), n=1)
            if nearest:
                parts.append(f"{unexpected[0]!r} is nearest to {nearest[0]!r}")
        return (
            f"weights do not cover the model ({'; '.join(parts)}). "
            "Send the whole state dict of the Hugging Face model, under its own names."
        )


def _shorten(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - NAMES_SHOWN} more" if len(listed) > NAMES_SHOWN else ""
    return ", ".join(listed[:NAMES_SHOWN]) + more


def _require_equal(alias: str, tensor: torch.Tensor, source: str, shared: torch.Tensor) -> None:
    if tensor.data_ptr() == shared.data_ptr() or torch.equal(tensor, shared.to(tensor.device)):
        return
    raise ValueError(
        f"weights[{alias!r}] differs from weights[{source!r}], but this model ties the two. "
        "Send one tensor under both names, or untie them in the model's configuration."
    )
