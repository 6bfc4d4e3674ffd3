"""StepOPSD against the authors' outputs: shaping, schedule, segmentation, hindsight text."""

import pytest
import torch
from stepopsd_envs.search_qa.scoring import exact_match, last_answer

from stepopsd_rllib.episodes.segmentation import SPAN_MODES, token_span
from stepopsd_rllib.objectives.schedules import linear_decay, linear_warm_down
from stepopsd_rllib.objectives.stepopsd import stepopsd_advantages
from stepopsd_rllib.objectives.steps import StepTokens
from stepopsd_rllib.reference.hindsight_names import info_mode
from stepopsd_rllib.reference.search_segmentation import (
    feedback_spans,
    reencoded_token_span,
    search_steps,
    target_spans,
)
from stepopsd_rllib.teachers.contexts import hindsight_texts
from tests.helpers.golden_vectors import golden, load_cases, tensor

WORKED_EXAMPLE = "For example <answer> Beijing </answer>. Question: who? "


@golden("stepopsd_shaping")
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


@golden("lambda_schedule", tags=("stepopsd", "grsd"), other_tags=("rlsd",))
def test_linear_decay(case):
    initial, length = case.inputs["init"], case.inputs["decay_steps"]
    values = [linear_decay(initial, step=t, decay_steps=length) for t in case.inputs["global_step"]]
    case.check(values, case.outputs["lambda"], "lambda")


@golden("lambda_schedule", tags=("rlsd",), other_tags=("stepopsd", "grsd"))
def test_linear_warm_down(case):
    initial, length = case.inputs["init"], case.inputs["decay_steps"]
    values = [linear_warm_down(initial, step=t, window=length) for t in case.inputs["global_step"]]
    case.check(values, case.outputs["lambda"], "lambda")


@golden("step_extraction", leaves=("target_spans",))
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


@golden("step_extraction", leaves=("steps", "feedback_spans"))
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


def is_correct(response: str, targets: str | list[str]) -> bool:
    """The authors score prompt and response together; their prompt quotes an answer."""
    answer = last_answer(f"{WORKED_EXAMPLE}{response}", required_matches=2)
    return answer is not None and exact_match(answer, targets)


@golden("hindsight_context")
def test_hindsight_context(case):
    responses, gold = case.inputs["responses"], case.inputs["golden_rollout"]
    correct = [is_correct(response, case.inputs["targets"]) for response in responses]
    texts = hindsight_texts(
        responses,
        correct,
        case.inputs["group_id"],
        mode=info_mode(case.inputs["info_mode"]),
        include_outcome=case.inputs["include_final_correctness"],
        include_peer=case.inputs["include_peer"],
        golden=[gold] * len(responses),
    )
    actual = [
        {
            "score": int(score),
            "steps": [
                {"context_prefix_chars": start, "hindsight_suffix": text}
                for start, _ in target_spans(search_steps(response), "clean_step_no_observation")
            ],
        }
        for response, score, text in zip(responses, correct, texts, strict=True)
    ]
    case.check(actual, case.outputs["per_response"], "per_response")


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
