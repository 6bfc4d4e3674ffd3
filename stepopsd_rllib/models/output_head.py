"""The output head: logits in chunks that bound their memory, and what is read off them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Bytes of float32 logits held at once; 256 MiB are 440 positions of a vocabulary of 152,000.
LOGIT_CHUNK_BYTES = 1 << 28

HeadArithmetic = Literal["exact", "rounded", "bfloat16"]
"""How logits come about: of the numbers as they are; of the bfloat16 roundings of hidden states and
weights, multiplied and summed in float32, as engines compute them with a float32 head; or in
bfloat16."""


def head_log_probs(
    head: Any,
    hidden_NH: Tensor,
    targets_N: Tensor,
    *,
    temperature: float,
    entropy: str,
    candidates_NK: Tensor | None = None,
    arithmetic: HeadArithmetic = "exact",
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log p(target) and entropy at each position, in chunks that bound the memory of the logits.

    Args:
        head: Output embedding, [H] -> [V].
        hidden_NH: Hidden states that predict the targets, [N, H].
        targets_N: int64 [N].
        temperature: Divides the logits.
        entropy: "none" (zeros), "value" (detached) or "gradient".
        candidates_NK: Other tokens to score at each position, int64 [N, K].
        arithmetic: How logits come about.

    Returns:
        Log-probs float32 [N] and entropies float32 [N], nats; and the log-probs of the candidates,
        float32 [N, K], None without any.
    """
    chunk = _chunk_size(head)
    weight, hidden_NH, rounded = _operands(head.weight, hidden_NH, arithmetic)
    if len(targets_N) <= chunk:
        return _chunk_log_probs(
            weight,
            getattr(head, "bias", None),
            hidden_NH,
            targets_N,
            candidates_NK,
            temperature,
            entropy,
            rounded,
        )
    parts = [
        checkpoint(
            _chunk_log_probs,
            weight,
            getattr(head, "bias", None),
            hidden_NH[i : i + chunk],
            targets_N[i : i + chunk],
            None if candidates_NK is None else candidates_NK[i : i + chunk],
            temperature,
            entropy,
            rounded,
            use_reentrant=False,
        )
        for i in range(0, len(targets_N), chunk)
    ]
    log_probs, entropies, candidates = zip(*parts, strict=True)
    return (
        torch.cat(log_probs),
        torch.cat(entropies),
        None if candidates_NK is None else torch.cat(candidates),
    )


def head_top_tokens(
    head: Any,
    hidden_NH: Tensor,
    *,
    temperature: float,
    count: int,
    arithmetic: HeadArithmetic = "exact",
) -> tuple[Tensor, Tensor]:
    """The most likely tokens at each position.

    Args:
        head: Output embedding, [H] -> [V].
        hidden_NH: Hidden states that predict the next token, [N, H].
        temperature: Divides the logits.
        count: K, at most V.
        arithmetic: How logits come about.

    Returns:
        Their log-probs under the whole distribution, float32 [N, K], nats, and their ids, int64
        [N, K], most likely first.
    """
    bias = getattr(head, "bias", None)
    weight, hidden_NH, rounded = _operands(head.weight, hidden_NH, arithmetic)
    parts = []
    for chunk_NH in hidden_NH.split(_chunk_size(head)):
        logits_NV = _chunk_logits(weight, bias, chunk_NH, temperature, rounded)
        top = logits_NV.topk(count, dim=-1)
        parts.append((top.values - logits_NV.logsumexp(dim=-1, keepdim=True), top.indices))
    log_probs, ids = zip(*parts, strict=True)
    return torch.cat(log_probs), torch.cat(ids)


def _chunk_size(head: Any) -> int:
    """Positions whose logits are held at once."""
    return max(1, LOGIT_CHUNK_BYTES // (4 * head.weight.shape[0]))


def _operands(
    weight: Tensor, hidden_NH: Tensor, arithmetic: HeadArithmetic
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights and hidden states in the numbers in which they are multiplied.

    The third is the rounded weights where the device multiplies bfloat16 into float32.
    """
    if arithmetic == "exact":
        return weight, hidden_NH, None
    rounded, hidden_NH = weight.to(torch.bfloat16), hidden_NH.to(torch.bfloat16)
    if arithmetic == "bfloat16":
        return rounded, hidden_NH, None
    if weight.is_cuda:
        return weight, hidden_NH, rounded.detach()
    return rounded.float(), hidden_NH.float(), None


class _RoundedLinear(torch.autograd.Function):
    """Float32 logits of bfloat16 numbers, on a GPU's bfloat16 units.

    logits = round(hidden) · round(weight)ᵀ, summed in float32. Their gradient is rounded to
    bfloat16, as that of every other matrix is under autocast; the weight's is summed in float32.
    """

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight: Tensor, rounded: Tensor) -> Tensor:
        """[N, V] of hidden states [N, H], bfloat16, and weights [V, H]."""
        ctx.save_for_backward(hidden_NH, rounded)
        ctx.weight_has_gradient = weight.requires_grad
        return torch.mm(hidden_NH, rounded.t(), out_dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Gradients of hidden states and weights."""
        hidden_NH, rounded = ctx.saved_tensors
        gradient_NV = gradients[0].to(torch.bfloat16)
        of_weight = None
        if ctx.weight_has_gradient:
            of_weight = torch.mm(gradient_NV.t(), hidden_NH, out_dtype=torch.float32)
        return gradient_NV @ rounded, of_weight, None


def _chunk_logits(
    weight: Tensor,
    bias: Tensor | None,
    hidden_NH: Tensor,
    temperature: float,
    rounded: Tensor | None,
) -> Tensor:
    if rounded is not None:
        product: Any = _RoundedLinear.apply(hidden_NH, weight, rounded)
        logits_NV: Tensor = product if bias is None else product + bias
    else:
        logits_NV = nn.functional.linear(hidden_NH, weight.to(hidden_NH.dtype), bias).float()
    return logits_NV if temperature == 1.0 else logits_NV / temperature


def _chunk_log_probs(
    weight: Tensor,
    bias: Tensor | None,
    hidden_NH: Tensor,
    targets_N: Tensor,
    candidates_NK: Tensor | None,
    temperature: float,
    entropy: str,
    rounded: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    logits_NV = _chunk_logits(weight, bias, hidden_NH, temperature, rounded)
    log_z_N = logits_NV.logsumexp(dim=-1)
    log_probs_N = logits_NV.gather(-1, targets_N[:, None])[:, 0] - log_z_N
    candidate_log_probs_NK = (
        None if candidates_NK is None else logits_NV.gather(-1, candidates_NK) - log_z_N[:, None]
    )
    if entropy == "none":
        return log_probs_N, torch.zeros_like(log_probs_N), candidate_log_probs_NK
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        source_NV, source_log_z_N = (
            (logits_NV, log_z_N)
            if entropy == "gradient"
            else (logits_NV.detach(), log_z_N.detach())
        )
        p_NV = (source_NV - source_log_z_N[:, None]).exp()
        entropy_N = source_log_z_N - (p_NV * source_NV).sum(-1)
    return log_probs_N, entropy_N, candidate_log_probs_NK
