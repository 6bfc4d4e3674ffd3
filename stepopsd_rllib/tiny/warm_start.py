"""Behaviour cloning: a causal LM learns the responses in rows of recorded chats.

    L = − Σ log π(yₜ | y_<t) / |responses|  −  w · Σ log π(xₜ | x_<t) / |others|

The second sum runs over what the environment wrote. It is no policy's business, but a model that
starts from nothing learns to copy names out of its context sooner when it also predicts them.

Matrices are trained by Muon (Jordan et al. 2024), its steps scaled to the size of AdamW's
(arXiv:2502.16982); embedding, head and norms by AdamW.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from stepopsd_rllib.prompts.chat import ChatFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRow:
    """One recorded chat as the sampler would have seen it.

    Attributes:
        token_ids: int32 [T], prompts and responses in turn.
        response_mask: bool [T], True where the policy is to write the token.
    """

    token_ids: np.ndarray
    response_mask: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class CloningSettings:
    """How long and how fast a model clones; every field moves the result.

    Attributes:
        epochs: Passes over all rows.
        tokens_per_batch: Upper limit of a batch's tokens, padding included.
        learning_rate: Peak step size: linear warm-up, then a cosine down to zero.
        warmup_updates: Updates until the peak.
        weight_decay: Weight decay of the matrices that Muon trains.
        momentum: Muon's.
        betas: AdamW's decay rates of the first and second moment.
        observation_weight: `w` above.
        gradient_clip: Largest gradient norm.
    """

    epochs: int = 1
    tokens_per_batch: int = 2048
    learning_rate: float = 3.0e-3
    warmup_updates: int = 50
    weight_decay: float = 0.01
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.98)
    observation_weight: float = 0.1
    gradient_clip: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CloningReport:
    """What cloning did: sizes, wall seconds, and the loss per response token (nats) at the end."""

    rows: int
    tokens: int
    response_tokens: int
    updates: int
    seconds: float
    final_loss: float


MakeOptimizers = Callable[[PreTrainedModel, CloningSettings], list[torch.optim.Optimizer]]


class ChatRowBuilder:
    """Builds a row as a rollout does: first prompt, response, continuation, response, ...

    Example:
        A two-turn episode; 1 marks what the policy is to write:

            <start> user⏎ O₁ <end> <start> assistant⏎ A₁ <end>   first prompt, first response
               0      0   0    0      0        0      1    1
            <start> user⏎ O₂ <end> <start> assistant⏎ A₂ <end>   continuation, second response
               0      0   0    0      0        0      1    1
    """

    def __init__(
        self,
        chat: ChatFormat,
        first_message: str,
        system_prompt: str | None = None,
        *,
        privileged: str = "",
    ):
        """Begins a row with the prompt of turn 0, and in front of it what a teacher is told."""
        self._chat = chat
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        prompt_ids = [
            *chat.tokenizer(privileged, add_special_tokens=False)["input_ids"],
            *chat.first_prompt([*system, {"role": "user", "content": first_message}]),
        ]
        self._token_ids: list[int] = list(prompt_ids)
        self._mask: list[bool] = [False] * len(prompt_ids)

    def add_response(self, response: str, *, is_learned: bool = True) -> None:
        """Appends a response and the token that ends it, in the loss or out of it."""
        ids = self._chat.tokenizer(response, add_special_tokens=False)["input_ids"]
        self._append([*ids, self._chat.end_of_turn_ids[0]], is_learned)

    def add_told(self, text: str) -> None:
        """Appends what a teacher is told right before a response."""
        self._append(self._chat.tokenizer(text, add_special_tokens=False)["input_ids"], False)

    def add_message(self, message: str) -> None:
        """Appends what the environment answers."""
        self._append(self._chat.continuation(message, response_ended=True), False)

    def row(self) -> ChatRow:
        """The row up to here."""
        return ChatRow(
            token_ids=np.array(self._token_ids, dtype=np.int32),
            response_mask=np.array(self._mask, dtype=bool),
        )

    def _append(self, ids: Sequence[int], is_response: bool) -> None:
        self._token_ids.extend(ids)
        self._mask.extend([is_response] * len(ids))


def clone(
    model: PreTrainedModel,
    rows: Sequence[ChatRow],
    settings: CloningSettings,
    *,
    seed: int,
    report_progress: Callable[[int, int, float], None] | None = None,
    make_optimizers: MakeOptimizers | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> CloningReport:
    """Trains `model` in place to write the responses in `rows`.

    Args:
        model: A causal LM; weights without gradients stay as they are.
        rows: At least one row.
        settings: How long and how fast.
        seed: Order of the batches.
        report_progress: Called after each update with (updates done, updates in all, loss).
        make_optimizers: Optimizers of a model; by default Muon and AdamW, as said above.
        autocast_dtype: Arithmetic of the forward passes; that of the weights by default.
    """
    started = time.perf_counter()
    batches = list(clone_batches(rows, settings, np.random.default_rng(seed)))
    optimizers = (make_optimizers or _optimizers)(model, settings)
    model.train()
    losses: list[float] = []
    for index, batch in enumerate(batches):
        # Autocast keeps rounded weights until its context ends: one context for all updates would
        # go on with those of the first.
        with torch.autocast(model.device.type, autocast_dtype, autocast_dtype is not None):
            total, response_loss = loss(model, batch, settings.observation_weight)
        model.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(index, len(batches), settings)
            optimizer.step()
        losses.append(response_loss)
        if report_progress is not None:
            report_progress(index + 1, len(batches), losses[-1])
    model.eval()
    tail = losses[-max(1, len(losses) // 20) :]
    return CloningReport(
        rows=len(rows),
        tokens=settings.epochs * sum(len(row.token_ids) for row in rows),
        response_tokens=settings.epochs * sum(int(row.response_mask.sum()) for row in rows),
        updates=len(batches),
        seconds=time.perf_counter() - started,
        final_loss=float(np.mean(tail)),
    )


def loss(
    model: PreTrainedModel, rows: Sequence[ChatRow], observation_weight: float
) -> tuple[Tensor, float]:
    """The loss of the module's docstring over one batch, and its first sum alone as a number."""
    token_ids_BT, response_BT, real_BT = _padded(rows)
    # Rows are padded on the right and attention is causal: no real token sees padding.
    device = model.device
    token_ids_BT, response_BT, real_BT = (
        tensor.to(device) for tensor in (token_ids_BT, response_BT, real_BT)
    )
    hidden_BTH = model.base_model(input_ids=token_ids_BT, use_cache=False).last_hidden_state
    response_loss = _mean_loss(model, hidden_BTH, token_ids_BT, response_BT)
    if observation_weight == 0:
        return response_loss, response_loss.item()
    observation_loss = _mean_loss(model, hidden_BTH, token_ids_BT, real_BT & ~response_BT)
    return response_loss + observation_weight * observation_loss, response_loss.item()


