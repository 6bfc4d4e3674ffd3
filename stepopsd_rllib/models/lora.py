"""Low-rank adapters on a frozen language model (LoRA, arXiv:2106.09685), with peft.

    y = W x + (alpha / rank) · B A x          A: [rank, in] random, B: [out, rank] zero at first

The KL reference is the model with its adapters switched off, a stale teacher a second, frozen
adapter. So neither is a copy of the model, and what is optimized, checkpointed and sent to samplers
is A and B alone.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from stepopsd_rllib.config_keys import is_int, is_number, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POLICY, TEACHER = "policy", "teacher"
"""Names of the adapters."""

ALL_LINEAR = "all-linear"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# The form of names in adapter files, which engines read.
_FILE_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True, slots=True)
class LoRASettings:
    """The key `lora` of a config.

    Attributes:
        rank: Rows of A; 0 trains all weights and has no adapters.
        alpha: Scale of the update, divided by the rank.
        targets: Last parts of the names of the layers that get an adapter, or "all-linear": every
            linear layer but the output head.
        dropout: Dropout of the input of A, in the update's passes alone.
        sync: What samplers get: "adapter" (A and B, which the engine applies), "merged" weights, or
            "auto": adapters where the engine is vLLM on a GPU.
        start: Folder of an adapter of the same rank, in peft's format, to begin with; None begins
            with one that changes nothing.
    """

    rank: int = 0
    alpha: float = 128
    targets: str | tuple[str, ...] = ALL_LINEAR
    dropout: float = 0.0
    sync: Literal["auto", "adapter", "merged"] = "auto"
    start: str | None = None

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> LoRASettings:
        """Reads the key's value.

        Raises:
            ValueError: An unknown key, or a value out of its range.
        """
        known = [field.name for field in fields(cls)]
        for name in value:
            if name not in known:
                raise ValueError(
                    f"config.lora.{name} is not a key of lora.{nearest(name, known)} "
                    f"Known: {', '.join(known)}."
                )
        targets = value.get("targets", ALL_LINEAR)
        is_list = isinstance(targets, list | tuple)
        read = cls(**{**value, "targets": tuple(targets) if is_list else targets})
        requirements = {
            "rank": (is_int(read.rank, 0), "a whole number, at least 0 (0 trains all weights)"),
            "alpha": (is_number(read.alpha, 0), "a number, at least 0"),
            "targets": (
                read.targets == ALL_LINEAR or (is_list and bool(read.targets)),
                "'all-linear' or a list of names of layers, such as [q_proj, v_proj]",
            ),
            "dropout": (is_number(read.dropout, 0, 0.99), "a number in [0, 1)"),
            "start": (
                read.start is None or (Path(read.start) / ADAPTER_CONFIG).is_file(),
                f"the folder of an adapter (with {ADAPTER_CONFIG}), or none",
            ),
            "sync": (read.sync in ("auto", "adapter", "merged"), "'auto', 'adapter' or 'merged'"),
        }
        for name, (is_good, requirement) in requirements.items():
            if not is_good:
                raise ValueError(f"config.lora.{name}={value[name]!r}: must be {requirement}.")
        return read

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, for a `model_config`."""
        return asdict(self)


def check_targets(settings: LoRASettings, config: Any) -> None:
    """Refuses targets that no layer of a model has; builds it without memory for weights.

    Args:
        settings: With a rank above 0.
        config: Hugging Face configuration of the model.

    Raises:
        ValueError: With the names that there are.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    layers = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    wanted = () if isinstance(settings.targets, str) else settings.targets
    missing = [name for name in wanted if name.rpartition(".")[2] not in layers]
    if missing or not layers:
        raise ValueError(
            f"config.lora.targets={list(wanted)}: no linear layer is called {', '.join(missing)}. "
            f"The model has {', '.join(sorted(layers))}."
        )


def add_adapters(model: PreTrainedModel, settings: LoRASettings, *, with_teacher: bool) -> None:
    """Freezes a model and puts float32 adapters on it, in place; at first they change nothing.

    Args:
        model: A causal language model, in float32 or bfloat16.
        settings: With a rank above 0.
        with_teacher: Whether there is a second, frozen adapter, equal to the first.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    for name in (POLICY, TEACHER) if with_teacher else (POLICY,):
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]
            target_modules=targets,
            lora_dropout=settings.dropout,
            bias="none",
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            inject_adapter_in_model(config, model, name)
    for layer in adapted_layers(model).values():
        layer.set_adapter(POLICY)
    for name, weight in model.named_parameters():
        weight.requires_grad_(f".{POLICY}." in name)
        if is_adapter_name(name):
            weight.data = weight.data.float()
    if settings.start is not None:
        read_adapter(model, settings.start)
    if with_teacher:
        refresh_teacher(model)


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers with adapters by name, peft's `LoraLayer`s."""
    from peft.tuners.lora import LoraLayer

    return {n: module for n, module in model.named_modules() if isinstance(module, LoraLayer)}


