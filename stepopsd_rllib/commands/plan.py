"""`stepopsd plan`: what will run where, what memory and time it takes, before anything is started.

Also the heading of a run, and the refusal of what cannot fit. The numbers are `resource_plan`'s.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from stepopsd_rllib.commands import tuned
from stepopsd_rllib.models.memory import ModelSizes
from stepopsd_rllib.training.agent_config import AgentConfig
from stepopsd_rllib.training.placement import gpu_shares, place_on
from stepopsd_rllib.training.resource_plan import (
    PEAK_FLOPS,
    Cards,
    Plan,
    gigabytes,
    misfit,
    plan_of,
    trained_parameters,
)

DEFAULT_CARD = "H100-80GB"

REMEDIES: tuple[dict[str, Any], ...] = (
    {"gradient_checkpointing": True},
    {"micro_batch_tokens": 8192},
    {"micro_batch_tokens": 4096},
    {"sharding": "fsdp2", "compile_layers": False},
    {"sharding": "fsdp2", "compile_layers": False, "micro_batch_tokens": 4096},
    {"lora": {"rank": 64}},
    {"lora": {"rank": 64}, "micro_batch_tokens": 4096},
    {"lora": {"rank": 16}, "micro_batch_tokens": 2048},
)
"""Changes that save memory, the cheapest first."""


def remedy(config: AgentConfig, cards: Cards) -> str:
    """The cheapest change with which a config fits, as a sentence."""
    for remedy_ in REMEDIES:
        if "sharding" in remedy_ and not _can_shard(config):
            continue
        wanted = remedy_ | ({"sharding": "off"} if "lora" in remedy_ else {})
        change = {name: value for name, value in wanted.items() if getattr(config, name) != value}
        changed: Any = copy.deepcopy(config)
        for name, value in change.items():
            setattr(changed, name, value)
        if changed.micro_batch_tokens > config.micro_batch_tokens:
            continue
        if misfit(plan_of(changed, cards.name), cards) is None:
            written = ", ".join(f"{name}: {_yaml(value)}" for name, value in change.items())
            return f"It fits with {written}."
    return "No key makes it fit: take a larger card or a smaller model."


def _can_shard(config: AgentConfig) -> bool:
    return (config.num_learners or 0) > 1 and not config.lora_settings().rank


def run(file: str, overrides: Sequence[str], *, gpus: str | None) -> int:
    """Prints the plan of a tuned example.

    Returns:
        0; 1 where a process does not fit.
    """
    example = tuned.read(file, overrides)
    config: Any = tuned.configs(example)[0]
    cards = _cards(config, gpus)
    if cards is not None:
        place_on(config, cards.count)
    plan = plan_of(config, cards.name if cards else "H100")
    print(show(config, plan, cards))
    if cards is None:
        return 0
    problem = misfit(plan, cards)
    needed = _gpus_needed(config)
    if needed > cards.count:
        print(f"does not fit: {needed:g} GPUs are asked for, there are {cards.count}.")
        return 1
    if problem:
        print(f"does not fit: {problem} of {gigabytes(cards.memory)}. {remedy(config, cards)}")
        return 1
    return 0


def show(config: AgentConfig, plan: Plan, cards: Cards | None) -> str:
    """The plan as a table, a line a process."""
    lines = [f"model       {config.language_model}: {_model(config)}"]
    if cards:
        lines.append(
            f"cards       {cards.count} x {cards.name}, {gigabytes(cards.memory)} each (estimates)"
        )
    for process in plan.processes:
        where = "GPU" if process.on_gpu else "CPU"
        kinds = ", ".join(
            f"{name} {gigabytes(size)}" for name, size in process.memory.items() if size >= 5e6
        )
        lines.append(
            f"{process.name:<11} {process.count} x {gigabytes(process.total)} on the {where}: "
            + kinds
        )
    if plan.together:
        lines.append(f"together    {gigabytes(plan.together)}: learner and runner share it")
    parts = ", ".join(f"{name} {_s(value)}" for name, value in plan.seconds.items())
    lines.append(f"iteration   about {_s(plan.iteration_seconds)}: {parts}")
    lines.append(f"checkpoint  {gigabytes(plan.checkpoint)}")
    return "\n".join(lines)


def one_line(config: AgentConfig) -> str:
    """The plan for the heading of a run."""
    plan = plan_of(config)
    size = plan.together or sum(process.total * process.count for process in plan.processes)
    where = "GPU memory" if plan.processes[0].on_gpu else "memory"
    return (
        f"about {gigabytes(size)} of {where}, {_s(plan.iteration_seconds)} an iteration, "
        f"{gigabytes(plan.checkpoint)} a checkpoint (stepopsd plan says more)"
    )


def refuse_impossible(source: str, configs: Iterable[object]) -> None:
    """Refuses a run whose weights and optimizer alone exceed the memory of this machine's GPU.

    Args:
        source: The file; the message starts with it.
        configs: Of all variants.

    Raises:
        ValueError: With the cheapest key that makes it fit.
    """
    cards = _own_cards()
    if cards is None:
        return
    for config in configs:
        if not isinstance(config, AgentConfig) or not gpu_shares(config)[1]:
            continue
        learner = plan_of(config, cards.name).processes[0].memory
        surely = sum(learner[kind] for kind in ("weights", "gradients", "optimizer", "copies"))
        if surely > cards.memory:
            raise ValueError(
                f"{source}: config.model={config.language_model!r}: a learner's weights and "
                f"optimizer alone need {gigabytes(surely)} of {gigabytes(cards.memory)}. "
                f"{remedy(config, cards)}"
            )


def _cards(config: AgentConfig, gpus: str | None) -> Cards | None:
    if gpus is not None:
        return Cards.parse(gpus)
    needed = _gpus_needed(config)
    if not needed:
        return None
    return _own_cards() or Cards.parse(f"{max(1, round(needed))}x{DEFAULT_CARD}")


def _own_cards() -> Cards | None:
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    name = next((card for card in PEAK_FLOPS if card in properties.name), "H100")
    return Cards(count=torch.cuda.device_count(), name=name, memory=properties.total_memory)


def _gpus_needed(config: AgentConfig) -> float:
    runner, learner = gpu_shares(config)
    return runner * (config.num_env_runners or 0) + learner * max(1, config.num_learners or 0)


def _model(config: AgentConfig) -> str:
    sizes = ModelSizes.of_folder(config.model_path())
    rank = config.lora_settings().rank
    trained = f"adapters of rank {rank}, {trained_parameters(config, sizes) / 1e6:.1f} million"
    return f"{sizes.parameters / 1e6:,.1f} million parameters, trained: " + (
        trained if rank else "all"
    )


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(item)}" for name, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _s(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