def _mean_loss(
    model: PreTrainedModel, hidden_BTH: Tensor, token_ids_BT: Tensor, wanted_BT: Tensor
) -> Tensor:
    """Mean negative log-probability of the wanted tokens; logits exist at their positions only."""
    wanted = wanted_BT[:, 1:]
    head: Any = model.get_output_embeddings()
    logits = head(hidden_BTH[:, :-1][wanted])
    return functional.cross_entropy(logits, token_ids_BT[:, 1:][wanted])


@torch.no_grad()
def mean_response_loss(model: PreTrainedModel, rows: Sequence[ChatRow]) -> float:
    """Mean negative log-probability of the response tokens of all rows, nats."""
    was_training = model.training
    model.eval()
    sums = [(loss(model, [row], 0.0)[1], int(row.response_mask[1:].sum())) for row in rows]
    model.train(was_training)
    return sum(value * count for value, count in sums) / sum(count for _, count in sums)


def adamw_alone(model: PreTrainedModel, settings: CloningSettings) -> list[torch.optim.Optimizer]:
    """AdamW for everything that has a gradient: what suits a pretrained model, or adapters."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return [
        torch.optim.AdamW(
            trained,
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
    ]


def _padded(rows: Sequence[ChatRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, response mask and mask of real tokens, each [B, T]."""
    longest = max(len(row.token_ids) for row in rows)
    token_ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    response_BT = torch.zeros(len(rows), longest, dtype=torch.bool)
    real_BT = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        length = len(row.token_ids)
        token_ids_BT[index, :length] = torch.from_numpy(row.token_ids)
        response_BT[index, :length] = torch.from_numpy(row.response_mask)
        real_BT[index, :length] = True
    return token_ids_BT, response_BT, real_BT


def clone_batches(
    rows: Sequence[ChatRow], settings: CloningSettings, rng: np.random.Generator
) -> Iterator[list[ChatRow]]:
    """Batches of all epochs: rows of like length together, batches in random order."""
    for _ in range(settings.epochs):
        # The shuffle decides between rows of one length, so epochs batch differently.
        order = rng.permutation(len(rows))
        order = order[np.argsort([len(rows[i].token_ids) for i in order], kind="stable")]
        epoch: list[list[ChatRow]] = [[]]
        for row in (rows[i] for i in order):
            if epoch[-1] and (len(epoch[-1]) + 1) * len(row.token_ids) > settings.tokens_per_batch:
                epoch.append([])
            epoch[-1].append(row)
        yield from (epoch[i] for i in rng.permutation(len(epoch)))


def _optimizers(model: PreTrainedModel, settings: CloningSettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between embedding and head, AdamW for everything else."""
    embedding = model.get_parameter("model.embed_tokens.weight")
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim == 2 and p is not embedding]
    others = [p for p in parameters if p.ndim != 2 or p is embedding]
    muon = torch.optim.Muon(
        matrices,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        others, lr=settings.learning_rate, betas=settings.betas, weight_decay=0.0
    )
    return [muon, adamw]


def _schedule(update: int, updates: int, settings: CloningSettings) -> float:
    """Share of the peak learning rate at an update."""
    if update < settings.warmup_updates:
        return (update + 1) / settings.warmup_updates
    progress = (update - settings.warmup_updates) / max(1, updates - settings.warmup_updates)
    return 0.5 * (1 + math.cos(math.pi * progress))
