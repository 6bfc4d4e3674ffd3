"""Writes the examples for real models from the tables below.

    python tuned_examples/generate.py

An example that is written by hand (its first line says nothing of this script) is left alone. The
memory and hours in each header are those of `stepopsd plan`; none of them has been run.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from stepopsd_rllib.commands import tuned
from stepopsd_rllib.training import resource_plan
from stepopsd_rllib.training.placement import place_on

FOLDER = Path(__file__).parent
MADE = "# Written by tuned_examples/generate.py."
TOKENIZER = FOLDER.parent / "stepopsd_rllib" / "tiny" / "weights" / "alfworld"


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model of the hub, and the sizes in its published config."""

    hub: str
    sizes: dict[str, Any]
    thinks: bool = False


QWEN2 = {"model_type": "qwen2", "vocab_size": 151936, "max_position_embeddings": 32768}
MODELS = {
    "qwen2.5_1.5b": Model(
        hub="Qwen/Qwen2.5-1.5B-Instruct",
        sizes=QWEN2
        | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
        | {"num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
    "qwen3_1.7b": Model(
        hub="Qwen/Qwen3-1.7B",
        sizes={"model_type": "qwen3", "vocab_size": 151936, "max_position_embeddings": 40960}
        | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28}
        | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
        | {"tie_word_embeddings": True},
        thinks=True,
    ),
    "qwen2.5_3b": Model(
        hub="Qwen/Qwen2.5-3B-Instruct",
        sizes=QWEN2
        | {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36}
        | {"num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
    "qwen2.5_7b": Model(
        hub="Qwen/Qwen2.5-7B-Instruct",
        sizes=QWEN2
        | {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944}
        | {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
        | {"tie_word_embeddings": False},
    ),
}
FULL, LORA = "", "_lora"
VARIANTS = (
    ("qwen2.5_1.5b", FULL),
    ("qwen3_1.7b", FULL),
    ("qwen2.5_3b", FULL),
    ("qwen2.5_3b", LORA),
    ("qwen2.5_7b", LORA),
)

METHODS = {
    "GRPO": "",
    "StepOPSD": """\
    lambda_mix: 0.2
    lambda_decay_steps: 50
    alpha_clip: 0.05
    span_mode: {span}
    hindsight: peer
    hindsight_position: suffix
    hindsight_max_tokens: 1024
    teacher: stale
    teacher_refresh_interval: 10
""",
    "SDAR": """\
    distillation_coeff: 0.01
    gate: gap
    gate_beta: 5.0
""",
    "OPID": """\
    episode_skill_weight: 0.001
    step_skill_weight: 0.001
    skill_routing: step_priority
    max_step_skills: {skills}
    analyzer: {{engine: policy, max_completion_tokens: 2048, max_context_tokens: 16384}}
""",
}

ALFWORLD = """\
    env_config: {data: official, think: required, max_turns: 50, reward_scale: 10.0}
"""
SEARCH_QA = """\
    env_config:
      data: # FlashRAG's files, JSONL or parquet
        train: [data/nq/train.jsonl, data/hotpotqa/train.jsonl]
        valid_unseen: [data/nq/test.jsonl, data/hotpotqa/dev.jsonl, data/bamboogle/test.jsonl]
      retriever: {kind: http, urls: [http://127.0.0.1:8000/retrieve], deadline_s: 60}
      protocol: window
      max_turns: 4 # the answer included
      top_k: 3
"""
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "alfworld": {
        "id": "stepopsd/ALFWorld-v0",
        "env": ALFWORLD,
        "before": "ALFWORLD_DATA=... ",
        "window": 2,
        "groups": 16,
        "context": 2560,
        "envs": 64,
        "kl": 0.01,
        "penalty": 0.1,
        "evaluation": "    evaluation_interval: 5\n    eval_split: valid_unseen\n"
        "    eval_temperature: 0.4\n",
        "span": "action_only",
        "skills": 5,
    },
    "search_qa": {
        "id": "stepopsd/SearchQA-v0",
        "env": SEARCH_QA,
        "before": "",
        "window": 4,
        "groups": 128,
        "context": 4608,
        "envs": 256,
        "kl": 0.001,
        "penalty": 0.01,
        "evaluation": "    evaluation_interval: 25\n    eval_split: valid_unseen\n"
        "    eval_num_tasks: 2048\n    eval_temperature: 0.0\n",
        "span": "clean_step_no_observation",
        "skills": 2,
    },
}
FULL_PLACE = """\
    placement: split # half of the GPUs learn, the others sample
    compile_layers: true
"""
LORA_PLACE = """\
    lora: {rank: 64, alpha: 128, targets: all-linear}
    placement: auto # learner and engine share every GPU
    micro_batch_tokens: 8192
"""


def body(method: str, environment: str, model: str, kind: str) -> str:
    """The example without its header."""
    chosen, spec = ENVIRONMENTS[environment], MODELS[model]
    name = f"{method.lower()}_{environment}_{model}{kind}"
    thinking = (
        "    chat_template_kwargs: {enable_thinking: false} # the environment asks for <think>\n"
        if spec.thinks
        else ""
    )
    own = METHODS[method].format(span=chosen["span"], skills=chosen["skills"])
    return f"""\
{name}:
  run: {method}
  env: {chosen["id"]}
  stop: {{training_iteration: 150}}
  checkpoint_freq: 10
  keep_checkpoints_num: 3
  max_failures: 3
  config:
{chosen["env"]}    model: {spec.hub}
{thinking}    sampler: vllm
    context: window
    window_turns: {chosen["window"]}
    groups_per_step: {chosen["groups"]}
    group_size: 8
    max_response_tokens: 512
    max_context_tokens: {chosen["context"]}
    lr: {"1.0e-5" if kind == LORA else "1.0e-6"}
    grad_clip: 1.0
    weight_decay: {"0.0" if kind == LORA else "0.01"}
    minibatch_size: 256 # rows of one optimizer step, over all learners
    kl_coeff: {chosen["kl"]}
    entropy_coeff: 0.001
    invalid_action_penalty: {chosen["penalty"]}
{own}{LORA_PLACE if kind == LORA else FULL_PLACE}    num_envs_per_env_runner: {chosen["envs"]}
{chosen["evaluation"]}"""


def header(method: str, environment: str, model: str, kind: str, text: str) -> str:
    """What the example is, what it needs, and how it is started."""
    with tempfile.TemporaryDirectory() as folder:
        small = sized(MODELS[model], Path(folder))
        file = Path(folder) / "example.yaml"
        file.write_text(text)
        config: Any = tuned.configs(tuned.read(file, [f"model={small}"]))[0]
        cards = resource_plan.Cards.parse("1xH100-80GB" if kind == LORA else "4xH100-80GB")
        place_on(config, cards.count)
        made = resource_plan.plan_of(config)
        problem = resource_plan.misfit(made, cards)
        assert problem is None, f"{method} {environment} {model}{kind}: {problem}"
    hours = 150 * sum(made.seconds.values()) / 3600
    learner = made.processes[0].total / 1e9
    if kind == LORA:
        where = f"One GPU of 80 GB: {made.together / 1e9:.0f} GB"
    else:
        where = f"4 GPUs of 80 GB, two learners ({learner:.0f} GB each) and two engines"
    name = f"{method.lower()}/{environment}_{model}{kind}.yaml"
    what = "adapters of rank 64" if kind == LORA else "all weights"
    return f"""\
{MADE} Not run yet.
# {method} on {environment} with {MODELS[model].hub}, {what}.
# {where}; about {hours:.0f} h; estimates of `stepopsd plan`.
#   {ENVIRONMENTS[environment]["before"]}stepopsd train tuned_examples/{name}
"""


def sized(model: Model, folder: Path) -> Path:
    """A folder with a model's config and the embedded tokenizer, without weights."""
    sizes = dict(model.sizes)
    kind = sizes.pop("model_type")
    AutoConfig.for_model(kind, **sizes).save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": kind}))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder)
    return folder


def main() -> None:
    """Writes all examples but those written by hand."""
    for method in METHODS:
        for environment in ENVIRONMENTS:
            for model, kind in VARIANTS:
                file = FOLDER / method.lower() / f"{environment}_{model}{kind}.yaml"
                if file.exists() and not file.read_text().startswith(MADE):
                    continue
                text = body(method, environment, model, kind)
                file.write_text(header(method, environment, model, kind, text) + text)
                print(file)


if __name__ == "__main__":
    main()
