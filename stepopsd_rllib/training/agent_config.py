"""What every configuration of this package shares: what follows from the keys of the agent."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override

from stepopsd_rllib.environments import DEFAULT_ENV, make_text_env, text_env_class
from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.models.lora import LoRASettings
from stepopsd_rllib.models.model_folder import model_folder
from stepopsd_rllib.rollout.env_runner import TextEnvRunner
from stepopsd_rllib.rollout.policy_analysis import PolicyAnalysis
from stepopsd_rllib.rollout.turn_loop import RolloutSettings
from stepopsd_rllib.sampling.contract import sampler_class
from stepopsd_rllib.training.agent_keys import AgentKeys
from stepopsd_rllib.training.model_checks import check_model
from stepopsd_rllib.training.placement import (
    check_placement,
    engine_sleeps,
    gpu_engine_options,
    hide_gpus,
    place,
    runner_has_gpu,
    sampler_dtype,
    sampler_kind,
)

if TYPE_CHECKING:
    from stepopsd_envs import TextEnv
    from transformers import PreTrainedTokenizerBase

    from stepopsd_rllib.prompts.chat import ChatFormat
    from stepopsd_rllib.sampling.sampler import Sampler

logger = logging.getLogger(__name__)

_SAMPLER_DIFFERENCE_LIMITS = {"float32": 1e-3, "bfloat16": 0.1}


class AgentConfig(AgentKeys):
    """An AlgorithmConfig for language-model agents in text environments."""

    def __init__(self, algo_class: type | None = None):
        """Sets RLlib's defaults to what a language-model agent needs."""
        super().__init__(algo_class=algo_class)
        self.env = DEFAULT_ENV
        self.env_runner_cls = TextEnvRunner
        self.add_default_connectors_to_learner_pipeline = False
        self.add_default_connectors_to_env_to_module_pipeline = False
        self.add_default_connectors_to_module_to_env_pipeline = False
        self.num_envs_per_env_runner = 64
        # Gradients live in the buffers in which they cross learners, not in a copy beside them.
        self.torch_ddp_kwargs = {"gradient_as_bucket_view": True}
        self._dont_auto_sync_env_runner_states = True
        self.sample_timeout_s = 3600.0
        self.delay_between_env_runner_restarts_s = 1.0

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Places processes, then checks every key, and the pairs that cannot work together."""
        place(self)
        super().validate()
        if self.group_size < 2:
            self._value_error(
                f"config.group_size={self.group_size!r}: GRPO compares episodes of one task, so a "
                "group of one always has advantage 0. Set config.agent(group_size=8)."
            )
        if self.groups_per_step % max(1, self.num_learners or 0):
            self._value_error(
                f"config.groups_per_step={self.groups_per_step} does not divide over "
                f"num_learners={self.num_learners}, and groups are never cut. Set groups_per_step "
                f"to a multiple of {self.num_learners}."
            )
        if self.max_response_tokens >= self.max_context_tokens:
            self._value_error(
                f"config.max_response_tokens={self.max_response_tokens} leaves no room for a "
                f"prompt in max_context_tokens={self.max_context_tokens}. Raise max_context_tokens "
                "or shorten the response."
            )
        if self.num_aggregator_actors_per_learner:
            self._value_error(
                "config.num_aggregator_actors_per_learner must be 0: an aggregator takes the "
                "learner's connectors, which compute the advantages."
            )
        self._check_overlap()
        self._check_sharding()
        check_placement(self)
        sampler_kind(self)
        self._check_context()
        check_model(self)

    def _check_overlap(self) -> None:
        """Refuses to sample beside the update where nothing can run beside it."""
        if not self.off_policy_steps or self.in_evaluation:  # RLlib's copy has no runners
            return
        if not self.num_env_runners:
            self._value_error(
                "config.off_policy_steps=1 with num_env_runners=0: sampler and learner share a "
                "process, so nothing can be sampled during the update. Set num_env_runners to 1 or "
                "more, or off_policy_steps to 0."
            )
        if self.engine_sleeps():
            self._value_error(
                "config.off_policy_steps=1 with a sleeping engine: it gives its GPU to the learner "
                "during the update and cannot sample then. Set sampler_config['enable_sleep_mode'] "
                "to false, with placement 'split' or GPUs of their own for the runners, or "
                "off_policy_steps to 0."
            )

    def _check_sharding(self) -> None:
        """Refuses to shard what has no parts, or among fewer learners than the keys ask for."""
        if self.sharding == "off":
            return
        if self.lora_settings().rank:
            self._value_error(
                f"config.sharding='fsdp2' with lora.rank={self.lora_settings().rank}: adapters are "
                "small, and each learner needs the whole frozen model beside them. Set "
                "sharding='off', or lora={} to train all weights."
            )
        if self.placement == "keys" and (self.num_learners or 0) < 2:
            self._value_error(
                f"config.sharding='fsdp2' with num_learners={self.num_learners}: one learner has "
                "nobody to share the weights with. Set num_learners to 2 or more, with a GPU each, "
                "or sharding='off' (with lora={'rank': 64} where the model does not fit)."
            )
        if self.compile_layers:
            self._value_error(
                "config.compile_layers=True with sharding='fsdp2': compiled layers have not been "
                "shown to exchange their weights. Set one of the two to its default."
            )

    def _check_context(self) -> None:
        try:
            self.env_class().refuse_context(self.context, self.env_config)
        except ValueError as error:
            named = str(error)
            self._value_error(f"config.{named}" if named.startswith("context=") else named)

    def model_path(self) -> str:
        """Folder of the model.

        Raises:
            ValueError: There is no such folder, or no embedded model for the environment.
        """
        return model_folder(self.language_model, self.env_class())

    def model_positions(self) -> int | None:
        """Longest context that the model was made for, tokens; None where it does not say."""
        return self._model_setting("max_position_embeddings")

    def model_vocabulary(self) -> int | None:
        """Number of tokens that the model tells apart; None where it does not say."""
        return self._model_setting("vocab_size")

    def _model_setting(self, name: str) -> int | None:
        config_file = Path(self.model_path()) / "config.json"
        return json.loads(config_file.read_text(encoding="utf-8")).get(name)

    def env_class(self) -> type[TextEnv]:
        """Class of the environment: what it says of itself.

        Raises:
            ValueError: No such environment, or no text environment.
        """
        return text_env_class(self.env, self.env_config)

    def make_env(self) -> TextEnv:
        """A text environment; one that counts tokens counts the model's, unless told otherwise.

        Raises:
            ValueError: No such environment, or an argument that it does not take.
        """
        arguments = dict(self.env_config)
        if "tokenizer" in inspect.signature(self.env_class()).parameters:
            arguments.setdefault("tokenizer", self.model_path())
        return make_text_env(self.env, arguments)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.model_path())

    def chat_format(self) -> ChatFormat:
        """The chat format of the model's tokenizer."""
        from stepopsd_rllib.prompts.chat import ChatFormat

        return ChatFormat(
            self.tokenizer(),
            self.chat_template_kwargs,
            grows=self.context == "append",
            accepts_rewriting=self.accept_rewriting_template,
        )

    def make_sampler(self) -> Sampler:
        """Starts the sampler of one env runner; takes seconds with vLLM."""
        analysis = self.policy_analysis()
        limits = {
            "max_context_tokens": max(
                self.max_context_tokens, 0 if analysis is None else analysis.max_context_tokens
            ),
            "max_concurrent": self.num_envs_per_env_runner,
        }
        has_gpu, lora = runner_has_gpu(self), self.lora_settings()
        if not has_gpu:
            hide_gpus()
        kind = sampler_kind(self)
        if kind == "own":
            make: Any = sampler_class(self.sampler)
            return make(self.model_path(), **limits, **self.sampler_config)
        options: dict[str, Any] = dict(self.sampler_config) | {"dtype": sampler_dtype(self)}
        if kind == "vllm":
            from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

            engine_options = (gpu_engine_options(self) if has_gpu else {}) | self.head_options()
            return VLLMSampler(
                self.model_path(),
                dtype=options.pop("dtype"),
                engine_options=engine_options | options,
                lora=lora if lora.sync == "adapter" else None,
                **limits,
            )
        from stepopsd_rllib.sampling.transformers_sampler import TransformersSampler

        if self.sampler == "auto":
            logger.warning(
                "No vLLM for the runner's device (%s) is installed: sampling with Transformers, "
                "which is slower.",
                "a GPU" if has_gpu else "the CPU",
            )
        options.setdefault("device", "cuda" if has_gpu else "cpu")
        return TransformersSampler(self.model_path(), **limits, **options)

    def rollout_settings(self, *, explore: bool) -> RolloutSettings:
        """How episodes are sampled: for training, or for evaluation."""
        return RolloutSettings(
            context=self.context,
            window_turns=self.window_turns,
            max_response_tokens=self.max_response_tokens,
            max_context_tokens=self.max_context_tokens,
            temperature=self.temperature if explore else self.eval_temperature,
            top_p=self.top_p if explore else 1.0,
        )

    def env_deadline_s(self) -> float:
        """Seconds that an environment has for an answer: its episode must end before the rest."""
        return min(self.env_timeout_s, self.sample_timeout_s / 2)

    def policy_analysis(self) -> PolicyAnalysis | None:
        """What the policy is asked about its own training episodes; None asks nothing."""
        return None

    def check_first_task(self, info: Mapping[str, Any]) -> None:
        """Refuses an environment without what the method needs, before any engine starts.

        Args:
            info: What came with the reset of a training task.

        Raises:
            ValueError: Something is missing.
        """

    def scores_branches(self) -> bool:
        """Whether something judges turns that hang on one shared history."""
        return False

    def lora_settings(self) -> LoRASettings:
        """The key `lora`, with "auto" of what is sent to samplers resolved.

        Raises:
            ValueError: An unknown key or a value out of range, or adapters for a sampler that takes
                none.
        """
        lora = LoRASettings.of(self.lora)
        takes_adapters = sampler_kind(self) == "vllm"
        if not lora.rank:
            return replace(lora, sync="merged")
        if lora.sync == "auto":
            # On a CPU all is float32, where merging loses nothing and the engine is faster without
            # adapters.
            sends_adapters = takes_adapters and runner_has_gpu(self)
            return replace(lora, sync="adapter" if sends_adapters else "merged")
        if lora.sync == "adapter" and not takes_adapters:
            raise ValueError(
                "config.lora.sync='adapter': the sampler is 'transformers', which takes whole "
                "weights. Set it to 'merged', or sampler='vllm'."
            )
        return lora

    def engine_sleeps(self) -> bool:
        """Whether samplers leave their GPU to the learner during updates."""
        return engine_sleeps(self)

    def learner_dtype(self) -> str:
        """Arithmetic of the learner: "float32" or "bfloat16"."""
        if self.autocast_dtype != "auto":
            return self.autocast_dtype
        return "bfloat16" if self.num_gpus_per_learner else "float32"

    def shards_learners(self) -> bool:
        """Whether each learner holds a part of the weights alone: one by itself holds them all."""
        return self.sharding == "fsdp2" and (self.num_learners or 0) > 1

    def uses_checkpointing(self) -> bool:
        """`gradient_checkpointing` with "auto" resolved: where the learner has a GPU."""
        if self.gradient_checkpointing == "auto":
            return bool(self.num_gpus_per_learner)
        return bool(self.gradient_checkpointing)

    def head_options(self) -> dict[str, Any]:
        """Options of a vLLM engine that let its head compute as the learner's does.

        Logits of bfloat16 on one side alone are the largest part of the two sides' difference.
        """
        is_rounded = sampler_dtype(self) == "bfloat16"
        if is_rounded and self.head_dtype == "float32":
            return {"hf_overrides": {"head_dtype": "float32"}}
        return {}

    def sampler_difference_limit(self) -> float | None:
        """`max_sampler_difference` with "auto" resolved, nats; the coarser arithmetic decides."""
        if self.max_sampler_difference == "auto":
            dtypes = (self.learner_dtype(), sampler_dtype(self))
            return max(_SAMPLER_DIFFERENCE_LIMITS[dtype] for dtype in dtypes)
        return self.max_sampler_difference  # type: ignore[return-value]

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The language model as RLModule."""
        return RLModuleSpec(module_class=CausalLMModule, model_config=self.module_options())

    def module_options(self) -> dict[str, Any]:
        """`model_config` of the `CausalLMModule`; algorithms add their frozen copies."""
        return {
            "model_path": self.model_path(),
            "temperature": self.temperature,
            "gradient_checkpointing": self.uses_checkpointing(),
            "head_dtype": self.head_dtype,
            "residual_dtype": self.residual_dtype,
            "compile_layers": self.compile_layers,
            # A model that is to be sharded goes to the device layer by layer, in parts.
            "device": "cuda" if self.num_gpus_per_learner and not self.shards_learners() else "cpu",
            "autocast_dtype": "bfloat16" if self.learner_dtype() == "bfloat16" else None,
            "random_weights": self.random_weights,
            "lora": self.lora_settings().as_dict(),
            "share_prefixes": self.share_prefixes == "auto",
        }
