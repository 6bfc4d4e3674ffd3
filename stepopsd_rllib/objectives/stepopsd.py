"""StepOPSD: re-weights the GRPO advantage of every agent step by a hindsight teacher's opinion.

A teacher that knows how things ended scores the tokens of each step again. Tokens whose log-prob
moves in the direction of the outcome get up to 1 + α times the advantage, the others down to 1 − α;
a mixture λ and a budget per step bound the effect, and no sign ever flips:

    Δ = teacher − student                     log-prob gap of the sampled token
    w = clip(2σ(sign(A)·Δ), 1 − α, 1 + α)     the weight; exp instead of 2σ in an earlier draft
    Ã = (1 − λ)·A + λ·w·A                     λ decays, see `schedules.linear_decay`

Departures from the authors' code: the mixture is computed as A·(1 + λ(w − 1)), so that λ = 0, α = 0
and Δ = 0 give A bit for bit; the per-step budget leaves an episode alone whose advantages were not
shaped, where theirs shrinks them by eps/(|A| + eps); it is collected over all rows of an episode,
whatever the row layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stepopsd_rllib.objectives.reduction import same_shape
from stepopsd_rllib.objectives.steps import StepTokens, sum_by

WeightFunction = Literal["sigmoid", "exp"]
StepNormalization = Literal["none", "equal_step_mean_abs"]


def log_prob_gap(
    teacher_log_probs_BT: Tensor, student_log_probs_BT: Tensor, is_scored_BT: Tensor
) -> Tensor:
    """Δ = teacher − student on the scored tokens, detached.

    Args:
        teacher_log_probs_BT: Log-probs of the sampled tokens after the hindsight text, float [B,
            T].
        student_log_probs_BT: The same without it, float [B, T].
        is_scored_BT: True on the tokens that the teacher scored, [B, T].

    Returns:
        Float [B, T] in nats, 0 where not scored.
    """
    same_shape(
        teacher=teacher_log_probs_BT, student=student_log_probs_BT, is_scored_BT=is_scored_BT
    )
    gap_BT = teacher_log_probs_BT.detach() - student_log_probs_BT.detach()
    return gap_BT.masked_fill(is_scored_BT == 0, 0.0)


def hindsight_weights(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    mask_BT: Tensor,
    *,
    alpha_clip: float,
    weight_fn: WeightFunction = "sigmoid",
) -> Tensor:
    """Weight of every token: w = clip(f(sign(A)·Δ), 1 − α, 1 + α) with f(x) = 2σ(x) or exp(x).

    The sign is taken per token. A token that was not scored (Δ = 0), or has no advantage, has
    weight 1.

    Args:
        advantages_BT: A, float [B, T].
        gap_BT: Δ in nats, float [B, T], 0 where not scored.
        mask_BT: 0/1 of any dtype, [B, T].
        alpha_clip: α in [0, 1).
        weight_fn: "sigmoid" (the paper) or "exp" (an earlier draft).

    Returns:
        Float [B, T] within [1 − α, 1 + α]; 0 outside the mask.

    Raises:
        ValueError: An unknown weight function.
    """
    same_shape(advantages_BT=advantages_BT, gap_BT=gap_BT, mask_BT=mask_BT)
    # Without an advantage nothing agrees with it, whatever the gap: 0 · inf would be NaN.
    agreement_BT = (advantages_BT.sign() * gap_BT).masked_fill(advantages_BT == 0, 0.0)
    if weight_fn == "sigmoid":
        weights_BT = 2.0 * agreement_BT.sigmoid()
    elif weight_fn == "exp":
        weights_BT = agreement_BT.exp()
    else:
        raise ValueError(f"weight_fn={weight_fn!r} is not known. Use 'sigmoid' or 'exp'.")
    return weights_BT.clamp(1.0 - alpha_clip, 1.0 + alpha_clip).masked_fill(mask_BT == 0, 0.0)


def mix_advantages(
    advantages_BT: Tensor, weights_BT: Tensor, mask_BT: Tensor, *, lambda_mix: float
) -> Tensor:
    """Ã = ((1 − λ)·A + λ·w·A)·m; a weight of 1 or λ = 0 returns A·m bit for bit.

    Args:
        advantages_BT: A, float [B, T].
        weights_BT: w, float [B, T].
        mask_BT: 0/1 of any dtype, [B, T].
        lambda_mix: λ in [0, 1].

    Returns:
        Float [B, T], 0 outside the mask, of the sign of A.
    """
    same_shape(advantages_BT=advantages_BT, weights_BT=weights_BT, mask_BT=mask_BT)
    mixed_BT = advantages_BT * (1.0 + lambda_mix * (weights_BT - 1.0))
    return mixed_BT.masked_fill(mask_BT == 0, 0.0)


def equalize_steps(
    shaped_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    steps: StepTokens,
    *,
    eps: float = 1e-6,
    coefficient_clip: float = 2.0,
) -> Tensor:
    """Gives the steps of an episode the same mean |Ã| (`equal_step_mean_abs`).

        μⱼ = mean of |Ã| over the unmasked tokens of step j        τ = mean of μⱼ over the episode
        cⱼ = clip(τ / (μⱼ + eps), 1/C, C)                          C = max(coefficient_clip, 1)

    Every token of step j is multiplied by cⱼ; a token of two steps by both. It is the mean that
    becomes equal, not the sum: a long step still weighs more. Episodes with fewer than two steps
    that have unmasked tokens are left alone, and so are those whose advantages were not shaped.

    Args:
        shaped_BT: Ã, float [B, T], 0 outside the mask.
        advantages_BT: A before shaping, float [B, T].
        mask_BT: 0/1 of any dtype, [B, T].
        steps: The steps, over all rows of an episode.
        eps: Added to μⱼ; unit of the advantage.
        coefficient_clip: C; 1 or less turns the budget off.

    Returns:
        Float [B, T], of the sign of Ã.
    """
    same_shape(shaped_BT=shaped_BT, advantages_BT=advantages_BT, mask_BT=mask_BT)
    is_token = mask_BT.flatten() != 0
    shaped = shaped_BT.flatten()
    is_counted_P = is_token[steps.position_P].double()
    num_steps = len(steps.episode_S)
    size_S = sum_by(is_counted_P, steps.step_P, num_steps)
    total_S = sum_by(
        shaped.double().abs()[steps.position_P] * is_counted_P, steps.step_P, num_steps
    )
    mean_S = total_S / size_S.clamp(min=1.0)

    is_step_S = (size_S > 0).double()
    num_episodes = int(steps.episode_S.max()) + 1 if num_steps else 0
    num_steps_N = sum_by(is_step_S, steps.episode_S, num_episodes)
    target_N = sum_by(mean_S * is_step_S, steps.episode_S, num_episodes) / num_steps_N.clamp(
        min=1.0
    )
    is_shaped_P = (shaped != advantages_BT.flatten())[steps.position_P].double() * is_counted_P
    is_shaped_N = sum_by(is_shaped_P, steps.episode_S[steps.step_P], num_episodes) > 0
    is_balanced_N = is_shaped_N & (num_steps_N >= 2)

    bound = max(coefficient_clip, 1.0)
    coefficient_S = (target_N[steps.episode_S] / (mean_S + eps)).clamp(1.0 / bound, bound)
    coefficient_S = torch.where(is_balanced_N[steps.episode_S] & (size_S > 0), coefficient_S, 1.0)
    factor = torch.ones_like(shaped).scatter_reduce(
        0, steps.position_P, coefficient_S.to(shaped.dtype)[steps.step_P], "prod"
    )
    return (shaped * factor).masked_fill(~is_token, 0.0).view_as(shaped_BT)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapedAdvantages:
    """What StepOPSD made of the advantages. All float [B, T], 0 outside the mask.

    Attributes:
        advantages: Ã after the per-step budget: what multiplies the gradient.
        before_step_normalization: Ã before it.
        weights: w.
    """

    advantages: Tensor
    before_step_normalization: Tensor
    weights: Tensor


def stepopsd_advantages(
    advantages_BT: Tensor,
    gap_BT: Tensor,
    mask_BT: Tensor,
    steps: StepTokens,
    *,
    alpha_clip: float,
    lambda_mix: float,
    weight_fn: WeightFunction = "sigmoid",
    step_normalization: StepNormalization = "equal_step_mean_abs",
    eps: float = 1e-6,
    coefficient_clip: float = 2.0,
) -> ShapedAdvantages:
    """The whole shaping: weights, mixture, per-step budget.

    Args:
        advantages_BT: A, float [B, T].
        gap_BT: Δ in nats, float [B, T], 0 where not scored.
        mask_BT: Response mask, 0/1 of any dtype, [B, T].
        steps: The steps of every episode.
        alpha_clip: α in [0, 1).
        lambda_mix: λ of this update, in [0, 1].
        weight_fn: "sigmoid" or "exp".
        step_normalization: "equal_step_mean_abs" (the paper) or "none" (what the released code
            does).
        eps: Summand of the divisor, as in `equalize_steps`.
        coefficient_clip: Largest coefficient, as in `equalize_steps`.

    Returns:
        The advantages and what led to them. λ = 0, α = 0 or Δ = 0 return A·m bit for bit.

    Raises:
        ValueError: An unknown weight function or normalisation.
    """
    if step_normalization not in ("none", "equal_step_mean_abs"):
        raise ValueError(
            f"step_normalization={step_normalization!r} is not known. "
            "Use 'equal_step_mean_abs' or 'none'."
        )
    weights_BT = hindsight_weights(
        advantages_BT, gap_BT, mask_BT, alpha_clip=alpha_clip, weight_fn=weight_fn
    )
    mixed_BT = mix_advantages(advantages_BT, weights_BT, mask_BT, lambda_mix=lambda_mix)
    shaped_BT = mixed_BT
    if step_normalization == "equal_step_mean_abs":
        shaped_BT = equalize_steps(
            mixed_BT, advantages_BT, mask_BT, steps, eps=eps, coefficient_clip=coefficient_clip
        )
    return ShapedAdvantages(
        advantages=shaped_BT, before_step_normalization=mixed_BT, weights=weights_BT
    )
