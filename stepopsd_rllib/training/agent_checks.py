"""What the keys of `AgentConfig` may be."""

from __future__ import annotations

from stepopsd_rllib.config_keys import KeyCheck, is_int, is_number

AGENT_CHECKS: list[KeyCheck] = [
    (
        "language_model",
        lambda v: isinstance(v, str) and v != "",
        "the folder of a model, or 'tiny'",
    ),
    (
        "sampler",
        lambda v: v in ("auto", "vllm", "transformers"),
        "'auto', 'vllm' or 'transformers'",
    ),
    ("sampler_config", lambda v: isinstance(v, dict), "a mapping of engine options"),
    ("chat_template_kwargs", lambda v: isinstance(v, dict), "a mapping of template arguments"),
    ("group_size", lambda v: is_int(v, 1), "a whole number of episodes, at least 2"),
    ("groups_per_step", lambda v: is_int(v, 1), "a whole number of tasks, at least 1"),
    ("context", lambda v: v in ("append", "window"), "'append' or 'window'"),
    ("window_turns", lambda v: is_int(v, 0), "a whole number of turns, at least 0"),
    ("max_response_tokens", lambda v: is_int(v, 1), "a whole number of tokens, at least 1"),
    ("max_context_tokens", lambda v: is_int(v, 2), "a whole number of tokens, at least 2"),
    (
        "temperature",
        lambda v: is_number(v, 1e-6),
        "a number above 0 (training needs a distribution)",
    ),
    ("top_p", lambda v: is_number(v, 1e-6, 1.0), "a number in (0, 1]"),
    ("eval_split", lambda v: isinstance(v, str), "the name of a split"),
    (
        "eval_num_tasks",
        lambda v: v is None or is_int(v, 1),
        "a whole number of tasks, or none for all",
    ),
    ("eval_temperature", lambda v: is_number(v, 0.0), "a number, at least 0"),
    ("eval_at_start", lambda v: isinstance(v, bool), "true or false"),
    ("gradient_checkpointing", lambda v: isinstance(v, bool), "true or false"),
    (
        "autocast_dtype",
        lambda v: v in ("auto", "float32", "bfloat16"),
        "'auto', 'float32' or 'bfloat16'",
    ),
    ("micro_batch_tokens", lambda v: is_int(v, 1), "a whole number of tokens, at least 1"),
    (
        "max_sampler_difference",
        lambda v: v in ("auto", None) or is_number(v, 0.0),
        "'auto', none, or a number of nats",
    ),
    ("weight_sync_timeout_s", lambda v: is_number(v, 1.0), "a number of seconds, at least 1"),
    ("min_groups_fraction", lambda v: is_number(v, 0.0, 1.0), "a number in [0, 1]"),
    ("seed", lambda v: is_int(v, 0), "a whole number, at least 0 (every run is seeded)"),
    ("num_epochs", lambda v: is_int(v, 1), "a whole number, at least 1"),
    (
        "minibatch_size",
        lambda v: v is None or is_int(v, 1),
        "a whole number of rows, or none for the whole batch",
    ),
    (
        "lr",
        lambda v: is_number(v, 0.0) or isinstance(v, list | tuple),
        "a number, at least 0, or a schedule [[timestep, lr], ...]",
    ),
    ("grad_clip", lambda v: v is None or is_number(v, 1e-12), "a number above 0, or none"),
]
