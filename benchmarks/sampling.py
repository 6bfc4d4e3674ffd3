"""Tokens a second of both samplers on the same multi-turn work.

    python benchmarks/sampling.py [--model FOLDER] [--episodes 64] [--turns 4] ...

Every episode is a growing chat: a prompt, then turns of one response and one environment reply. An
episode goes on the moment its own response is done. Without --model a random model of 2 M
parameters is built, which samples full-length responses.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from stepopsd_rllib.sampling.sampler import SampleRequest
from stepopsd_rllib.sampling.transformers_sampler import TransformersSampler
from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

SAMPLERS = {"transformers": TransformersSampler, "vllm": VLLMSampler}


def build_random_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=2048,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)


def roll_out(sampler: TransformersSampler | VLLMSampler, work: argparse.Namespace) -> int:
    """Samples all episodes; returns the number of response tokens."""
    rng = np.random.default_rng(0)
    system = rng.integers(work.vocabulary, size=work.prompt_tokens // 2).tolist()
    replies = rng.integers(work.vocabulary, size=(work.turns, work.reply_tokens)).tolist()
    tasks = rng.integers(
        work.vocabulary, size=(work.episodes // work.group_size, work.prompt_tokens // 2)
    ).tolist()
    chats = [system + task for task in tasks for _ in range(work.group_size)]
    turns = [0] * len(chats)
    sampled = 0

    def submit(episode: int) -> None:
        sampler.submit(
            SampleRequest(
                request_id=str(episode),
                prompt_ids=chats[episode],
                seed=episode * work.turns + turns[episode],
                max_tokens=work.response_tokens,
            )
        )

    for episode in range(len(chats)):
        submit(episode)
    while not sampler.is_idle():
        for result in sampler.step():
            episode = int(result.request_id)
            sampled += len(result.token_ids)
            chats[episode] += result.token_ids.tolist() + replies[turns[episode]]
            turns[episode] += 1
            if turns[episode] < work.turns:
                submit(episode)
    return sampled


def measure(kind: str, work: argparse.Namespace) -> float:
    """Prints one line; returns the best tokens a second of the repetitions."""
    context = work.prompt_tokens + work.turns * (work.response_tokens + work.reply_tokens)
    begin = time.perf_counter()
    sampler = SAMPLERS[kind](work.model, max_context_tokens=context, max_concurrent=work.episodes)
    start_up = time.perf_counter() - begin
    rates = []
    for version in range(work.repetitions + 1):  # the first one warms up
        sampler.load_weights(work.weights, version)  # empties the prefix cache, as training does
        sampler.prompt_tokens = sampler.cached_prompt_tokens = 0
        begin = time.perf_counter()
        sampled = roll_out(sampler, work)
        rates.append(sampled / (time.perf_counter() - begin))
    cached = sampler.cached_prompt_tokens / sampler.prompt_tokens
    sampler.close()
    print(
        f"{kind:>12}: {max(rates[1:]):8.0f} tokens/s (warm runs: "
        f"{', '.join(f'{rate:.0f}' for rate in rates[1:])}; first run {rates[0]:.0f}), "
        f"start-up {start_up:.1f} s, {cached:.0%} of prompt tokens from the cache"
    )
    return max(rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="model folder; default: a random model of 2 M parameters")
    for name, default in {
        "episodes": 64,
        "group-size": 8,
        "turns": 4,
        "prompt-tokens": 200,
        "response-tokens": 32,
        "reply-tokens": 40,
        "repetitions": 2,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    work = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if work.model is None:
            work.model = folder
            build_random_model(Path(folder))
        work.vocabulary = AutoConfig.from_pretrained(work.model).vocab_size
        work.weights = AutoModelForCausalLM.from_pretrained(work.model).state_dict()
        rates = {kind: measure(kind, work) for kind in SAMPLERS}
    print(f"vllm / transformers = {rates['vllm'] / rates['transformers']:.2f}")


if __name__ == "__main__":
    main()
