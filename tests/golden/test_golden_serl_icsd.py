"""SERL against the outputs of its program, ICSD against a slow loop over its equations."""

from __future__ import annotations

import torch

from stepopsd_rllib.episodes.action_spans import action_spans
from stepopsd_rllib.objectives.icsd import influence_gate
from stepopsd_rllib.objectives.schedules import linear_decay
from stepopsd_rllib.objectives.sdar import gated_token_loss
from stepopsd_rllib.objectives.serl import serl_advantages, serl_diagnostics
from tests.helpers.golden_vectors import GoldenCase, golden, tensor


@golden("serl_weights")
def test_serl(case: GoldenCase) -> None:
    inputs = case.inputs
    mask_BT, has_context_B = tensor(inputs["response_mask"]), tensor(inputs["row_has_context"])
    gap_BT = tensor(inputs["teacher_logprob"]) - tensor(inputs["student_logprob"])
    mixing = linear_decay(
        inputs["mixing_lambda"],
        step=inputs["update_step"],
        decay_steps=inputs["lambda_decay_steps"],
    )
    clip_range = inputs["weight_clip"]
    shaped = serl_advantages(
        tensor(inputs["advantages"]),
        gap_BT,
        mask_BT,
        tensor(inputs["action_mask"]),
        has_context_B,
        mixing=mixing,
        clip_range=clip_range,
    )
    case.check(mixing, case.outputs["effective_lambda"], "effective_lambda")
    case.check(shaped.advantages_BT, case.outputs["advantages"], "advantages")
    found = serl_diagnostics(shaped, gap_BT, mask_BT, has_context_B, clip_range=clip_range)
    for name, value in found.items():
        case.check(value, case.outputs[name], name)


@golden("serl_action_spans")
def test_serl_action_spans(case: GoldenCase) -> None:
    spans = [
        list(span) for span in action_spans(case.inputs["response"], calls=("search", "click"))
    ]
    assert spans == case.outputs["spans"]


@golden("icsd_gate")
def test_icsd(case: GoldenCase) -> None:
    inputs = case.inputs
    policy_BT = tensor(inputs["student_logprob"], torch.float64).requires_grad_()
    teacher_BT = tensor(inputs["teacher_logprob"], torch.float64)
    turn_BT = tensor(inputs["turn"], torch.int64)
    gate = influence_gate(
        tensor(inputs["advantages"], torch.float64),
        policy_BT,
        tensor(inputs["old_logprob"], torch.float64),
        teacher_BT,
        turn_BT,
        beta=inputs["gate_beta"],
        split=inputs["eta"],
    )
    mask_BT = (turn_BT >= 0).double()
    loss_BT = gated_token_loss(policy_BT, teacher_BT, gate.coefficient_BT, mask_BT)
    loss = loss_BT.sum() / (mask_BT.sum() + 1e-8)
    loss.backward()
    case.check(gate.influence_BT, case.outputs["influence"], "influence")
    case.check(gate.modulation_BT, case.outputs["modulation"], "modulation")
    case.check(gate.coefficient_BT, case.outputs["coefficient"], "coefficient")
    case.check(loss, case.outputs["loss"], "loss")
    case.check(policy_BT.grad, case.outputs["grad_student_logprob"], "gradient")
