"""How SDAR's published comparison ran SDAR, GRPO+OPSD and OPSD, and what its program logs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepopsd_rllib.objectives.sdar import GateName


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationSetting:
    """How policy loss and distillation loss are put together.

    Attributes:
        policy_coefficient: Factor of the clipped surrogate; 0 trains on distillation (and the KL
            loss) alone.
        distillation_coefficient: Factor c of the aggregated distillation loss (paper: λ).
        gate: Which gate multiplies the token loss; "none" is the constant 1.
        gate_beta: Sharpness β of the gate, per nat; 0 makes every gate the constant 1/2.
    """

    policy_coefficient: float = 1.0
    distillation_coefficient: float = 0.01
    gate: GateName = "gap"
    gate_beta: float = 5.0


SDAR = DistillationSetting()
"""The paper's setting (the authors' code defaults to a coefficient of 0.1, their scripts set
0.01)."""


GRPO_OPSD_AS_CODED = DistillationSetting(gate_beta=0.0)
"""GRPO+OPSD as it was run in the published comparison: β = 0 leaves a constant gate of 1/2, so half
the weight of what the papers describe (`objectives.opsd`)."""


OPSD = DistillationSetting(policy_coefficient=0.0, gate="none", gate_beta=0.0)
"""Distillation without outcome reward (arXiv:2601.18734), on the sampled token instead of the full
vocabulary."""


OPSD_AS_CODED = DistillationSetting(policy_coefficient=0.0)
"""OPSD as it was run in the published comparison: on the sampled token, with SDAR's gate on."""


def gate_diagnostics(
    policy_log_probs_BT: Tensor,
    teacher_log_probs_BT: Tensor,
    gate_BT: Tensor,
    response_mask_BT: Tensor,
) -> dict[str, Tensor]:
    """What the gate lets through, as sums over tokens so that micro-batches add up exactly.

    Args:
        policy_log_probs_BT: Float [B, T].
        teacher_log_probs_BT: Float [B, T].
        gate_BT: Float [B, T].
        response_mask_BT: Bool [B, T].

    Returns:
        Detached scalars `gate_sum`, `gate_active_sum` (tokens with g > 1/2), `gap_sum` (nats),
        `gap_square_sum` and `token_count`; divide by the last after adding up.
    """
    mask_BT = response_mask_BT.bool()
    gap_BT = (teacher_log_probs_BT - policy_log_probs_BT).detach()
    gap_BT = torch.where(mask_BT, gap_BT, torch.zeros_like(gap_BT))
    gate_BT = torch.where(mask_BT, gate_BT.detach(), torch.zeros_like(gap_BT))
    return {
        "gate_sum": gate_BT.sum(),
        "gate_active_sum": (gate_BT > 0.5).sum(),
        "gap_sum": gap_BT.sum(),
        "gap_square_sum": gap_BT.square().sum(),
        "token_count": mask_BT.sum(),
    }
