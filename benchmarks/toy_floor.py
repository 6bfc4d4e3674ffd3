"""The work of `toy_work.py` without any trainer: bare vLLM and a bare PyTorch update.

Run by `against_trl.py`. Sampling: an episode goes on the moment its own action is there, requests
are built by hand, nothing is recorded but token ids. Update: every row on its own, padded to the
longest of its pass, forward, backward and AdamW on the sampled tokens. What it leaves out is what a
trainer is for: log-probs, credit, checks, metrics, the sync of the weights.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

from benchmarks import toy_work as work

for name, value in work.ENGINE_SETTINGS.items():
    os.environ.setdefault(name, value)


Row = tuple[list[int], list[bool]]  # token ids, and which of them were sampled


class Texts:
    """Token ids of the chat around the environment's texts."""

    def __init__(self, tokenizer: Any, skill_words: int) -> None:
        """Keeps the parts that every episode has."""
        self.tokenizer = tokenizer
        self.end_id: int = tokenizer.eos_token_id
        self.end, self.newline = self.ids("<|im_end|>\n"), self.ids("\n")
        self.ask = self.ids("<|im_start|>assistant\n")
        system = work.system_prompt(skill_words)
        self.system = self.ids(f"<|im_start|>system\n{system}<|im_end|>\n")

    def ids(self, text: str) -> list[int]:
        """The text's tokens."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def user(self, observation: str) -> list[int]:
        """The user's message, and the start of the answer."""
        return self.ids(f"<|im_start|>user\n{observation}<|im_end|>\n") + self.ask

    def reply(self, task: work.ToyTask, action: list[int]) -> list[int]:
        """What follows an action; nothing at the end of the episode."""
        text = self.tokenizer.decode(action, skip_special_tokens=True)
        observation, _, is_over = task.step(text)
        if is_over:
            return []
        return (self.newline if action[-1] == self.end_id else self.end) + self.user(observation)


def sample(engine: Any, params: Any, texts: Texts, step: int) -> list[Row]:
    """Plays the episodes of a step."""
    live: dict[str, tuple[work.ToyTask, list[int], list[bool]]] = {}
    for n in range(work.GROUPS * work.GROUP_SIZE):
        task = work.ToyTask(step * work.GROUPS + n // work.GROUP_SIZE)
        ids = texts.system + texts.user(task.observe())
        live[f"{step}/{n}/0"] = (task, ids, [False] * len(ids))
    for key, (_, ids, _) in live.items():
        engine.add_request(key, {"prompt_token_ids": ids}, params)
    rows: list[Row] = []
    while engine.has_unfinished_requests():
        for output in engine.step():
            if not output.finished:
                continue
            task, ids, mask = live.pop(output.request_id)
            action = list(output.outputs[0].token_ids)
            reply = texts.reply(task, action)
            ids = ids + action + reply
            mask = mask + [True] * len(action) + [False] * len(reply)
            if not reply:
                rows.append((ids, mask))
                continue
            key = f"{output.request_id.rpartition('/')[0]}/{task.turn}"
            live[key] = (task, ids, mask)
            engine.add_request(key, {"prompt_token_ids": ids}, params)
    return rows


def update(model: Any, optimizer: Any, rows: list[Row], rows_at_once: int) -> int:
    """One optimizer step on the rows; returns the tokens forwarded, padding among them."""
    import torch

    rows = sorted(rows, key=lambda row: len(row[0]))
    sampled, forwarded = sum(sum(mask) for _, mask in rows), 0
    optimizer.zero_grad()
    for start in range(0, len(rows), rows_at_once):
        part = rows[start : start + rows_at_once]
        length = max(len(ids) for ids, _ in part)
        ids_BT = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in part])
        mask_BT = torch.tensor([mask + [False] * (length - len(mask)) for _, mask in part])
        advantages_B = torch.linspace(-1.0, 1.0, len(part))
        hidden_BTD = model.model(ids_BT).last_hidden_state[:, :-1]
        picked_BT = mask_BT[:, 1:]
        logits_ND = model.lm_head(hidden_BTD[picked_BT]).float()
        log_probs_N = torch.log_softmax(logits_ND, -1).gather(-1, ids_BT[:, 1:][picked_BT][:, None])
        ratio_N = (log_probs_N[:, 0] - log_probs_N[:, 0].detach()).exp()
        weights_N = advantages_B[:, None].expand_as(picked_BT)[picked_BT]
        (-(ratio_N * weights_N).sum() / sampled).backward()
        forwarded += ids_BT.numel()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return forwarded


def main() -> None:
    """Prints one line of JSON: seconds of every measured step, and what was forwarded."""
    options = json.loads(sys.argv[1])
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from vllm import LLM, SamplingParams

    torch.set_num_threads(1)
    texts = Texts(AutoTokenizer.from_pretrained(options["model"]), options["skill_words"])
    llm = LLM(
        options["model"],
        dtype="float32",
        max_model_len=options["context_tokens"],
        max_num_seqs=work.GROUPS * work.GROUP_SIZE,
        max_num_batched_tokens=4096,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
    )
    params = SamplingParams(max_tokens=work.RESPONSE_TOKENS, temperature=1.0, logprobs=0)
    model: Any = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    wall, processor, parts, trained, rows = [], [], [], [], []
    for step in range(options["warm_up"] + options["steps"]):
        begin, cpu = time.perf_counter(), time.process_time()
        llm.reset_prefix_cache()  # as after every update
        rows = sample(llm.llm_engine, params, texts, step)
        middle = time.perf_counter()
        trained.append(update(model, optimizer, rows, options["rows_at_once"]))
        wall.append(time.perf_counter() - begin)
        processor.append(time.process_time() - cpu)
        parts.append((middle - begin, time.perf_counter() - middle))
    measured = slice(options["warm_up"], None)
    result = {
        "wall": wall[measured],
        "processor": processor[measured],
        "counts": {
            "rows": len(rows),
            "trained": sum(trained[measured]) / options["steps"],
            "scored": 0,
        },
        "parts": {
            name: sum(part[n] for part in parts[measured]) / options["steps"]
            for n, name in enumerate(("sample", "update"))
        },
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
