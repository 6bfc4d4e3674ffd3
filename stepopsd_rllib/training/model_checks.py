"""Refuses models that cannot be trained here, by their `config.json`, before weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepopsd_rllib.models.lora import check_targets
from stepopsd_rllib.models.shared_attention import forgetful_layers
from stepopsd_rllib.training.placement import engine_gpus

if TYPE_CHECKING:
    from stepopsd_rllib.training.agent_config import AgentConfig


def check_model(config: AgentConfig) -> None:
    """Checks model, context and adapters of a config.

    Raises:
        ValueError: The model needs its own code, is quantised, is no causal language model, has no
            chat template, or was not made for such contexts; or the adapters fit no layer of it.
    """
    folder = Path(config.model_path())
    named = f"config.model={config.language_model!r}"
    settings = _read(folder / "config.json", named)
    known = _known_types()
    kind = settings.get("model_type")
    if "auto_map" in settings and kind not in known:
        raise ValueError(
            f"{named}: needs Python code out of its folder (auto_map in config.json), which is "
            "never run here. Use a model that Transformers has itself, such as Qwen, Llama or "
            "Mistral."
        )
    if "quantization_config" in settings:
        method = settings["quantization_config"].get("quant_method", "quantised")
        raise ValueError(
            f"{named}: its weights are quantised ({method}) and cannot be trained. Use the model "
            "they were made from, with lora: {rank: 64} where memory is short."
        )
    if kind is not None and kind not in known:
        raise ValueError(
            f"{named}: model_type={kind!r} is no causal language model that Transformers has (an "
            "encoder, or one with images or sound?). Use one such as Qwen, Llama or Mistral."
        )
    text = settings.get("text_config") or settings
    limit = text.get("max_position_embeddings")
    if limit is not None and config.max_context_tokens > limit:
        raise ValueError(
            f"config.max_context_tokens={config.max_context_tokens}: the model was made for "
            f"contexts of at most {limit} tokens. Lower it."
        )
    if not _has_chat_template(folder):
        raise ValueError(
            f"{named}: its tokenizer has no chat template, so turns cannot be told apart. Use an "
            "instruction-tuned model, or add a chat_template.jinja to the model's folder."
        )
    heads, parts = text.get("num_attention_heads"), engine_gpus(config)
    if heads is not None and heads % parts:
        raise ValueError(
            f"config.sampler_config.tensor_parallel_size={parts}: the model's {heads} attention "
            "heads cannot be shared out evenly. Use a divisor of them."
        )
    lora = config.lora_settings()
    if lora.rank or config.scores_branches():
        from transformers import AutoConfig

        model_config = AutoConfig.from_pretrained(folder)
        if lora.rank:
            check_targets(lora, model_config)
        forgetful = forgetful_layers(model_config.get_text_config())
        if config.scores_branches() and forgetful:
            raise ValueError(
                f"{named}: has layers of {', '.join(forgetful)}, and "
                f"{type(config).__name__.removesuffix('Config')} judges turns that hang on one "
                "shared history, which such layers forget. Use a model whose layers all have full "
                "attention."
            )


def _read(file: Path, named: str) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{named}: {file} cannot be read ({error}). Copy it again.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{named}: {file} holds no settings. Copy it again.")
    return settings


def _known_types() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and bool(_read(file, str(folder)).get("chat_template"))
