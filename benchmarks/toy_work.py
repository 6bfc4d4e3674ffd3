"""The work of `against_trl.py`: a five-turn text environment and models with random weights.

It knows of no trainer. Everything follows from seeds, so that two packages that use it do the same
work: 16 tasks of 8 episodes a step, 5 turns of at most 12 sampled tokens, observations of 52 words.
The reward is a hash of the action: no two episodes have the same return, and no group is without a
signal.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

TURNS = 5
RESPONSE_TOKENS = 12
GROUP_SIZE = 8
GROUPS = 16
OBSERVATION_WORDS = 52
SYSTEM_WORDS = 40
CONTEXT_TOKENS = 640
# Environment of a vLLM that is not this package's own; set before vLLM is imported.
ENGINE_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}

# Hidden size, layers, heads, key heads, head size, MLP size; 0.4 and 25 million parameters.
MODELS = {"tiny": (128, 2, 4, 2, 32, 256), "small": (512, 8, 8, 4, 64, 1536)}
TOKENIZER = Path(__file__).parent.parent / "stepopsd_rllib" / "tiny" / "weights" / "alfworld"
# Each is one token of the embedded tokenizer, with the space in front of it.
WORDS = """
and apple around bowl but carry cloth cup drawer egg find hot ladle lettuce microwave newspaper
nothing pen pillow pot soap sofa tomato watch
"""


def sentence(seed: str, words: int) -> str:
    """So many words, a function of the seed."""
    words_of = WORDS.split()
    draw = random.Random(seed)  # texts are hashed with sha512: the same everywhere
    return " ".join(draw.choice(words_of) for _ in range(words))


def system_prompt(skill_words: int = 0) -> str:
    """The system's message, with so many words of skills."""
    return sentence("system", SYSTEM_WORDS + skill_words)


class ToyTask:
    """One episode of text; its texts stand without the chat template."""

    def __init__(self, seed: int) -> None:
        """Keeps the task."""
        self.seed = seed
        self.turn = 0

    def observe(self, action: str = "") -> str:
        """What the agent is told now."""
        return sentence(f"{self.seed}/{self.turn}/{action}", OBSERVATION_WORDS)

    def step(self, action: str) -> tuple[str, float, bool]:
        """Next observation, reward in [0, 1), and whether the episode is over."""
        digest = hashlib.sha256(f"{self.seed}/{self.turn}/{action}".encode()).digest()
        self.turn += 1
        reward = int.from_bytes(digest[:4], "big") / 2**32
        return self.observe(action), reward, self.turn >= TURNS


def build_model(folder: Path, size: str) -> Path:
    """Writes a Qwen3 model with random weights and the tokenizer of the embedded model."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    if (folder / "config.json").exists():
        return folder
    tokenizer: Any = AutoTokenizer.from_pretrained(TOKENIZER)
    hidden, layers, heads, key_heads, head_dim, mlp = MODELS[size]
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            head_dim=head_dim,
            intermediate_size=mlp,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
