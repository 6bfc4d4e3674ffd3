"""What a run needs, from the model's sizes and the config: memory of each process, seconds, bytes.

On an H100 an update of the shape of Qwen3-1.7B took 39.1 GB where 42.4 are planned, and the seconds
here rest on its speed; those of sampling rest on published speeds. On a CPU the embedded model
takes 0.96 of what is planned, SmolLM2-135M with LoRA 1.37 (4.8 GB where 3.5 are planned): leave
room.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from stepopsd_rllib.models.memory import BYTES, FLOAT32, ModelSizes, adapter_parameters
from stepopsd_rllib.models.output_head import LOGIT_CHUNK_BYTES
from stepopsd_rllib.sampling.vllm_sampler import CPU_BLOCK_SIZE, CPU_CACHE_LIMIT
from stepopsd_rllib.training.agent_config import AgentConfig
from stepopsd_rllib.training.placement import (
    engine_gpus,
    gpu_shares,
    runner_has_gpu,
    sampler_dtype,
    sampler_kind,
    shares_gpu,
)

GB = 1e9
# Python, torch, Ray and Transformers in a process, and vLLM on top of them; measured on Linux.
PROCESS_BYTES, ENGINE_BYTES, CUDA_BYTES = 0.75e9, 0.3e9, 0.6e9
USABLE = 0.97  # of a card: the rest is lost to fragments

# Efficiencies. Update: share of the card's bfloat16 peak that forward and backward pass reach,
# measured on an H100 (docs/results/gpu.md), of eager and of compiled layers. A CPU: float32
# operations a second and core.
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12}
UPDATE_SHARE, COMPILED_SHARE = 0.29, 0.48
CPU_FLOPS = 40e9
# Sampled tokens a second of an engine with a full batch, for 1.72 billion parameters on an H100,
# and how it falls with size.
DECODE_TOKENS, DECODE_PARAMETERS, DECODE_POWER = 7200.0, 1.72e9, -0.68
LEAST_CONTEXTS = 16  # in the cache of an engine on a GPU that a plan asks for
# What part of its limits an episode uses: turns, context, response.
TURNS_USED, CONTEXT_USED, RESPONSE_USED = 0.6, 0.5, 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Cards:
    """GPUs of one kind: how many, their name, and bytes of each."""

    count: int
    name: str
    memory: float

    @classmethod
    def parse(cls, text: str) -> Cards:
        """Reads such as "4xH100-80GB".

        Raises:
            ValueError: The text has another form.
        """
        found = re.fullmatch(r"(?:(\d+)x)?([A-Za-z0-9]+)-(\d+)GB", text)
        if found is None:
            raise ValueError(f"--gpus {text}: is not of the form 4xH100-80GB.")
        count, name, gigabytes = found.groups()
        return cls(count=int(count or 1), name=name, memory=int(gigabytes) * 2**30 * 0.995)


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """One kind of process: how many there are, where, and its bytes by kind."""

    name: str
    count: int
    on_gpu: bool
    memory: dict[str, float]

    @property
    def total(self) -> float:
        """Bytes of one of them."""
        return sum(self.memory.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run needs.

    Attributes:
        processes: Learner and runner; one entry where they are one process.
        seconds: Of one iteration, by part.
        checkpoint: Bytes of one.
        together: Bytes on one GPU (or in a CPU's process) where learner and runner share it.
        overlap: Whether rollouts run beside the update.
    """

    processes: tuple[Process, ...]
    seconds: dict[str, float]
    checkpoint: float
    together: float
    overlap: bool

    @property
    def iteration_seconds(self) -> float:
        """Seconds of one iteration: the sum of its parts, or the longer of what runs at once."""
        total, rollout = sum(self.seconds.values()), self.seconds["rollout"]
        sync = self.seconds["sync"]
        return max(rollout, total - rollout - sync) + sync if self.overlap else total

    @property
    def largest(self) -> float:
        """Bytes that the fullest GPU, or the fullest process of a CPU, has to hold."""
        return max(self.together, *(process.total for process in self.processes))


