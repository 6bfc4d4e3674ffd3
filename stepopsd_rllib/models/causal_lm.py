"""The RLModule around a Hugging Face causal language model, with its frozen copies.

Log-probs and entropies are computed at response positions only: the output head never sees a prompt
position, so no `[B, T, V]` tensor exists.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.annotations import override
from torch import Tensor, nn

from stepopsd_rllib.models.loading import decoder_layers, load_causal_lm, untied
from stepopsd_rllib.models.lora import (
    POLICY,
    TEACHER,
    LoRASettings,
    adapter_weights,
    add_adapters,
    is_adapter_name,
    merged_weights,
    refresh_teacher,
    using,
)
from stepopsd_rllib.models.module_state import (
    POLICY_PREFIX,
    packed_state,
    state_elsewhere,
    unpack_state,
    with_weights,
)
from stepopsd_rllib.models.output_head import HeadArithmetic, head_log_probs, head_top_tokens
from stepopsd_rllib.models.sharding import in_step, is_sharded, learner_mesh, one_pass, shard
from stepopsd_rllib.models.shared_attention import SharedRows, can_share

if TYPE_CHECKING:
    from transformers import PreTrainedModel

View = Literal["policy", "reference", "teacher"]
"""Which of a module's weights judge: those that are trained, the frozen KL anchor, the snapshot."""

Item = TypeVar("Item")

_REBUILT = ("reference",)
"""Parts of the module that are read from the model's folder again, and so not checkpointed."""


