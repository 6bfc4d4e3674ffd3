"""Sampling with a Hugging Face model in this process: the reference, and the fallback."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from stepopsd_rllib.sampling.checkpoint_layout import CheckpointLayout
from stepopsd_rllib.sampling.sampler import (
    NO_VERSION,
    FinishReason,
    SampleRequest,
    SampleResult,
    SamplerRefusal,
    check_request,
    check_token_ids,
)
from stepopsd_rllib.sampling.slot_cache import SlotCache, shared_prefix

PREFILL_TOKENS = 4096  # tokens, padding included, of one prefill pass; a longer prompt goes alone
WORTH_WAITING = 32  # tokens that a request must gain to wait for another's prefill


@dataclass(slots=True)
class _Running:
    """A request that owns a slot, and what it has sampled."""

    request: SampleRequest
    prompt_ids: list[int]
    slot: int
    limit: int  # most tokens, by the request and by the context
    generator: torch.Generator
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def finish_reason(self) -> FinishReason | None:
        if self.token_ids[-1] in self.request.stop_token_ids:
            return "stop"
        return "length" if len(self.token_ids) == self.limit else None


class TransformersSampler:
    """A `Sampler` on a Hugging Face causal language model with full attention.

    All running requests decode in one batch. A request that extends tokens some slot has seen, as
    the next turn of a chat does, computes only the new ones.

    Attributes:
        prompt_tokens: prompt tokens of all admitted requests.
        cached_prompt_tokens: those of them that were not computed again.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        max_context_tokens: int,
        max_concurrent: int = 64,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        """Loads the model.

        Args:
            model_path: folder with `config.json` and weights.
            max_context_tokens: longest prompt and response together, tokens.
            max_concurrent: most requests in the running batch; the others wait.
            dtype: of weights and arithmetic, the learner's; by default float32 on CPU and bfloat16
                on GPU.
            device: by default "cuda" where there is one, else "cpu".
        """
        self._layout = CheckpointLayout.of_folder(model_path)
        self._layout.check_context(max_context_tokens)
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent={max_concurrent}: give at least 1.")
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        default = "bfloat16" if self._device.type == "cuda" else "float32"
        loaded = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=dtype or default, attn_implementation="sdpa"
        )
        model = cast(torch.nn.Module, loaded)
        _require_full_attention(model.config, max_context_tokens)
        self._model = model.to(self._device).eval().requires_grad_(False)
        self.max_context_tokens = max_context_tokens
        self.weights_version = NO_VERSION
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        self._pending: deque[SampleRequest] = deque()
        self._running: dict[str, _Running] = {}
        self._cache = SlotCache(slots=max_concurrent, max_context_tokens=max_context_tokens)
        self._free_slots = list(range(max_concurrent))  # least recently used first
        self._is_open = True

    def submit(self, request: SampleRequest) -> None:
        """Queues a request. Raises `SamplerRefusal` when it cannot be served."""
        self._require_open()
        check_request(
            request,
            vocabulary_size=self._layout.vocabulary_size,
            max_context_tokens=self.max_context_tokens,
        )
        waiting = (pending.request_id for pending in self._pending)
        if request.request_id in self._running or request.request_id in waiting:
            raise SamplerRefusal(
                f"request {request.request_id!r}: this id is running already. Give each its own."
            )
        self._pending.append(request)

    @torch.no_grad()
    def step(self) -> list[SampleResult]:
        """Samples one token for every running request; returns those that finished."""
        running = list(self._running.values())
        if running:
            self._extend(running, [entry.token_ids[-1:] for entry in running])
        finished = self._retire()
        while self._pending and self._free_slots:
            admitted = self._admit()
            self._extend(
                admitted,
                [entry.prompt_ids[len(self._cache.tokens[entry.slot]) :] for entry in admitted],
            )
        return finished + self._retire()

    def is_idle(self) -> bool:
        """True when no request is queued or running."""
        return not self._pending and not self._running

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Replaces all weights in place and forgets every cached key and value.

        Raises:
            ValueError: the weights do not cover the model; nothing was changed.
            RuntimeError: requests are running; nothing was changed.
        """
        self._require_open()
        if not self.is_idle():
            raise RuntimeError(
                f"load_weights: {len(self._running) + len(self._pending)} requests are running, "
                "and one response must come from one policy. Call step() until is_idle()."
            )
        complete = self._layout.complete(weights)
        self.weights_version = NO_VERSION
        self._cache.forget()
        for name, tensor in self._model.state_dict().items():
            tensor.copy_(complete[name])
        self.weights_version = version

    @torch.no_grad()
    def score(self, token_ids: Sequence[int]) -> np.ndarray:
        """Log-probs of given tokens at temperature 1, computed without the cache.

        Args:
            token_ids: [T], fewer than `max_context_tokens`.

        Returns:
            float32 [T-1], nats; entry t-1 is log p(token t | tokens < t).
        """
        self._require_open()
        check_token_ids(
            token_ids,
            where="score",
            vocabulary_size=self._layout.vocabulary_size,
            max_context_tokens=self.max_context_tokens,
        )
        ids_BT = torch.tensor([list(token_ids)], device=self._device)
        log_probs_TV = self._model(ids_BT, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        return log_probs_TV.gather(1, ids_BT[0, 1:, None])[:, 0].cpu().numpy()

    def close(self) -> None:
        """Frees the model and its cache; the sampler is unusable afterwards."""
        if self._is_open:
            self._is_open = False
            self._pending.clear()
            self._running.clear()
            del self._cache, self._model

    def _require_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("This sampler is closed. Build another.")

    def _admit(self) -> list[_Running]:
        """Gives free slots to pending requests, as many as one prefill pass takes.

        A request that another one of this pass would spare much work (the same task, the same
        system prompt) waits for the next pass of the same step.
        """
        admitted: list[_Running] = []
        longest = 0
        for request in list(self._pending):
            prompt_ids = list(map(int, request.prompt_ids))
            donor, shared = self._best_donor(prompt_ids)
            gain = max((shared_prefix(prompt_ids, e.prompt_ids) for e in admitted), default=0)
            width = max(longest, len(prompt_ids) - shared)
            if not self._free_slots or (admitted and width * (len(admitted) + 1) > PREFILL_TOKENS):
                break
            if gain >= shared + WORTH_WAITING:
                continue
            longest = width
            slot = self._take_slot(donor, shared)
            self._cache.copy_prefix(donor, slot, shared)
            self._pending.remove(request)
            entry = _Running(
                request=request,
                prompt_ids=prompt_ids,
                slot=slot,
                limit=min(request.max_tokens, self.max_context_tokens - len(prompt_ids)),
                generator=torch.Generator().manual_seed(request.seed),
            )
            self._running[request.request_id] = entry
            admitted.append(entry)
            self.prompt_tokens += len(prompt_ids)
            self.cached_prompt_tokens += shared
        return admitted

    def _best_donor(self, prompt_ids: list[int]) -> tuple[int, int]:
        """Slot that shares most with a prompt, and how much; the last token is always computed."""
        asked = prompt_ids[:-1]
        shared = [shared_prefix(asked, tokens) for tokens in self._cache.tokens]
        donor = max(range(len(shared)), key=shared.__getitem__)
        return donor, shared[donor]

    def _take_slot(self, donor: int, shared: int) -> int:
        """The donor itself where the prompt extends all it holds, else the one unused longest."""
        is_extended = shared == len(self._cache.tokens[donor])
        slot = donor if donor in self._free_slots and is_extended else self._free_slots[0]
        self._free_slots.remove(slot)
        return slot

    def _retire(self) -> list[SampleResult]:
        finished = []
        for entry in list(self._running.values()):
            reason = entry.finish_reason()
            if reason is None:
                continue
            del self._running[entry.request.request_id]
            self._free_slots.append(entry.slot)
            finished.append(
                SampleResult(
                    request_id=entry.request.request_id,
                    token_ids=np.array(entry.token_ids, np.int32),
                    log_probs=np.array(entry.log_probs, np.float32),
                    finish_reason=reason,
                )
            )
        return finished

    def _extend(self, entries: list[_Running], new_ids: list[list[int]]) -> None:
        """Feeds new tokens to some slots and samples the next token of each."""
        by_slot = {entry.slot: ids for entry, ids in zip(entries, new_ids, strict=True)}
        used = max(by_slot) + 1
        # Idle rows cost arithmetic, skipping them costs a copy of the cache: see SlotCache.aim.
        slots = list(range(used)) if 2 * len(by_slot) > used else sorted(by_slot)
        logits_BV = self._next_logits(slots, [by_slot.get(slot, []) for slot in slots])
        rows = [slots.index(entry.slot) for entry in entries]
        tokens, log_probs = _draw(logits_BV[rows], entries)
        for entry, token, log_prob in zip(entries, tokens, log_probs, strict=True):
            entry.token_ids.append(token)
            entry.log_probs.append(log_prob)

    def _next_logits(self, slots: list[int], new_ids: list[list[int]]) -> torch.Tensor:
        """One forward pass over new tokens, padded on the left: float32 [B, V] after the last."""
        width = max(map(len, new_ids))
        ids_BT = torch.zeros(len(slots), width, dtype=torch.long)
        positions_BT = torch.zeros_like(ids_BT)
        columns_BT = torch.full_like(ids_BT, self._cache.padding_column)
        for row, (slot, ids) in enumerate(zip(slots, new_ids, strict=True)):
            if ids:
                start = len(self._cache.tokens[slot])
                ids_BT[row, -len(ids) :] = torch.tensor(ids)
                positions_BT[row, -len(ids) :] = torch.arange(start, start + len(ids))
                columns_BT[row, -len(ids) :] = positions_BT[row, -len(ids) :]
                self._cache.tokens[slot] += ids
        visible = int(positions_BT.max()) + 1
        is_seen = torch.arange(visible) <= positions_BT[:, None, :, None]  # [B, 1, T, visible]
        self._cache.aim(slots, columns_BT.to(self._device), visible)
        output = self._model(
            input_ids=ids_BT.to(self._device),
            attention_mask=is_seen.to(self._device),
            position_ids=positions_BT.to(self._device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()


def _draw(logits_BV: torch.Tensor, entries: list[_Running]) -> tuple[list[int], list[float]]:
    """One token a row from its own generator; its log-prob under what it was drawn from."""
    requests = [entry.request for entry in entries]
    temperature_B1 = logits_BV.new_tensor([[request.temperature or 1.0] for request in requests])
    logits_BV = logits_BV / temperature_B1
    if any(request.top_p < 1 and request.temperature > 0 for request in requests):
        top_p_B1 = logits_BV.new_tensor(
            [[request.top_p if request.temperature > 0 else 1.0] for request in requests]
        )
        logits_BV = _nucleus(logits_BV, top_p_B1)
    log_probs_BV = logits_BV.log_softmax(-1)
    # Inverse distribution function, in float64 so that the tail of a large vocabulary survives.
    cumulative_BV = log_probs_BV.double().exp().cumsum(-1)
    uniform = [torch.rand((), generator=entry.generator, dtype=torch.double) for entry in entries]
    uniform_B1 = torch.stack(uniform)[:, None].to(logits_BV.device) * cumulative_BV[:, -1:]
    sampled_B = torch.searchsorted(cumulative_BV, uniform_B1, right=True)[:, 0]
    is_greedy_B = torch.tensor([r.temperature == 0 for r in requests], device=logits_BV.device)
    token_B = torch.where(is_greedy_B, logits_BV.argmax(-1), sampled_B)
    return token_B.tolist(), log_probs_BV.gather(1, token_B[:, None])[:, 0].tolist()


def _nucleus(logits_BV: torch.Tensor, top_p_B1: torch.Tensor) -> torch.Tensor:
    """Keeps the fewest most likely tokens whose probabilities sum to `top_p` or more."""
    sorted_BV, order_BV = logits_BV.sort(descending=True)
    probs_BV = sorted_BV.softmax(-1)
    is_cut_BV = (probs_BV.cumsum(-1) - probs_BV) >= top_p_B1
    kept_BV = sorted_BV.masked_fill(is_cut_BV, -torch.inf)
    return torch.empty_like(logits_BV).scatter_(1, order_BV, kept_BV)


def _require_full_attention(config: object, max_context_tokens: int) -> None:
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None) or 0
    if kinds - {"full_attention"} and not (
        kinds <= {"full_attention", "sliding_attention"} and window >= max_context_tokens
    ):
        raise ValueError(
            f"sampler='transformers': the model has layers of kind {sorted(kinds)}, whose cache "
            "this sampler does not keep. Set sampler='vllm'."
        )