def plan_of(config: AgentConfig, card: str = "H100") -> Plan:
    """The plan of a validated config.

    Args:
        config: Of one variant.
        card: Name of the GPU, for seconds.
    """
    sizes = ModelSizes.of_folder(config.model_path())
    learner = Process(
        name="learner",
        count=max(1, config.num_learners or 0),
        on_gpu=gpu_shares(config)[1] > 0,
        memory=_learner_memory(config, sizes),
    )
    runner = Process(
        name="runner",
        count=max(1, config.num_env_runners or 0),
        on_gpu=runner_has_gpu(config),
        memory=_runner_memory(config, sizes),
    )
    shared = not config.num_env_runners and not config.num_learners
    together = 0.0
    if shared or shares_gpu(config):
        together = learner.total + runner.total
        if shared and not learner.on_gpu:
            together -= PROCESS_BYTES  # one interpreter
    return Plan(
        processes=(learner, runner),
        seconds=_seconds(config, sizes, card),
        checkpoint=_checkpoint_bytes(config, sizes),
        overlap=bool(config.off_policy_steps),
        together=together,
    )


def trained_parameters(config: AgentConfig, sizes: ModelSizes) -> int:
    """Parameters that the optimizer moves: all, or those of the adapters."""
    rank = config.lora_settings().rank
    return adapter_parameters(sizes, rank) if rank else sizes.parameters


def _copies(config: AgentConfig) -> int:
    options = config.module_options()
    return bool(options.get("with_reference")) + bool(options.get("with_teacher"))


def _learner_memory(config: AgentConfig, sizes: ModelSizes) -> dict[str, float]:
    dtype, trained = config.learner_dtype(), trained_parameters(config, sizes)
    parts = max(1, config.num_learners or 0) if config.shards_learners() else 1
    is_lora, on_gpu = bool(config.lora_settings().rank), gpu_shares(config)[1] > 0
    number = BYTES[dtype]
    options = config.module_options()
    if is_lora:
        weights = number * sizes.parameters + FLOAT32 * trained
        copies = FLOAT32 * trained * bool(options.get("with_teacher"))
    else:
        weights = FLOAT32 * sizes.parameters
        copies = number * sizes.parameters * _copies(config)
    tokens = min(config.micro_batch_tokens, _tokens(config)[1])
    logits = 3.0 * min(LOGIT_CHUNK_BYTES, FLOAT32 * sizes.vocabulary * _sampled_of(config, tokens))
    if dtype == "bfloat16":
        logits += (FLOAT32 + 2) * sizes.head_parameters  # the head's rounded weights
    activations = sizes.activation_bytes(
        tokens, dtype=dtype, checkpointing=config.uses_checkpointing()
    )
    if is_lora and not config.uses_checkpointing():
        activations += int(tokens * sizes.layers * 4 * FLOAT32 * sizes.hidden)
    gathered = sizes.gathered_bytes(number) if config.shards_learners() else 0
    return {
        "weights": weights / parts,
        "gradients": FLOAT32 * trained / parts,
        "optimizer": 2 * FLOAT32 * trained / parts,
        "copies": copies / parts,
        "gathered": gathered,
        "activations": activations,
        "logits": logits,
        "process": CUDA_BYTES if on_gpu else PROCESS_BYTES,
    }


def _runner_memory(config: AgentConfig, sizes: ModelSizes) -> dict[str, float]:
    on_gpu, number = runner_has_gpu(config), BYTES[sampler_dtype(config)]
    lora = config.lora_settings()
    is_vllm = sampler_kind(config) == "vllm"
    weights = number * sizes.parameters
    if is_vllm and not on_gpu:
        weights += number * sizes.head_parameters  # the CPU engine repacks a tied head
    if lora.rank and lora.sync == "adapter":
        weights += number * adapter_parameters(sizes, lora.rank)
    context = sizes.kv_bytes_per_token(number) * (config.max_context_tokens + CPU_BLOCK_SIZE)
    wanted = (config.num_envs_per_env_runner + 1) * context
    # An engine on a GPU takes what is left and lets requests wait; less than this would be slow.
    cache = float(min(wanted, LEAST_CONTEXTS * context) if on_gpu else wanted)
    if is_vllm and not on_gpu:
        given = config.sampler_config.get("kv_cache_memory_bytes")
        cache = float(given or max(min(wanted, CPU_CACHE_LIMIT), 2 * context))
    base = CUDA_BYTES if on_gpu else PROCESS_BYTES
    parts = engine_gpus(config)  # each GPU of an engine has its share of both
    return {
        "weights": weights / parts if on_gpu else weights,
        "cache": cache / parts if on_gpu else cache,
        "process": base + (ENGINE_BYTES if is_vllm and not on_gpu else 0.0),
    }


