"""The RLModule around a Hugging Face causal language model, with its frozen copies.

Log-probs and entropies are computed at response positions only: the output head never sees a prompt
position, so no `[B, T, V]` tensor exists.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.annotations import override
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Bytes of float32 logits held at once; 256 MiB are 440 positions of a vocabulary of 152,000.
LOGIT_CHUNK_BYTES = 1 << 28


class CausalLMModule(TorchRLModule, TargetNetworkAPI, InferenceOnlyAPI):
    """A causal language model as RLModule.

    `model_config` keys: `model_path` (Hugging Face folder), `temperature` (of the sampling
    distribution), `gradient_checkpointing`, `autocast_dtype` (None or "bfloat16"), `random_weights`
    (architecture only), `entropy_gradient` (entropies of the forward pass are differentiated),
    `with_reference` (frozen KL anchor) and `with_teacher` (snapshot that the learner refreshes).

    Weights are float32 masters. The frozen copies live outside optimizer and weight sync, inside
    checkpoints.
    """

    @override(TorchRLModule)
    def setup(self) -> None:
        """Loads the model; refuses one whose logits are not `head(hidden states)`."""
        options: dict[str, Any] = self.model_config
        self.language_model = load_causal_lm(
            options["model_path"], random_weights=options.get("random_weights", False)
        )
        self.temperature = float(options.get("temperature", 1.0))
        self.entropy_mode = "gradient" if options.get("entropy_gradient") else "value"
        self.autocast_dtype = {None: None, "bfloat16": torch.bfloat16}[
            options.get("autocast_dtype")
        ]
        self.reference = (
            _frozen_copy(self.language_model) if options.get("with_reference") else None
        )
        self.teacher: PreTrainedModel | None = None
        if options.get("with_teacher"):
            self.make_target_networks()
        if options.get("gradient_checkpointing"):
            self.language_model.gradient_checkpointing_enable({"use_reentrant": False})

    @override(TorchRLModule)
    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Log-probs (with gradient) and entropies of the response tokens.

        Args:
            batch: `input_ids` int64 [B, T] and `response_mask` bool [B, T].
            kwargs: Ignored (RLlib passes more).

        Returns:
            `policy_log_probs` and `entropy`, float32 [B, T], 0 outside the response mask.
        """
        del kwargs
        log_probs_BT, entropy_BT = self.score(
            self.language_model,
            batch["input_ids"],
            batch["response_mask"],
            entropy=self.entropy_mode,
        )
        return {"policy_log_probs": log_probs_BT, "entropy": entropy_BT}

    def score(
        self,
        model: PreTrainedModel,
        input_ids_BT: Tensor,
        mask_BT: Tensor,
        *,
        entropy: str = "none",
    ) -> tuple[Tensor, Tensor]:
        """Log-probs (and entropies) of the masked tokens under one of this module's models.

        Args:
            model: `language_model`, `reference` or `teacher`.
            input_ids_BT: int64 [B, T], right-padded.
            mask_BT: bool [B, T]: the tokens to score. The first token of a row cannot be scored.
            entropy: "none" (zeros), "value" (detached) or "gradient".

        Returns:
            Two float32 [B, T], 0 outside the mask, nats.
        """
        with self.autocast():
            hidden_BTH = model.base_model(input_ids=input_ids_BT, use_cache=False).last_hidden_state
        hidden_NH = hidden_BTH[:, :-1][mask_BT[:, 1:]]
        targets_N = input_ids_BT[:, 1:][mask_BT[:, 1:]]
        log_probs_N, entropy_N = head_log_probs(
            model.get_output_embeddings(),
            hidden_NH,
            targets_N,
            temperature=self.temperature,
            entropy=entropy,
        )
        return _scatter(log_probs_N, mask_BT), _scatter(entropy_N, mask_BT)

    def head_scores(self, model: PreTrainedModel, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Log-probs of targets given their hidden states, float32 [N], without gradient."""
        with torch.no_grad():
            log_probs_N, _ = head_log_probs(
                model.get_output_embeddings(),
                hidden_NH,
                targets_N,
                temperature=self.temperature,
                entropy="none",
            )
        return log_probs_N

    def autocast(self) -> torch.autocast:
        """The precision in which this module's models run."""
        device_type = next(self.language_model.parameters()).device.type
        return torch.autocast(
            device_type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None
        )

    @override(TargetNetworkAPI)
    def make_target_networks(self) -> None:
        """Makes the teacher: a snapshot of the language model."""
        self.teacher = _frozen_copy(self.language_model)

    @override(TargetNetworkAPI)
    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """(language model, teacher), if there is a teacher."""
        return [(self.language_model, self.teacher)] if self.teacher is not None else []

    @override(TargetNetworkAPI)
    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """`teacher_log_probs`, float32 [B, T], of the response tokens of `batch`."""
        if self.teacher is None:
            raise ValueError(
                "This module was built without a teacher (model_config['with_teacher'] is not set)."
            )
        with torch.no_grad():
            log_probs_BT, _ = self.score(self.teacher, batch["input_ids"], batch["response_mask"])
        return {"teacher_log_probs": log_probs_BT}

    @override(InferenceOnlyAPI)
    def get_non_inference_attributes(self) -> list[str]:
        """The frozen copies: neither sent to runners nor needed for sampling."""
        return ["reference", "teacher"]

    def sampler_weights(self) -> dict[str, Tensor]:
        """Weights of the language model by the names of its checkpoint format, not copied."""
        return dict(self.language_model.state_dict())


def load_causal_lm(model_path: str, *, random_weights: bool = False) -> PreTrainedModel:
    """Loads a Hugging Face causal language model in float32, without dropout.

    Args:
        model_path: Folder in the Hugging Face format.
        random_weights: Build the architecture only; for tests of configurations.

    Raises:
        ValueError: The folder is no causal language model, or one whose logits are not
            `head(hidden)`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        if random_weights:
            model = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(model_path), dtype=torch.float32
            )
        else:
            model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    except (OSError, ValueError) as error:
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


def head_log_probs(
    head: Any, hidden_NH: Tensor, targets_N: Tensor, *, temperature: float, entropy: str
) -> tuple[Tensor, Tensor]:
    """Log p(target) and entropy at each position, in chunks that bound the memory of the logits.

    Args:
        head: Output embedding, [H] -> [V].
        hidden_NH: Hidden states that predict the targets, [N, H].
        targets_N: int64 [N].
        temperature: Divides the logits.
        entropy: "none" (zeros), "value" (detached) or "gradient".

    Returns:
        Log-probs float32 [N] and entropies float32 [N], nats.
    """
    vocabulary = head.weight.shape[0]
    chunk = max(1, LOGIT_CHUNK_BYTES // (4 * vocabulary))
    if len(targets_N) <= chunk:
        return _chunk_log_probs(
            head.weight, getattr(head, "bias", None), hidden_NH, targets_N, temperature, entropy
        )
    parts = [
        checkpoint(
            _chunk_log_probs,
            head.weight,
            getattr(head, "bias", None),
            hidden_NH[i : i + chunk],
            targets_N[i : i + chunk],
            temperature,
            entropy,
            use_reentrant=False,
        )
        for i in range(0, len(targets_N), chunk)
    ]
    log_probs, entropies = zip(*parts, strict=True)
    return torch.cat(log_probs), torch.cat(entropies)


def _chunk_log_probs(
    weight: Tensor,
    bias: Tensor | None,
    hidden_NH: Tensor,
    targets_N: Tensor,
    temperature: float,
    entropy: str,
) -> tuple[Tensor, Tensor]:
    logits_NV = nn.functional.linear(hidden_NH, weight.to(hidden_NH.dtype), bias).float()
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    log_z_N = logits_NV.logsumexp(dim=-1)
    log_probs_N = logits_NV.gather(-1, targets_N[:, None])[:, 0] - log_z_N
    if entropy == "none":
        return log_probs_N, torch.zeros_like(log_probs_N)
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        source_NV, source_log_z_N = (
            (logits_NV, log_z_N)
            if entropy == "gradient"
            else (logits_NV.detach(), log_z_N.detach())
        )
        p_NV = (source_NV - source_log_z_N[:, None]).exp()
        entropy_N = source_log_z_N - (p_NV * source_NV).sum(-1)
    return log_probs_N, entropy_N


def _scatter(values_N: Tensor, mask_BT: Tensor) -> Tensor:
    """Values at the masked positions of a [B, T] tensor of zeros; keeps the gradient."""
    out_BT = values_N.new_zeros(mask_BT.shape)
    scored_BT = mask_BT.clone()
    scored_BT[:, 0] = False
    return out_BT.masked_scatter(scored_BT, values_N)


def _frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    frozen = copy.deepcopy(model)
    frozen.requires_grad_(False)
    return frozen.eval()


def _check_head(model: PreTrainedModel, model_path: str) -> None:
    """Refuses a model that changes its logits after the head, which `score` would leave out."""
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    ids = torch.arange(4)[None] % len(embedding.weight)
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        actual = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(expected, actual, atol=1e-3, rtol=1e-3):
        raise ValueError(
            f"config.model={model_path!r}: its logits are not head(hidden states) (a model with "
            "scaled or capped logits). Such architectures are not supported; Qwen, Llama and "
            "Mistral are."
        )