@contextlib.contextmanager
def using(model: nn.Module, adapter: str | None) -> Iterator[None]:
    """Passes within use one adapter, or none; nothing else of the model changes.

    `set_adapter` would also switch the gradients of the adapters, which the optimizer and the
    exchange of gradients hold on to.
    """
    layers: list[Any] = list(adapted_layers(model).values())
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    for layer in layers:
        layer._disable_adapters = adapter is None
        if adapter is not None:
            layer._active_adapter = [adapter]
    try:
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


@torch.no_grad()
def refresh_teacher(model: nn.Module) -> None:
    """Copies the policy's adapter into the teacher's."""
    for layer in adapted_layers(model).values():
        for matrices in (layer.lora_A, layer.lora_B):
            matrices[TEACHER].weight.copy_(matrices[POLICY].weight)


def is_adapter_name(name: str) -> bool:
    """Whether a tensor's name is that of an adapter's matrix."""
    return ".lora_A." in name or ".lora_B." in name


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """The policy's A and B by the names of adapter files, not copied."""
    weights: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model).items():
        weights[f"{_FILE_PREFIX}{name}.lora_A.weight"] = layer.lora_A[POLICY].weight
        weights[f"{_FILE_PREFIX}{name}.lora_B.weight"] = layer.lora_B[POLICY].weight
    return weights


@torch.no_grad()
def merged_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """All weights by checkpoint name, W + (alpha / rank) B A where there is an adapter.

    Summed in float32. Onto a bfloat16 model updates smaller than half a step of its grid are
    rounded away; send adapters where that matters.
    """
    layers = adapted_layers(model)
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if is_adapter_name(name):
            continue
        owner = name.partition(".base_layer.")[0]
        if owner in layers and name.endswith(".base_layer.weight"):
            layer = layers[owner]
            update = layer.lora_B[POLICY].weight.float() @ layer.lora_A[POLICY].weight.float()
            tensor = tensor.float() + layer.scaling[POLICY] * update
        weights[name.replace(".base_layer.", ".")] = tensor
    return weights


@torch.no_grad()
def read_adapter(model: nn.Module, folder: str | Path) -> None:
    """Writes an adapter of a file into the policy's.

    Raises:
        ValueError: It has other layers or another rank.
    """
    from safetensors.torch import load_file

    found, own = load_file(Path(folder) / ADAPTER_WEIGHTS), adapter_weights(model)
    differing = [n for n in own if n not in found or found[n].shape != own[n].shape]
    if differing or len(found) != len(own):
        raise ValueError(
            f"config.lora.start={str(folder)!r}: its adapter is not of these layers and this rank "
            f"({len(found)} matrices for {len(own)}, {len(differing)} differ). Set rank and "
            f"targets as in its {ADAPTER_CONFIG}."
        )
    for name, weight in own.items():
        weight.copy_(found[name])


def write_adapter(
    folder: str | Path, weights: Mapping[str, Tensor], settings: LoRASettings, *, base: str
) -> None:
    """Writes an adapter in peft's format, which vLLM and Transformers read.

    Args:
        folder: Made if missing.
        weights: What `adapter_weights` returned.
        settings: What the adapter was made with.
        base: The model it belongs to.
    """
    from safetensors.torch import save_file

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    targets = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in weights})
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": targets,
        "bias": "none",
        "inference_mode": True,
    }
    (path / ADAPTER_CONFIG).write_text(json.dumps(described, indent=2) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, path / ADAPTER_WEIGHTS)
