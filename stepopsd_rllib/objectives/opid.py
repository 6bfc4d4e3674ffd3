"""OPID: log-prob shifts under hindsight skills, added to the outcome advantage.

    S_X = sg(lp_X − lp_old) · r_X                     X ∈ {episode skill E, step skill Z}
    A   = A_outcome + w_E · S_E + w_Z · S_Z

At θ = θ_old the skill term is an unbiased estimate of the gradient of KL(policy‖skill-conditioned
policy). Scripts of the authors set w_E = w_Z = 0.001; their code defaults to 1 and 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stepopsd_rllib.objectives.shaping import Shaping

Routing = Literal["step_priority", "additive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SkillRoute:
    """Which skill prompts a turn is scored under; both in separate prompts where both are true."""

    episode_skill: bool
    step_skill: bool


def route_skills(
    step_skill: str, *, episode_weight: float, step_weight: float, routing: Routing
) -> SkillRoute:
    """Decides which skills score a turn of an analysed episode.

    Args:
        step_skill: Text of the turn's step skill; blank if the analyzer did not call the turn
            critical.
        episode_weight: w_E; a skill of weight 0 is not scored.
        step_weight: w_Z.
        routing: "step_priority" scores the step skill where there is one and the episode skill
            elsewhere; "additive" scores the episode skill everywhere and the step skill where there
            is one.

    Returns:
        The route.
    """
    has_step_skill = bool(step_skill.strip()) and step_weight > 0
    keeps_episode_skill = routing == "additive" or not has_step_skill
    return SkillRoute(
        episode_skill=episode_weight > 0 and keeps_episode_skill, step_skill=has_step_skill
    )


def skill_shift(
    skill_log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    scored_BT: Tensor,
    *,
    normalize: bool = False,
    clip: float | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Log-prob shift of the sampled tokens that one kind of skill causes.

        S = sg(lp_X − lp_old) on scored tokens, 0 elsewhere
        normalised: S ← (S − mean) / (std + ε) over the scored tokens; not divided where std ≤ ε
        clipped:    S ← clip(S, −c, c), after normalising

    Args:
        skill_log_probs_BT: Float [B, T], the same tokens under the skill prompt, before the update.
        old_log_probs_BT: Float [B, T], under the plain prompt, before the update (lp_old).
        scored_BT: Bool [B, T], response tokens of turns that were scored under this skill (m ·
            r_X).
        normalize: Whether to standardise over the scored tokens (population standard deviation).
        clip: c, nats (or standard deviations when normalised); None leaves S as it is.
        eps: ε.

    Returns:
        Float [B, T], detached; 0 outside `scored_BT`.
    """
    scored_BT = scored_BT.bool()
    zeros_BT = torch.zeros_like(old_log_probs_BT)
    shift_BT = torch.where(scored_BT, (skill_log_probs_BT - old_log_probs_BT).detach(), zeros_BT)
    if normalize and bool(scored_BT.any()):
        scored = shift_BT[scored_BT].double()
        std = scored.std(correction=0)
        centred = scored - scored.mean()
        shift_BT = shift_BT.masked_scatter(
            scored_BT, (centred / (std + eps) if std > eps else centred).to(shift_BT.dtype)
        )
    if clip is not None:
        shift_BT = shift_BT.clamp(-clip, clip)
    return shift_BT


def opid_advantages(
    outcome_advantages_BT: Tensor,
    episode_shift_BT: Tensor,
    step_shift_BT: Tensor,
    *,
    episode_weight: float,
    step_weight: float,
) -> Tensor:
    """Adds the weighted skill shifts to the outcome advantage.

    Args:
        outcome_advantages_BT: Float [B, T], group-relative outcome advantage after the
            invalid-action penalty.
        episode_shift_BT: Float [B, T], S_E from `skill_shift`.
        step_shift_BT: Float [B, T], S_Z from `skill_shift`.
        episode_weight: w_E ≥ 0.
        step_weight: w_Z ≥ 0.

    Returns:
        Float [B, T]. With both weights 0, or nothing scored, it is the outcome advantage.
    """
    return outcome_advantages_BT + episode_weight * episode_shift_BT + step_weight * step_shift_BT


def opid_diagnostics(
    outcome_advantages_BT: Tensor,
    skill_advantages_BT: Tensor,
    response_mask_BT: Tensor,
    *,
    eps: float = 1e-6,
) -> dict[str, Tensor]:
    """How much of the advantage the skills make up, over response tokens.

    Args:
        outcome_advantages_BT: Float [B, T].
        skill_advantages_BT: Float [B, T], the weighted sum of the shifts.
        response_mask_BT: Bool [B, T].
        eps: Added to the sum of both mean magnitudes.

    Returns:
        Scalars `episode_share` and `skill_share` (mean |·| of the part over the sum of both, in [0,
        1]) and `skill_active_token_ratio` (tokens with a skill advantage other than 0).
    """
    mask_BT = response_mask_BT.bool()
    count = mask_BT.sum().clamp(min=1)
    outcome = (outcome_advantages_BT.abs() * mask_BT).sum() / count
    skill = (skill_advantages_BT.abs() * mask_BT).sum() / count
    return {
        "episode_share": outcome / (outcome + skill + eps),
        "skill_share": skill / (outcome + skill + eps),
        "skill_active_token_ratio": ((skill_advantages_BT != 0) & mask_BT).sum() / count,
    }


def opid_shaping(
    outcome_advantages_BT: Tensor,
    episode_shift_BT: Tensor,
    step_shift_BT: Tensor,
    response_mask_BT: Tensor,
    *,
    episode_weight: float,
    step_weight: float,
) -> Shaping:
    """OPID's advantages, and how much of them the skills make up.

    Args:
        outcome_advantages_BT: Float [B, T], as the shifts in `opid_advantages`.
        episode_shift_BT: S_E.
        step_shift_BT: S_Z.
        response_mask_BT: Bool [B, T].
        episode_weight: w_E.
        step_weight: w_Z.
    """
    weights = {"episode_weight": episode_weight, "step_weight": step_weight}
    zeros_BT = torch.zeros_like(outcome_advantages_BT)
    skill_BT = opid_advantages(zeros_BT, episode_shift_BT, step_shift_BT, **weights)
    metrics = opid_diagnostics(outcome_advantages_BT, skill_BT, response_mask_BT)
    return Shaping(
        advantages=opid_advantages(
            outcome_advantages_BT, episode_shift_BT, step_shift_BT, **weights
        ),
        metrics=metrics
        | {
            "skill_advantage_mean": skill_BT[response_mask_BT].mean(),
            "skill_advantage_magnitude": skill_BT[response_mask_BT].abs().mean(),
        },
    )
