"""StepOPSD against the authors' outputs: shaping, schedule, segmentation, hindsight text."""

import pytest
import torch

from stepopsd_rllib.episodes.segmentation import (
    SPAN_MODES,
    feedback_spans,
    reencoded_token_span,
    search_steps,
    target_spans,
    token_span,
)
from stepopsd_rllib.hindsight.contexts import hindsight_texts, info_mode
from stepopsd_rllib.objectives.schedules import linear_decay, linear_warm_down
from stepopsd_rllib.objectives.stepopsd import stepopsd_advantages
from stepopsd_rllib.objectives.steps import StepTokens
from tests.golden_vectors import case_id, load_cases, tensor


@pytest.mark.parametrize("case", load_cases("stepopsd_shaping"), ids=case_id)
def test_shaping(case):
    mask_BT = tensor(case.inputs["response_mask"])
    steps = StepTokens.from_spans(
        [[(a, b + 1) for a, b in spans or ()] for spans in case.inputs["step_spans"]],
        num_positions=mask_BT.shape[1],
    )
    shaped = stepopsd_advantages(
        tensor(case.inputs["advantages"]),
        tensor(case.inputs["delta"]),
        mask_BT,
        steps,
        weight_fn=case.inputs["weight_fn"],
        lambda_mix=case.inputs["lambda_mix"],
        alpha_clip=case.inputs["alpha_clip"],
        step_normalization=case.inputs["step_norm"],
        eps=case.inputs["step_norm_eps"],
        coefficient_clip=case.inputs["coef_clip"],
    )
    case.check(shaped.weights, case.outputs["token_weights"], "token_weights")
    case.check(
        shaped.before_step_normalization,
        case.outputs["advantages_before_step_norm"],
        "advantages_before_step_norm",
    )
    case.check(shaped.advantages, case.outputs["advantages"], "advantages")


@pytest.mark.parametrize("case", load_cases("lambda_schedule"), ids=case_id)
def test_lambda_schedule(case):
    initial, decay = case.inputs["init"], case.inputs["decay_steps"]
    for step, expected in zip(case.inputs["global_step"], case.outputs["lambda"], strict=True):
        if case.tag == "rlsd":
            actual = linear_warm_down(initial, step=step, window=decay)
        else:
            actual = linear_decay(initial, step=step, decay_steps=decay)
        case.check(actual, expected, f"step {step}")


@pytest.mark.parametrize("case", load_cases("step_extraction"), ids=case_id)
def test_step_extraction(case):
    text = case.inputs["response"]
    steps = search_steps(text)
    actual = [
        {
            "step_start": step.step_start,
            "step_end": step.step_end,
            "clean_end": step.clean_end,
            "action_start": step.action_start,
            "action_end": step.action_end,
            "action_type": step.action_type,
            "is_final_answer": step.is_final_answer,
            "clean_text": text[step.step_start : step.clean_end],
            "action_text": text[step.action_start : step.action_end],
        }
        for step in steps
    ]
    case.check(actual, case.outputs["steps"], "steps")
    case.check(feedback_spans(text), case.outputs["feedback_spans"], "feedback_spans")


@pytest.mark.parametrize("case", load_cases("step_extraction"), ids=case_id)
def test_target_spans_with_one_token_per_character(case):
    text = case.inputs["response"]
    ids = [ord(character) for character in text]
    assert set(case.outputs["target_spans"]) == set(SPAN_MODES)
    for mode, expected in case.outputs["target_spans"].items():
        spans = target_spans(search_steps(text), mode)
        sampled = [token_span(lambda part: "".join(map(chr, part)), ids, span) for span in spans]
        encoded = [
            reencoded_token_span(
                lambda part: part.encode("utf-32-le")[::4], text, span, num_tokens=len(ids)
            )
            for span in spans
        ]
        for what, actual in (("sampled", sampled), ("re-encoded", encoded)):
            case.check([(a, b - 1) for a, b in actual], expected, f"{mode}, {what}")


@pytest.mark.parametrize("case", load_cases("hindsight_context"), ids=case_id)
def test_hindsight_context(case):
    responses, golden = case.inputs["responses"], case.inputs["golden_rollout"]
    expected = case.outputs["per_response"]
    texts = hindsight_texts(
        responses,
        [entry["score"] == 1 for entry in expected],
        case.inputs["group_id"],
        mode=info_mode(case.inputs["info_mode"]),
        include_outcome=case.inputs["include_final_correctness"],
        include_peer=case.inputs["include_peer"],
        golden=[golden] * len(responses),
    )
    for response, text, entry in zip(responses, texts, expected, strict=True):
        actual = [
            {"context_prefix_chars": start, "hindsight_suffix": text}
            for start, _ in target_spans(search_steps(response), "clean_step_no_observation")
        ]
        case.check(actual, entry["steps"], "steps")


def test_missing_golden_file_names_the_folder():
    with pytest.raises(FileNotFoundError, match="STEPOPSD_GOLDEN"):
        load_cases("no_such_file")


def test_an_empty_batch_of_steps_changes_nothing():
    empty_BT = torch.zeros(0, 0)
    steps = StepTokens.from_spans([], num_positions=0)
    shaped = stepopsd_advantages(
        empty_BT, empty_BT, empty_BT, steps, alpha_clip=0.2, lambda_mix=0.2
    )
    assert shaped.advantages.shape == (0, 0)
