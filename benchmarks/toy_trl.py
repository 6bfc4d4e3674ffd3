"""The work of `toy_work.py` on TRL's GRPOTrainer with vLLM; run by `against_trl.py`.

A text environment goes through `rollout_func`, all episodes in lockstep, as TRL's own tool loop
runs them. vLLM's CPU build packs its weights when it loads them, so that TRL's sync, parameter by
parameter, fails there; the engine's own `reload_weights` takes its place, and the tied head is
packed again behind it.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import time
from collections import Counter
from typing import Any

from benchmarks import toy_work as work

for name, value in (work.ENGINE_SETTINGS | {"TRL_EXPERIMENTAL_SILENCE": "1"}).items():
    os.environ.setdefault(name, value)


COUNTS: Counter[str] = Counter()


def reload_weights_of(generation: Any) -> None:
    """Replaces TRL's weight sync by one that vLLM's CPU build takes."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    def pack_tied_head(model: Any) -> None:
        if model.config.tie_word_embeddings:
            model.lm_head.weight = model.model.embed_tokens.weight
            dispatch_cpu_unquantized_gemm(model.lm_head, remove_weight=False)

    def sync_weights() -> None:
        weights = list(generation._iter_named_params())
        generation.llm.collective_rpc(
            "reload_weights",
            kwargs={"weights_iterator": weights, "is_checkpoint_format": True},
        )
        generation.llm.apply_model(pack_tied_head)
        generation.llm.reset_prefix_cache()

    generation.sync_weights = sync_weights


def rollout_of(tokenizer: Any, skill_words: int) -> Any:
    """TRL's `rollout_func` over the toy environment."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def turn(role: str, text: str) -> str:
        return f"<|im_start|>{role}\n{text}<|im_end|>\n"

    ask = "<|im_start|>assistant\n"
    system = turn("system", work.system_prompt(skill_words))
    end_id, end, newline = tokenizer.eos_token_id, ids("<|im_end|>\n"), ids("\n")

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        tasks = [work.ToyTask(int(prompt)) for prompt in prompts]
        first = [ids(system + turn("user", task.observe()) + ask) for task in tasks]
        rest: list[list[int]] = [[] for _ in tasks]
        mask: list[list[int]] = [[] for _ in tasks]
        log_probs: list[list[float]] = [[] for _ in tasks]
        returns = [0.0] * len(tasks)
        for _ in range(work.TURNS):
            contexts = [a + b for a, b in zip(first, rest, strict=True)]
            actions, sampled = trainer._generate_single_turn(contexts, None, {}, 1)
            for i, (task, action) in enumerate(zip(tasks, actions, strict=True)):
                text = tokenizer.decode(action, skip_special_tokens=True)
                observation, reward, is_over = task.step(text)
                returns[i] += reward
                reply = [] if is_over else ids(turn("user", observation) + ask)
                closing = newline if action[-1] == end_id else end
                reply = closing + reply if reply else []
                rest[i] += list(action) + reply
                mask[i] += [1] * len(action) + [0] * len(reply)
                log_probs[i] += list(sampled[i]) + [0.0] * len(reply)
        COUNTS["rows"] += len(tasks)
        COUNTS["row_tokens"] += sum(map(len, first)) + sum(map(len, rest))
        COUNTS["sampled"] += sum(map(sum, mask))
        return {
            "prompt_ids": first,
            "completion_ids": rest,
            "logprobs": log_probs,
            "env_mask": mask,
            "env_return": returns,
        }

    return rollout


def main() -> None:
    """Prints one line of JSON: seconds of every measured step, and what was forwarded."""
    options = json.loads(sys.argv[1])
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options["model"])
    steps, rows = options["warm_up"] + options["steps"], work.GROUPS * work.GROUP_SIZE
    trainer = GRPOTrainer(
        model=options["model"],
        reward_funcs=lambda env_return, **_: list(env_return),
        args=GRPOConfig(
            output_dir=options["folder"],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=options["rows_at_once"],
            gradient_accumulation_steps=rows // options["rows_at_once"],
            num_generations=work.GROUP_SIZE,
            max_completion_length=work.RESPONSE_TOKENS,
            temperature=1.0,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            max_steps=steps,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            shuffle_dataset=False,
            seed=0,
            use_vllm=True,
            vllm_mode="colocate",
            vllm_max_model_length=options["context_tokens"],
            vllm_importance_sampling_correction=options["correction"],
        ),
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(work.GROUPS * steps)]}),
        processing_class=tokenizer,
        rollout_func=rollout_of(tokenizer, options["skill_words"]),
    )
    reload_weights_of(trainer.vllm_generation)
    forward = trainer.model.forward
    marks: list[tuple[float, float, dict[str, int]]] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        ids = kwargs.get("input_ids", args[0] if args else None)
        kind = "trained" if torch.is_grad_enabled() else "scored"
        COUNTS[kind] += ids.numel()
        return forward(*args, **kwargs)

    trainer.model.forward = counted

    class Mark(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if not marks:
                marks.append((time.perf_counter(), time.process_time(), dict(COUNTS)))

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks.append((time.perf_counter(), time.process_time(), dict(COUNTS)))

    trainer.add_callback(Mark())
    trainer.train()
    pairs = list(itertools.pairwise(marks))[options["warm_up"] :]
    names = ("rows", "row_tokens", "sampled", "trained", "scored")
    result = {
        "wall": [b[0] - a[0] for a, b in pairs],
        "processor": [b[1] - a[1] for a, b in pairs],
        "counts": {
            n: sum(b[2].get(n, 0) - a[2].get(n, 0) for a, b in pairs) / len(pairs) for n in names
        },
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
