"""The sampler protocol: prompt ids in; token ids, log-probs and a finish reason out.

Two implementations stand behind it: `VLLMSampler` (fast, the default where vLLM is installed) and
`TransformersSampler` (always available; the reference in tests). This module imports neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

FinishReason = Literal["stop", "length"]

NO_VERSION = -1  # the weights of the model folder, or none that can be relied on
LOWEST_TEMPERATURE = 0.01  # vLLM raises a lower one to this in silence
SEED_LIMIT = 2**63  # generators take 64 bits, signed in some backends; vLLM reads -1 as "no seed"


class SamplerRefusal(ValueError):
    """A request that this sampler cannot serve; the sampler itself stays usable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """One response to sample.

    Attributes:
        request_id: unique among the running requests of one sampler.
        prompt_ids: token ids of the whole context, at least one.
        seed: in [0, 2**63); seeds this request alone, so its sample does not depend on which other
            requests run.
        temperature: divides the logits, at least 0.01; or 0, which is greedy.
        top_p: nucleus mass in (0, 1]; 1 keeps the whole vocabulary.
        max_tokens: most tokens to sample; fewer where the context ends first.
        stop_token_ids: ids that end the response; the sampled one is part of it.
    """

    request_id: str
    prompt_ids: Sequence[int]
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleResult:
    """One sampled response.

    Attributes:
        request_id: of the request.
        token_ids: int32 [T], including the stop token when it stopped.
        log_probs: float32 [T], nats, of each token under the distribution it was drawn from
            (tempered, and cut to the nucleus where `top_p < 1`). At temperature 0: under the
            model's own distribution.
        finish_reason: "stop" after a stop token, "length" when `max_tokens` or the context ended
            it.
    """

    request_id: str
    token_ids: np.ndarray
    log_probs: np.ndarray
    finish_reason: FinishReason


class Sampler(Protocol):
    """Samples responses for many running requests at once, without a barrier between them.

    Lifecycle: `submit` any number of requests at any time, call `step` until `is_idle`,
    `load_weights` only while idle, `close` at the end. Not thread-safe: one thread drives it.
    """

    @property
    def weights_version(self) -> int:
        """`NO_VERSION` until the first `load_weights` succeeded."""
        ...

    @property
    def max_context_tokens(self) -> int:
        """Most tokens of prompt and response together."""
        ...

    def submit(self, request: SampleRequest) -> None:
        """Queues a request. Raises `SamplerRefusal` when it cannot be served."""
        ...

    def step(self) -> list[SampleResult]:
        """Advances every running request by at least one token; returns those that finished."""
        ...

    def is_idle(self) -> bool:
        """True when no request is queued or running."""
        ...

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Replaces all weights; blocking. `version` is recorded only when everything was loaded.

        Args:
            weights: parameter name in the Hugging Face checkpoint -> tensor of the checkpoint's
                shape. Complete, or `ValueError` names what is missing or unexpected. A tied output
                head may be left out or sent.
            version: what `weights_version` says afterwards.
        """
        ...

    def score(self, token_ids: Sequence[int]) -> np.ndarray:
        """Log-probs of given tokens at temperature 1, for verification.

        Returns:
            float32 [T-1], nats; entry t-1 is log p(token t | tokens < t).
        """
        ...

    def close(self) -> None:
        """Frees the engine and its memory; the sampler is unusable afterwards."""
        ...


def check_request(request: SampleRequest, *, vocabulary_size: int, max_context_tokens: int) -> None:
    """Raises `SamplerRefusal` when a sampler of this size cannot serve `request`."""
    where = f"request {request.request_id!r}"
    check_token_ids(
        request.prompt_ids,
        where=where,
        vocabulary_size=vocabulary_size,
        max_context_tokens=max_context_tokens,
    )
    if request.max_tokens < 1:
        raise SamplerRefusal(f"{where}: max_tokens={request.max_tokens}. Ask for at least 1 token.")
    if not 0 <= request.seed < SEED_LIMIT:
        raise SamplerRefusal(f"{where}: seed={request.seed} lies outside of [0, 2**63).")
    is_greedy = request.temperature == 0
    if not (is_greedy or LOWEST_TEMPERATURE <= request.temperature < math.inf):
        raise SamplerRefusal(
            f"{where}: temperature={request.temperature} is neither 0 nor a number >= "
            f"{LOWEST_TEMPERATURE}. Use 1.0 to sample, 0 for greedy."
        )
    if not 0 < request.top_p <= 1:
        raise SamplerRefusal(
            f"{where}: top_p={request.top_p} lies outside of (0, 1]. "
            "Use 1.0 for the whole distribution."
        )


def check_token_ids(
    token_ids: Sequence[int], *, where: str, vocabulary_size: int, max_context_tokens: int
) -> None:
    """Raises `SamplerRefusal` for ids that are empty, too many, or outside of the vocabulary.

    Too many is `max_context_tokens` or more: at least one position must stay free for a response.
    """
    if len(token_ids) == 0:
        raise SamplerRefusal(f"{where}: the prompt is empty. Give at least one token id.")
    if len(token_ids) >= max_context_tokens:
        raise SamplerRefusal(
            f"{where}: the prompt has {len(token_ids)} tokens and "
            f"max_context_tokens={max_context_tokens}, so no room is left for a response. "
            "Shorten the prompt or raise max_context_tokens."
        )
    lowest, highest = min(token_ids), max(token_ids)
    if lowest < 0 or highest >= vocabulary_size:
        offending = lowest if lowest < 0 else highest
        raise SamplerRefusal(
            f"{where}: token id {offending} lies outside of the model's vocabulary "
            f"[0, {vocabulary_size}). Use the tokenizer of the same model."
        )