class CausalLMModule(TorchRLModule, TargetNetworkAPI, InferenceOnlyAPI):
    """A causal language model as RLModule.

    `model_config` keys: `model_path` (Hugging Face folder), `temperature` (of the sampling
    distribution), `gradient_checkpointing`, `autocast_dtype` (None or "bfloat16"), `head_dtype`
    ("float32" or "model": arithmetic of the head under autocast), `device` (where weights are
    loaded to), `random_weights` (architecture only), `share_prefixes` (beginnings of rows are
    forwarded once, if the model can), `entropy_gradient` (entropies of the forward pass are
    differentiated), `with_reference` (frozen KL anchor), `with_teacher` (snapshot that the
    learner refreshes) and `lora` (`LoRASettings` as a dict; with a rank, reference and teacher are
    the one model with its adapter off, or with another).

    `teacher_version` is the number of updates that the teacher's weights have seen, kept by the
    learner. Weights are float32 masters; the frozen copies have the arithmetic of the forward
    passes. They live outside optimizer and weight sync; the teacher is part of checkpoints, the
    reference is read from the model's folder again.
    """

    @override(TorchRLModule)
    def setup(self) -> None:
        """Loads the model; refuses one whose logits are not `head(hidden states)`."""
        options: dict[str, Any] = self.model_config
        self.language_model = load_causal_lm(
            options["model_path"],
            random_weights=options.get("random_weights", False),
            device=options.get("device", "cpu"),
        )
        # Before it is copied: the copies share, too.
        self.shares_prefixes = bool(options.get("share_prefixes")) and can_share(
            self.language_model
        )
        self.temperature = float(options.get("temperature", 1.0))
        self.entropy_mode = "gradient" if options.get("entropy_gradient") else "value"
        self.autocast_dtype = {None: None, "bfloat16": torch.bfloat16}[
            options.get("autocast_dtype")
        ]
        self.lora = LoRASettings.of(options.get("lora") or {})
        self.head_arithmetic: HeadArithmetic = "exact"
        if self.autocast_dtype is not None:
            is_float32 = options.get("head_dtype", "float32") == "float32"
            self.head_arithmetic = "rounded" if is_float32 else "bfloat16"
        self.views = {"policy"}
        self.views |= {name for name in ("reference", "teacher") if options.get(f"with_{name}")}
        self.reference: PreTrainedModel | None = None
        self.teacher: PreTrainedModel | None = None
        self.teacher_version = 0
        self.awaits_weights = False
        self._state_folder: Path | None = None
        if self.lora.rank:
            if self.autocast_dtype is not None:
                whole: Any = self.language_model
                whole.to(self.autocast_dtype)  # frozen, and its passes are rounded anyway
            add_adapters(self.language_model, self.lora, with_teacher="teacher" in self.views)
        else:
            if "reference" in self.views:
                self.reference = self._frozen_copy()
            if "teacher" in self.views:
                self.make_target_networks()
        if options.get("gradient_checkpointing"):
            self.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        if options.get("residual_dtype") == "model":
            self.use_rounded_residual()
        self.is_compiled = False
        if options.get("compile_layers"):
            self.compile_layers()

    def use_rounded_residual(self) -> None:
        """Keeps the residual stream in the arithmetic of the passes, not in float32.

        What a layer adds is rounded already; its sum alone was not. The frozen copies, whose
        weights are rounded, and the engines do the same.
        """
        if self.autocast_dtype is None:
            return
        for model in (self.language_model, self.reference, self.teacher):
            if model is not None:
                embedding: Any = model.get_input_embeddings()
                dtype = self.autocast_dtype
                embedding.register_forward_hook(lambda *parts, d=dtype: parts[2].to(d))

    def compile_layers(self) -> None:
        """Compiles the policy's decoder layers for passes with gradient; the first one is slow."""
        self.is_compiled = True
        for layer in decoder_layers(self.language_model):
            layer.compile(dynamic=True)

    @override(TorchRLModule)
    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Log-probs (with gradient) and entropies of the response tokens.

        Args:
            batch: `input_ids` int64 [B, T] and `response_mask` bool [B, T]. Where there is a
                `candidate_ids` int64 [P, K], tokens of interest beside the sampled one at each of
                the P positions of the mask in row order, their log-probs are computed too. With
                `shared_rows` the rows share their beginnings.
            kwargs: Ignored (RLlib passes more).

        Returns:
            `policy_log_probs` and `entropy`, float32 [B, T], 0 outside the response mask; and,
            with gradient, `candidate_log_probs`, float32 [P, K], if there are candidates.
        """
        del kwargs
        mask_BT = batch["response_mask"]
        log_probs_P, entropy_P, candidates_PK = self._scored(
            self.language_model,
            batch["input_ids"],
            mask_BT,
            entropy=self.entropy_mode,
            shared=batch.get("shared_rows"),
            candidates_PK=batch.get("candidate_ids"),
        )
        fwd_out = {
            "policy_log_probs": _scatter(log_probs_P, mask_BT),
            "entropy": _scatter(entropy_P, mask_BT),
        }
        if candidates_PK is not None:
            fwd_out["candidate_log_probs"] = candidates_PK
        return fwd_out

    def score(
        self,
        model: PreTrainedModel,
        input_ids_BT: Tensor,
        mask_BT: Tensor,
        *,
        entropy: str = "none",
        shared: SharedRows | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-probs (and entropies) of the masked tokens under one of this module's models.

        Args:
            model: What `view` lends, or the language model itself.
            input_ids_BT: int64 [B, T], right-padded.
            mask_BT: bool [B, T]: the tokens to score. The first token of a row cannot be scored.
            entropy: "none" (zeros), "value" (detached) or "gradient".
            shared: How the rows share their beginnings, if they do.

        Returns:
            Two float32 [B, T], 0 outside the mask, nats.
        """
        log_probs_P, entropy_P, _ = self._scored(
            model, input_ids_BT, mask_BT, entropy=entropy, shared=shared
        )
        return _scatter(log_probs_P, mask_BT), _scatter(entropy_P, mask_BT)

    def _scored(
        self,
        model: PreTrainedModel,
        input_ids_BT: Tensor,
        mask_BT: Tensor,
        *,
        entropy: str,
        shared: SharedRows | None,
        candidates_PK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One pass over rows: log-probs and entropies [P] of the masked tokens, and candidates'."""

        def score() -> tuple[Tensor, Tensor, Tensor | None]:
            hidden_PH, targets_P = self._hidden_states(model, input_ids_BT, mask_BT, shared)
            return head_log_probs(
                model.get_output_embeddings(),
                hidden_PH,
                targets_P,
                temperature=self.temperature,
                entropy=entropy,
                candidates_NK=candidates_PK,
                arithmetic=self.head_arithmetic,
            )

        return one_pass(model, score)

    def shard(self, device: torch.device) -> None:
        """Spreads the models over the learners; before an optimizer takes their parameters.

        The frozen copies are spread, too: they are as large, and their passes exchange as much as
        the policy's.

        Args:
            device: This learner's.
        """
        mesh = learner_mesh(device)
        for model in (self.reference, self.teacher, self.language_model):
            if model is not None:
                is_policy = model is self.language_model
                arithmetic = self.autocast_dtype if is_policy else None
                shard(model, decoder_layers(model), mesh, arithmetic=arithmetic)

    @property
    def is_sharded(self) -> bool:
        """Whether every pass is an exchange between all learners."""
        return is_sharded(self.language_model)

    def in_step(self, passes: Iterable[Item]) -> Iterator[Item | None]:
        """The passes of this learner; of a sharded module None where it has to make an idle one.

        Args:
            passes: Of one view, or of the update: what all learners do together.
        """
        if not self.is_sharded:
            return iter(passes)
        return in_step(passes, next(self.language_model.parameters()).device)

    def idle_pass(self, model: PreTrainedModel) -> Tensor:
        """Forwards two tokens in step with learners that have more to forward; a sum, float32."""
        device = next(model.parameters()).device
        ids_BT = torch.zeros(1, 2, dtype=torch.int64, device=device)
        log_probs_BT, _ = self.score(model, ids_BT, torch.ones_like(ids_BT, dtype=torch.bool))
        return log_probs_BT.sum()

    def _hidden_states(
        self,
        model: PreTrainedModel,
        input_ids_BT: Tensor,
        mask_BT: Tensor,
        shared: SharedRows | None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [P, H] that predict the masked tokens, and these tokens, int64 [P]."""
        self._require_weights()
        targets_P = input_ids_BT[:, 1:][mask_BT[:, 1:]]
        if shared is not None:
            shared = shared.to(input_ids_BT.device)
            with self.autocast(), self._uncompiled():
                hidden_NH = shared.forward(model)
            return hidden_NH[shared.source_BT[:, :-1][mask_BT[:, 1:]]], targets_P
        with self.autocast():
            hidden_BTH = model.base_model(input_ids=input_ids_BT, use_cache=False).last_hidden_state
        return hidden_BTH[:, :-1][mask_BT[:, 1:]], targets_P

    @property
    def max_positions(self) -> int | None:
        """Positions that the model was made for, tokens; None where it has no limit."""
        return getattr(self.language_model.config, "max_position_embeddings", None)

    @contextlib.contextmanager
    def view(self, name: View) -> Iterator[PreTrainedModel]:
        """Lends the model that judges under a name, in evaluation mode.

        It is that view's for as long as the context lasts and no longer: keep the name, not the
        model. Evaluation mode is what scoring takes, as gradient checkpointing leaves no keys and
        values in training mode.

        Args:
            name: "policy", "reference" or "teacher".

        Raises:
            ValueError: The module was built without that view.
        """
        model = self._model_of(name)
        was_training = model.training
        model.eval()
        adapter = {"policy": POLICY, "reference": None, "teacher": TEACHER}[name]
        try:
            with (
                using(model, adapter) if self.lora.rank else contextlib.nullcontext(),
                self._uncompiled(),
            ):
                yield model
        finally:
            model.train(was_training)

    def _uncompiled(self) -> contextlib.AbstractContextManager[None]:
        """Layers as they are written: passes with caches and shared rows differ too much."""
        if not self.is_compiled:
            return contextlib.nullcontext()
        return torch.compiler.set_stance("force_eager")

    def _model_of(self, name: View) -> PreTrainedModel:
        if name not in get_args(View):
            raise ValueError(f"{name!r} is no view of a module, but {', '.join(get_args(View))}.")
        if name not in self.views:
            raise ValueError(
                f"This module was built without a {name} (model_config['with_{name}'] is not set)."
            )
        model = self.language_model
        if not self.lora.rank and name != "policy":
            model = self.reference if name == "reference" else self.teacher
        assert model is not None
        return model

    def head_scores(self, model: PreTrainedModel, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Log-probs of targets given their hidden states, float32 [N], without gradient."""
        with torch.no_grad():
            log_probs_N, _, _ = head_log_probs(
                model.get_output_embeddings(),
                hidden_NH,
                targets_N,
                temperature=self.temperature,
                entropy="none",
                arithmetic=self.head_arithmetic,
            )
        return log_probs_N

    def head_top_tokens(
        self, model: PreTrainedModel, hidden_NH: Tensor, *, count: int
    ) -> tuple[Tensor, Tensor]:
        """The most likely tokens given hidden states, without gradient.

        Args:
            model: One of this module's models.
            hidden_NH: Hidden states of the model, [N, H].
            count: K, at most the vocabulary.

        Returns:
            Their log-probs, float32 [N, K], and their ids, int64 [N, K], most likely first.
        """
        with torch.no_grad():
            return head_top_tokens(
                model.get_output_embeddings(),
                hidden_NH,
                temperature=self.temperature,
                count=count,
                arithmetic=self.head_arithmetic,
            )

    def autocast(self) -> torch.autocast:
        """The precision in which this module's models run."""
        device_type = next(self.language_model.parameters()).device.type
        return torch.autocast(
            device_type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None
        )

    @override(TargetNetworkAPI)
    def make_target_networks(self) -> None:
        """Makes the teacher: a snapshot of the language model."""
        self.views |= {"teacher"}
        self.teacher = self._frozen_copy()

    def refresh_teacher(self) -> None:
        """Makes the teacher a snapshot of the policy as it is now."""
        if self.lora.rank:
            refresh_teacher(self.language_model)
        elif self.teacher is not None:
            self.teacher.load_state_dict(self.language_model.state_dict())

    @override(TargetNetworkAPI)
    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """(language model, teacher), if there is a teacher."""
        return [(self.language_model, self.teacher)] if self.teacher is not None else []

    @override(TargetNetworkAPI)
    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """`teacher_log_probs`, float32 [B, T], of the response tokens of `batch`."""
        with self.view("teacher") as teacher, torch.no_grad():
            log_probs_BT, _ = self.score(teacher, batch["input_ids"], batch["response_mask"])
        return {"teacher_log_probs": log_probs_BT}

    @override(InferenceOnlyAPI)
    def get_non_inference_attributes(self) -> list[str]:
        """The frozen copies: neither sent to runners nor needed for sampling."""
        return ["reference", "teacher"]

    @override(TorchRLModule)
    def get_state(
        self, components: Any = None, *, inference_only: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """All weights that cannot be rebuilt, as arrays by name; see `packed_state`.

        Of a sharded module it says where they are instead: no learner has them, and to gather them
        here would wait for learners that were not asked.
        """
        del components, kwargs
        self._require_weights()
        if self.is_sharded:
            return state_elsewhere(self.whole_weights().keys())
        copies = self.get_non_inference_attributes() if inference_only else _REBUILT
        return packed_state(self._own_state(), left_out=copies)

    @override(TorchRLModule)
    def set_state(self, state: dict[str, Any]) -> None:
        """Writes the weights of `get_state`, with or without the frozen copies."""
        own = self._own_state()
        state, self.awaits_weights = with_weights(state, self._state_folder)
        parts = {name.partition(".")[0] for name in state}
        absent = {*self.get_non_inference_attributes()} - parts
        if self.awaits_weights:
            absent.add(POLICY_PREFIX.rstrip("."))
        kept = {n: v for n, v in state.items() if n in own or n.partition(".")[0] not in _REBUILT}
        unpack_state(kept, own, left_out=absent)

    @override(TorchRLModule)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restores a saved state, with the policy's weights from the checkpoint's `model/`.

        Where that folder is not beside it, on another machine, the module awaits
        `set_policy_weights` and refuses every pass until then.
        """
        self._state_folder = Path(path)
        try:
            super().restore_from_path(path, *args, **kwargs)
        finally:
            self._state_folder = None

    def set_policy_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Writes the policy's weights, by the names of the checkpoint format."""
        own = {n: t for n, t in self._own_state().items() if n.startswith(POLICY_PREFIX)}
        unpack_state({POLICY_PREFIX + n: w for n, w in weights.items()}, own, left_out=())
        self.awaits_weights = False

    def _require_weights(self) -> None:
        if self.awaits_weights:
            raise RuntimeError(
                "This module was restored from a part of a checkpoint: the policy's weights are in "
                "the checkpoint's folder model/. Restore the whole checkpoint, or hand them to "
                "set_policy_weights."
            )

    def _own_state(self) -> dict[str, Tensor]:
        """All tensors by name; of a model with adapters, the adapters': the rest never changes."""
        state = self.state_dict()
        if not self.lora.rank:
            return state
        return {name: tensor for name, tensor in state.items() if is_adapter_name(name)}

    def _frozen_copy(self) -> PreTrainedModel:
        """A copy of the language model without gradients, in the arithmetic of its passes."""
        frozen = copy.deepcopy(self.language_model)
        frozen.requires_grad_(False)
        if self.autocast_dtype is not None:
            # Its matrices would be rounded in every pass; half the memory is all that changes.
            frozen.to(self.autocast_dtype)
        return frozen.eval()

    def sampler_weights(self) -> dict[str, Tensor]:
        """What samplers need, by checkpoint name: all weights, or the adapter's.

        A tied head is left out: samplers fill it in from the embedding. Nothing is copied but
        weights that an adapter is merged into.
        """
        return self.adapter_weights() if self.lora.sync == "adapter" else self.whole_weights()

    def whole_weights(self) -> dict[str, Tensor]:
        """All weights of the policy by checkpoint name, adapters merged, a tied head left out."""
        self._require_weights()
        model = self.language_model
        return untied(model, merged_weights(model) if self.lora.rank else model.state_dict())

    def adapter_weights(self) -> dict[str, Tensor]:
        """The policy's adapter by the names of peft's files, not copied."""
        return adapter_weights(self.language_model)


def _scatter(values_N: Tensor, mask_BT: Tensor) -> Tensor:
    """Values at the masked positions of a [B, T] tensor of zeros; keeps the gradient."""
    out_BT = values_N.new_zeros(mask_BT.shape)
    scored_BT = mask_BT.clone()
    scored_BT[:, 0] = False
    return out_BT.masked_scatter(scored_BT, values_N)
