"""Losses beside GRPO's through the real learner: gradients, splits, groups without a signal."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from stepopsd_rllib.algorithms.grpo import GRPOConfig
from stepopsd_rllib.episodes import AgentEpisode
from tests.helpers.agents import build_learner, largest_difference, update
from tests.helpers.pipelines import SKILLS, config_of, recorded_groups, run_pipeline

Gradient = dict[str, torch.Tensor]
METHODS = {
    "sdar": ("SDAR", {"distillation_coeff": 0.5}),
    "opsd": ("OPSD", {"distillation_coeff": 0.5, "teacher_top_tokens": 889}),
    "opsd_grpo": (
        "OPSD",
        {"policy_coeff": 1.0, "teacher_top_tokens": 889, "divergence": "reverse_kl"},
    ),
    "skill_sd": ("SkillSD", {"distillation_coeff": 0.05}),
}


def method(name: str, context: str, **keys: object) -> GRPOConfig:
    algorithm, own = METHODS[name]
    return config_of(algorithm, context=context, grad_clip=None, **SKILLS, **own, **keys)


def gradient(config: GRPOConfig, groups: list[list[AgentEpisode]]) -> tuple[Gradient, float]:
    """Gradient of the loss at the embedded model, and the loss."""
    learner = build_learner(config)
    loss = update(learner, groups)["total_loss"]
    named = learner.language_module.language_model.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named}, loss


def relative_difference(left: Gradient, right: Gradient) -> float:
    scale = max(float(value.abs().max()) for value in left.values())
    return largest_difference(left, right) / scale


@pytest.mark.parametrize(
    ("name", "context"),
    [("sdar", "append"), ("opsd", "window"), ("opsd_grpo", "append"), ("skill_sd", "window")],
)
def test_the_gradient_is_that_of_a_slow_loop_in_float64(name, context):
    """Token by token: surrogate, and the method's own equation, over all tokens of the batch."""
    config, groups = method(name, context), recorded_groups(context, version=0)
    pipeline = run_pipeline(config, groups)
    advantages = pipeline.group_advantages()
    path = config.model_path()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    frozen = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    losses = []
    for n, k in pipeline.turns():
        response = pipeline.episodes[n].turns[k].response_ids.tolist()
        plain, told = pipeline.context(n, k), list(pipeline.told(n))
        with torch.no_grad():
            teacher = _distributions(frozen, [*told, *plain], response, config.temperature)
        policy = _distributions(model, plain, response, config.temperature)
        for token, lp_V, teacher_V in zip(response, policy, teacher, strict=True):
            lp, lp_teacher = lp_V[token], teacher_V[token]
            # On the policy that sampled, the ratio is 1 and its gradient that of the log-prob.
            loss = -config.policy_coeff * advantages[n, k] * (lp - lp.detach()).exp()
            if name == "opsd":
                own = (teacher_V.exp() * (teacher_V - lp_V)).sum()
            elif name == "opsd_grpo":
                own = (lp_V.exp() * (lp_V - teacher_V)).sum()
            elif name == "skill_sd":
                d = lp - lp_teacher
                own = (lp - lp.detach()).exp() * ((-d).exp() - 1 + d)
            else:
                gap = float(lp_teacher - lp.detach())
                gate = 1 / (1 + math.exp(-5 * gap)) if name == "sdar" else 1.0
                own = gate * (lp_teacher - lp)
            losses.append(loss + config.distillation_coeff * own)
    expected = torch.stack(losses).mean()
    expected.backward()
    slow = {name: parameter.grad.float() for name, parameter in model.named_parameters()}
    fast, loss = gradient(config, groups)
    assert relative_difference(slow, fast) < 1e-4
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def _distributions(model, context, target, temperature) -> torch.Tensor:
    """Log-probs of all tokens at the positions of the target, [T, V]."""
    logits_TV = model(input_ids=torch.tensor([[*context, *target]])).logits[0] / temperature
    return logits_TV.log_softmax(-1)[len(context) - 1 : -1]


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize(
    ("name", "context"), [("sdar", "window"), ("opsd", "append"), ("skill_sd", "append")]
)
def test_neither_micro_batches_nor_row_order_change_the_gradient(name, context, aggregation):
    groups = recorded_groups(context, version=0)
    keys = {"loss_aggregation": aggregation}
    whole, loss = gradient(method(name, context, **keys), groups)
    split, split_loss = gradient(method(name, context, micro_batch_tokens=40, **keys), groups)
    turned, turned_loss = gradient(
        method(name, context, **keys), [group[::-1] for group in groups[::-1]]
    )
    assert relative_difference(whole, split) < 1e-5
    assert relative_difference(whole, turned) < 1e-5
    assert split_loss == pytest.approx(loss, abs=1e-6)
    assert turned_loss == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "context"), [("sdar", "append"), ("opsd", "append"), ("skill_sd", "window")]
)
def test_a_group_that_failed_altogether_still_learns_from_the_teacher(name, context):
    lost = [recorded_groups(context, version=0)[-1]]
    for config, learns in (
        (config_of("GRPO", context=context), False),
        (method(name, context), True),
    ):
        config.update_from_dict({"invalid_action_penalty": 0.0})
        found, _ = gradient(config, lost)
        assert any(bool(value.any()) for value in found.values()) == learns