def _tokens(config: AgentConfig) -> tuple[int, int]:
    """Rows and tokens of one iteration, as far as limits say."""
    episodes = config.group_size * config.groups_per_step
    if config.context == "append":
        return episodes, int(episodes * min(1.0, 1.2 * CONTEXT_USED) * config.max_context_tokens)
    rows = int(episodes * TURNS_USED * _max_turns(config))
    return rows, int(rows * CONTEXT_USED * config.max_context_tokens)


def _sampled(config: AgentConfig) -> int:
    episodes = config.group_size * config.groups_per_step
    turns = TURNS_USED * _max_turns(config)
    return int(episodes * turns * RESPONSE_USED * config.max_response_tokens)


def _sampled_of(config: AgentConfig, tokens: int) -> int:
    """Sampled tokens among the tokens of one micro-batch."""
    return int(tokens * min(1.0, _sampled(config) / max(1, _tokens(config)[1])))


def _max_turns(config: AgentConfig) -> int:
    return int(config.env_config.get("max_turns", 50))


def _seconds(config: AgentConfig, sizes: ModelSizes, card: str) -> dict[str, float]:
    _, tokens = _tokens(config)
    body = sizes.parameters
    is_lora = bool(config.lora_settings().rank)
    learners = max(1, config.num_learners or 0)
    peak = PEAK_FLOPS.get(card, PEAK_FLOPS["H100"])
    share = COMPILED_SHARE if config.compile_layers else UPDATE_SHARE
    speed, scoring_speed = CPU_FLOPS, CPU_FLOPS
    if gpu_shares(config)[1]:
        speed, scoring_speed = share * peak, UPDATE_SHARE * peak
    passes = (4 if is_lora else 6) + (2 if config.uses_checkpointing() else 0)
    options = config.module_options()
    method: Any = config
    scoring = 2.0 * bool(options.get("with_reference"))
    scoring += 2.0 * (not method.takes_one_step() and method.old_log_probs == "learner")
    if options.get("with_teacher") or hasattr(config, "skills") or hasattr(config, "hindsight"):
        scoring += 2.8
    sampled = _sampled(config)
    runners = max(1, config.num_env_runners or 0)
    if runner_has_gpu(config):
        decode = DECODE_TOKENS * (body / DECODE_PARAMETERS) ** DECODE_POWER
        decode *= peak / PEAK_FLOPS["H100"]
        rollout = sampled / decode / runners
        if shares_gpu(config):  # read where they are, float32
            sync = body * BYTES["float32"] / 4e10
        else:  # to the host and from there
            sync = 2.0 * body * BYTES[sampler_dtype(config)] / 3.6e9
    else:
        rollout = 2 * body * (sampled + 0.3 * tokens) / CPU_FLOPS / runners
        sync = body * BYTES[sampler_dtype(config)] / 2e9
    if is_lora:
        sync = 0.3
    return {
        "rollout": rollout,
        "scoring": scoring * body * tokens / scoring_speed / learners,
        "update": passes * body * tokens / speed / learners,
        "sync": sync,
    }


def _checkpoint_bytes(config: AgentConfig, sizes: ModelSizes) -> float:
    """Policy (an adapter twice: in the state, and as a folder), AdamW, a teacher."""
    teacher = bool(config.module_options().get("with_teacher"))
    is_lora = bool(config.lora_settings().rank)
    number = FLOAT32 if is_lora else BYTES[config.learner_dtype()]
    return float(trained_parameters(config, sizes) * ((3 + is_lora) * FLOAT32 + number * teacher))


def misfit(plan: Plan, cards: Cards) -> str | None:
    """Which process is too large for a card; None where all fit."""
    limit = USABLE * cards.memory
    if plan.together > limit and plan.processes[0].on_gpu:
        return f"learner and engine together need {gigabytes(plan.together)}"
    for process in plan.processes:
        if process.on_gpu and process.name == "learner" and process.total > limit:
            return f"a learner needs {gigabytes(process.total)}"
        small = process.memory["weights"] + 0.1 * cards.memory
        if process.on_gpu and process.name == "runner" and small > limit:
            return f"an engine's weights need {gigabytes(process.memory['weights'])}"
    return None


def gigabytes(size: float) -> str:
    """Bytes as a text, in GB or MB."""
    return f"{size / GB:.1f} GB" if size >= 0.95e8 else f"{size / 1e6:.0f} MB"
