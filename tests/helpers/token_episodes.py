"""Episodes of random tokens and a random causal model, small enough for slow reference loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stepopsd_rllib.episodes import AgentEpisode, Status, Turn
from stepopsd_rllib.models.causal_lm import CausalLMModule

VOCABULARY = 61


def random_module(folder: Path, *, max_positions: int = 1024, **options: object) -> CausalLMModule:
    """A causal model of two layers with random weights, its teacher disturbed."""
    import torch
    from transformers import Qwen3Config

    torch.manual_seed(0)
    Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=max_positions,
        initializer_range=0.3,
        tie_word_embeddings=False,
        architectures=["Qwen3ForCausalLM"],
    ).save_pretrained(folder)
    module = CausalLMModule(
        observation_space=None,
        action_space=None,
        inference_only=False,
        model_config={
            "model_path": str(folder),
            "random_weights": True,
            "with_teacher": True,
            **options,
        },
    )
    assert module.teacher is not None
    with torch.no_grad():
        for parameter in module.teacher.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return module


def random_episode(
    rng: np.random.Generator,
    *,
    num_turns: int,
    context: str,
    group: int = 0,
    won: bool = False,
    weights_version: int = 0,
    vocabulary: int = VOCABULARY,
) -> AgentEpisode:
    """An episode whose prompts and responses are random ids of random lengths."""

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(0, vocabulary, int(rng.integers(low, high))).astype(np.int32)

    turns = []
    for k in range(num_turns):
        response_ids = ids(1, 7)
        is_last = k == num_turns - 1
        turns.append(
            Turn(
                prompt_ids=ids(1, 6) if context == "append" else ids(1, 20),
                response_ids=response_ids,
                behaviour_log_probs=np.full(len(response_ids), -1.0, dtype=np.float32),
                observation=f"You see {k}.",
                response="",
                action=f"go to {k}",
                is_action_valid=True,
                reward=float(won and is_last),
                finish_reason="stop",
                weights_version=weights_version,
            )
        )
    return AgentEpisode(
        task_id="task",
        task_type="pick",
        group=group,
        rollout=0,
        seed=0,
        context="append" if context == "append" else "window",
        status=Status.SUCCESS if won else Status.TURN_LIMIT,
        won=won,
        turns=tuple(turns),
    )
