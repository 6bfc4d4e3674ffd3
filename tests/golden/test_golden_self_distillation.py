"""SDAR, Skill-SD, RLSD and UCOB against the outputs of the published programs."""

from __future__ import annotations

import torch

from stepopsd_rllib.objectives import Aggregation, aggregate
from stepopsd_rllib.objectives.rlsd import rlsd_advantages
from stepopsd_rllib.objectives.sdar import gap_gate, gated_token_loss
from stepopsd_rllib.objectives.skill_sd import skill_sd_token_loss
from stepopsd_rllib.objectives.ucob import top_k_log_probs, ucob_token_loss
from stepopsd_rllib.reference.sdar_settings import gate_diagnostics
from tests.helpers.golden_vectors import GoldenCase, golden, tensor


@golden("sdar_gate_loss")
def test_sdar(case: GoldenCase) -> None:
    policy_BT = tensor(case.inputs["student_logprob"]).requires_grad_()
    teacher_BT = tensor(case.inputs["teacher_logprob"])
    mask_BT = tensor(case.inputs["mask"])
    mode: Aggregation = case.inputs["aggregation"]
    gate_BT = gap_gate(policy_BT, teacher_BT, beta=case.inputs["gate_beta"])
    loss_BT = gated_token_loss(policy_BT, teacher_BT, gate_BT, mask_BT)
    loss = aggregate(loss_BT, mask_BT, mode)
    loss.backward()
    sums = gate_diagnostics(policy_BT, teacher_BT, gate_BT, mask_BT)
    count = max(float(sums["token_count"]), 1.0)
    case.check(loss, case.outputs["loss"], "loss")
    case.check(gate_BT, case.outputs["gate"], "gate")
    case.check(policy_BT.grad, case.outputs["grad_student_logprob"], "gradient")
    case.check(sums["gate_sum"] / count, case.outputs["gate_mean"], "gate_mean")
    case.check(sums["gate_active_sum"] / count, case.outputs["gate_active_ratio"], "active")
    case.check(sums["gap_sum"] / count, case.outputs["teacher_gap_mean"], "gap")


@golden("skillsd_loss")
def test_skill_sd(case: GoldenCase) -> None:
    policy_BT = tensor(case.inputs["student_logprob"]).requires_grad_()
    mask_BT = tensor(case.inputs["mask"])
    loss_BT = skill_sd_token_loss(
        policy_BT,
        tensor(case.inputs["old_logprob"]),
        tensor(case.inputs["teacher_logprob"]),
        mask_BT,
    )
    loss = aggregate(loss_BT, mask_BT, case.inputs["aggregation"])
    loss.backward()
    case.check(loss, case.outputs["loss"], "loss")
    case.check(policy_BT.grad, case.outputs["grad_student_logprob"], "gradient")


@golden("rlsd_weights")
def test_rlsd(case: GoldenCase) -> None:
    gap_BT = tensor(case.inputs["teacher_logprob"]) - tensor(case.inputs["student_logprob"])
    shaped_BT = rlsd_advantages(
        tensor(case.inputs["advantages"]),
        gap_BT,
        tensor(case.inputs["mask"]),
        mixing=case.inputs["lambda"],
        clip_range=case.inputs["clip_eps"],
    )
    case.check(shaped_BT, case.outputs["advantages"], "advantages")


@golden("ucob_topk_kl")
def test_ucob(case: GoldenCase) -> None:
    student_BTK = tensor(case.inputs["student_topk_logits"]).requires_grad_()
    renormalize = case.inputs["renormalise_topk"]
    student_log_probs_BTK = top_k_log_probs(
        student_BTK, tensor(case.inputs["student_logsumexp"]), renormalize=renormalize
    )
    teacher_log_probs_BTK = top_k_log_probs(
        tensor(case.inputs["teacher_topk_logits"]),
        tensor(case.inputs["teacher_logsumexp"]),
        renormalize=renormalize,
    )
    gate_BT = gap_gate(
        tensor(case.inputs["student_logprob"]),
        tensor(case.inputs["teacher_logprob"]),
        beta=case.inputs["gate_beta"],
    )
    mask_BT = tensor(case.inputs["mask"])
    loss_BT = ucob_token_loss(
        student_log_probs_BTK,
        teacher_log_probs_BTK,
        tensor(case.inputs["row_weight"]),
        gate_BT if case.inputs["gate"] else None,
        mask_BT,
    )
    loss = aggregate(loss_BT, mask_BT, "token-mean")
    (gradient_BTK,) = torch.autograd.grad(loss, student_BTK)
    case.check(loss, case.outputs["loss"], "loss")
    case.check(gradient_BTK, case.outputs["grad_student_topk_logits"], "gradient")
