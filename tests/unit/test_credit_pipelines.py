"""Whole learner pipelines, both row layouts, against loops over plain floats and forward passes."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch

from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from stepopsd_rllib.connectors.hindsight import HindsightContext
from tests.helpers.pipelines import (
    SKILLS,
    Pipeline,
    config_of,
    recorded_groups,
    run_pipeline,
    with_prompts,
    with_responses,
)

TOLERANCE = {"abs": 2e-5, "rel": 1e-4}
CONTEXTS = pytest.mark.parametrize("context", ["append", "window"])
# In rows of one turn, statistics over rows penalise a turn for itself alone.
LAYOUTS = pytest.mark.parametrize(
    ("context", "rows"), [("append", "episodes"), ("window", "rows")], ids=["append", "window"]
)


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def gaps(
    pipeline: Pipeline, *, teacher: Any, position: str = "prefix"
) -> dict[tuple[int, int], list[float]]:
    """Teacher less student on every response token, each turn two forward passes."""
    found = {}
    for n, k in pipeline.turns():
        told = {position: pipeline.told(n)}
        policy = pipeline.learner.language_module.language_model
        found[n, k] = [
            t - s
            for t, s in zip(
                pipeline.log_probs(teacher, n, k, **told),
                pipeline.log_probs(policy, n, k),
                strict=True,
            )
        ]
    return found


def assert_tokens(pipeline: Pipeline, column: str, expected: dict[tuple[int, int], Any]) -> None:
    """Compares a column on the response tokens of every turn; elsewhere it must be 0."""
    for (n, k), values in expected.items():
        assert pipeline.tokens(column, n, k) == pytest.approx(values, **TOLERANCE), (n, k)
    outside_BT = ~pipeline.columns["response_mask"]
    assert not pipeline.columns[column][outside_BT].any()


def equal_budget(
    shaped: dict[tuple[int, int], list[float]], spans: dict[tuple[int, int], slice], eps: float
) -> None:
    """Multiplies the spans of an episode, in place, to the same mean magnitude."""
    for episode in {n for n, _ in spans}:
        means = {
            key: statistics.fmean(map(abs, shaped[key][span]))
            for key, span in spans.items()
            if key[0] == episode
        }
        if len(means) < 2:
            continue
        target = statistics.fmean(means.values())
        for key, mean in means.items():
            factor = clip(target / (mean + eps), 0.5, 2.0)
            shaped[key][spans[key]] = [value * factor for value in shaped[key][spans[key]]]


@LAYOUTS
@pytest.mark.parametrize("position", ["suffix", "prefix"])
def test_stepopsd_spelt_out(context, rows, position):
    config = config_of(
        "StepOPSD",
        context=context,
        advantage_statistics=rows,
        hindsight_position=position,
        hindsight_outcome=True,
        span_mode="clean_step_no_observation",
        alpha_clip=0.5,
        lambda_mix=0.9,
        lambda_decay_steps=50,
    )
    pipeline = run_pipeline(config, recorded_groups(context))
    advantages = pipeline.group_advantages()
    teacher = pipeline.learner.language_module.teacher
    expected, spans = {}, {}
    mix = 0.9 * (1 - 5 / 50)  # weights of version 4 make update 5
    for key, deltas in gaps(pipeline, teacher=teacher, position=position).items():
        a = advantages[key]
        weights = [clip(2 / (1 + math.exp(-sign(a) * delta)), 0.5, 1.5) for delta in deltas]
        expected[key] = [a * (1 - mix) + mix * w * a for w in weights]
        spans[key] = slice(0, len(deltas))
        if a:
            assert pipeline.tokens("log_prob_gap", *key) == pytest.approx(deltas, abs=2e-5)
    before = {key: list(values) for key, values in expected.items()}
    equal_budget(expected, spans, eps=1e-6)
    assert expected != before
    assert_tokens(pipeline, "advantages", expected)
    kept = pipeline.columns["group_advantages"].sign()
    assert torch.equal(pipeline.columns["advantages"].sign(), kept)


@CONTEXTS
def test_stepopsd_credits_the_action_alone(context):
    """Tokens before and after the action keep their advantage; the hindsight stands before it."""
    config = config_of("StepOPSD", context=context, span_mode="action_only", lambda_mix=1.0)
    pieces = {
        0: ("I open it. ", "<action>open fridge 1</action>", ""),
        1: ("", "<action>go to desk 1</action>", " Done."),
        2: ("No action.", "", ""),
    }
    tokenizer = config.tokenizer()

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    groups = with_responses(recorded_groups(context), encode, pieces)
    pipeline = run_pipeline(config, groups)
    module = pipeline.learner.language_module
    advantages, expected, spans = pipeline.group_advantages(), {}, {}
    for n, k in pipeline.turns():
        before, action, after = (encode(piece) for piece in pieces[k % 3])
        a = advantages[n, k]
        shaped = [a] * (len(before) + len(action) + len(after))
        if action:
            context_ids = pipeline.context(n, k) + before
            span = slice(len(before), len(before) + len(action))
            told = _log_probs(module.teacher, [*context_ids, *pipeline.told(n)], action, config)
            plain = _log_probs(module.language_model, context_ids, action, config)
            for i, (t, s) in enumerate(zip(told, plain, strict=True), start=span.start):
                weight = clip(2 / (1 + math.exp(-sign(a) * (t - s))), 0.8, 1.2)
                shaped[i] = a * (1 - 0.9) + 0.9 * weight * a
            spans[n, k] = span
        expected[n, k] = shaped
    equal_budget(expected, spans, eps=1e-6)
    assert_tokens(pipeline, "advantages", expected)


@torch.no_grad()
def _log_probs(model: Any, context: list[int], target: list[int], config: Any) -> list[float]:
    logits_TV = model(input_ids=torch.tensor([[*context, *target]])).logits[0]
    log_probs_TV = (logits_TV / config.temperature).log_softmax(-1)
    return [float(log_probs_TV[len(context) - 1 + i, t]) for i, t in enumerate(target)]


@CONTEXTS
def test_rlsd_is_stepopsd_with_exp_one_span_and_no_budget(context):
    """The same teacher, told the same: equal bit for bit, through all connectors."""
    keys = {"context": context, "teacher": "stale", "lambda_mix": 0.6, "lambda_decay_steps": 30}
    rlsd = config_of("RLSD", weight_clip=0.3, **SKILLS, **keys)
    stepopsd = config_of(
        "StepOPSD",
        weight_fn="exp",
        alpha_clip=0.3,
        step_normalization="none",
        span_mode="clean_step_no_observation",
        hindsight_position="prefix",
        **keys,
    )
    skills = next(p for p in rlsd.learner_connectors() if type(p).__name__ == "SkillContext")
    groups = recorded_groups(context)
    one, other = (
        run_pipeline(rlsd, groups),
        run_pipeline(stepopsd, groups, HindsightContext=skills),
    )
    assert torch.equal(one.columns["advantages"], other.columns["advantages"])
    assert not torch.equal(one.columns["advantages"], one.columns["group_advantages"])
    advantages, mix = one.group_advantages(), 0.6 * (1 - 5 / 30)
    expected = {}
    for key, deltas in gaps(one, teacher=one.learner.language_module.teacher).items():
        a = advantages[key]
        weights = [clip(math.exp(sign(a) * delta), 0.7, 1.3) for delta in deltas]
        expected[key] = [a * (1 - mix + mix * weight) for weight in weights]
    assert_tokens(one, "advantages", expected)


def multipliers(evidence: list[float], prior: float, a: float, *, divisor: Any) -> list[float]:
    """The belief of success after each piece of evidence, compared with its other moves."""
    logit, belief, moves = math.log(prior / (1 - prior)), prior, []
    accumulated = 0.0
    for value in evidence:
        accumulated = 0.95 * accumulated + value
        following = clip(1 / (1 + math.exp(-logit - accumulated)), 1e-6, 1 - 1e-6)
        moves.append(following - belief)
        belief = following
    mean, variance = statistics.fmean(moves), statistics.pvariance(moves)
    return [clip(1 + 0.5 * sign(a) * (q - mean) / divisor(variance), 0.5, 1.5) for q in moves]


@LAYOUTS
@pytest.mark.parametrize("level", ["turn", "token"])
def test_agentopsd_spelt_out(context, rows, level):
    config = config_of(
        "AgentOPSD",
        context=context,
        advantage_statistics=rows,
        credit_level=level,
        band=0.5,
        lambda_mix=0.8,
        **SKILLS,
    )
    pipeline = run_pipeline(config, recorded_groups(context))
    advantages, scores = pipeline.group_advantages(), pipeline.scores()
    policy = pipeline.learner.language_module.language_model
    deltas = gaps(pipeline, teacher=policy)
    expected = {}
    for n, episode in enumerate(pipeline.episodes):
        siblings = [m for m, e in enumerate(pipeline.episodes) if e.group == episode.group]
        prior = clip(statistics.fmean(scores[m, 0] for m in siblings), 1e-4, 1 - 1e-4)
        turns = range(len(episode.turns))
        evidence = [sum(deltas[n, k]) for k in turns]
        for k in turns:
            a = advantages[n, k]
            if level == "turn":
                m = multipliers(evidence, prior, a, divisor=lambda v: math.sqrt(v) + 1e-6)[k]
                factors = [m] * len(deltas[n, k])
            else:
                factors = multipliers(
                    deltas[n, k], prior, a, divisor=lambda v: math.sqrt(v + 1e-6) + 1e-6
                )
            expected[n, k] = [a * (0.2 + 0.8 * factor) for factor in factors]
    for (n, k), values in expected.items():
        # Divided by a small deviation, the rounding of log-probs grows.
        assert pipeline.tokens("advantages", n, k) == pytest.approx(values, abs=5e-3)


@LAYOUTS
@pytest.mark.parametrize("normalize", [False, True])
def test_gigpo_spelt_out(context, rows, normalize):
    config = config_of(
        "GiGPO",
        context=context,
        advantage_statistics=rows,
        normalize_advantages=normalize,
        step_weight=0.7,
        step_discount=0.9,
    )
    pipeline = run_pipeline(config, recorded_groups(context))
    outcome, returns = pipeline.group_advantages(), {}
    for n, episode in enumerate(pipeline.episodes):
        following = 0.0
        for k in reversed(range(len(episode.turns))):
            turn = episode.turns[k]
            following = turn.reward + 0.9 * following
            returns[n, k] = following - 0.1 * (not turn.is_action_valid)
    assert any(not t.is_action_valid for e in pipeline.episodes for t in e.turns[1:])
    expected = {}
    for n, k in pipeline.turns():
        episode = pipeline.episodes[n]
        alike = [
            returns[m, j]
            for m, j in pipeline.turns()
            if pipeline.episodes[m].group == episode.group
            and pipeline.episodes[m].turns[j].anchor == episode.turns[k].anchor
        ]
        step = returns[n, k] - statistics.fmean(alike)
        if normalize:
            step /= (statistics.stdev(alike) if len(alike) > 1 else 0.0) + 1e-6
        if max(alike) - min(alike) < 1e-6:
            step = 0.0
        size = len(episode.turns[k].response_ids)
        expected[n, k] = [outcome[n, k] + 0.7 * step] * size
    assert_tokens(pipeline, "advantages", expected)


@CONTEXTS
@pytest.mark.parametrize("level", ["turn", "token"])
def test_grsd_spelt_out(context, level):
    config = config_of("GRSD", context=context, credit_level=level, lambda_mix=0.8)
    pipeline = run_pipeline(config, recorded_groups(context))
    policy = pipeline.learner.language_module.language_model
    advantages, deltas = pipeline.group_advantages(), gaps(pipeline, teacher=policy)
    signals = {}
    for key, values in deltas.items():
        kept = values if level == "token" else [statistics.fmean(values)]
        signals[key] = [math.expm1(clip(sign(advantages[key]) * v, -20, 20)) for v in kept]
    expected = {}
    for (n, k), values in signals.items():
        group = pipeline.episodes[n].group
        is_mixed = {e.won for e in pipeline.episodes if e.group == group} == {True, False}
        assert bool(pipeline.told(n)) == is_mixed
        magnitude = statistics.fmean(
            abs(s)
            for (m, _), own in signals.items()
            for s in own
            if pipeline.episodes[m].group == group
        )
        factors = [max(0.1, 1 + 0.8 * clip(s / (magnitude + 1e-6), -3, 3)) for s in values]
        factors = factors if is_mixed else [1.0] * len(factors)
        factors = factors if level == "token" else factors * len(deltas[n, k])
        expected[n, k] = [advantages[n, k] * factor for factor in factors]
    for (n, k), values in expected.items():
        assert pipeline.tokens("advantages", n, k) == pytest.approx(values, rel=1e-3, abs=1e-4)


@CONTEXTS
def test_columns_of_the_old_policy_and_of_the_anchor_are_aligned(context):
    """One minibatch among several, so that the old policy has a column of its own."""
    config = config_of("GRPO", context=context, kl_coeff=0.1, minibatch_size=3)
    pipeline = run_pipeline(config, recorded_groups(context))
    module = pipeline.learner.language_module
    for column, model in (
        ("old_log_probs", module.language_model),
        ("reference_log_probs", module.reference),
    ):
        expected = {key: pipeline.log_probs(model, *key) for key in pipeline.turns()}
        assert_tokens(pipeline, column, expected)


@pytest.mark.parametrize(("name", "context"), [("SDAR", "window"), ("SkillSD", "append")])
def test_a_distilling_teacher_scores_every_token_also_without_skills(name, context):
    """The sampler's own log-probs, which stand for no teacher, are never used for one."""
    config = config_of(name, context=context, distillation_coeff=0.1, **SKILLS)
    groups = recorded_groups(context)
    nothing = HindsightContext(source="none", include_outcome=False, max_tokens=1, encode=list)
    for told, replaced in ((True, {}), (False, {"SkillContext": nothing})):
        pipeline = run_pipeline(config, groups, **replaced)
        policy = pipeline.learner.language_module.language_model
        expected = {
            (n, k): pipeline.log_probs(policy, n, k, prefix=pipeline.told(n))
            for n, k in pipeline.turns()
        }
        assert bool(pipeline.told(0)) == told
        assert_tokens(pipeline, "teacher_log_probs", expected)
        assert torch.equal(pipeline.columns["is_scored"], pipeline.columns["response_mask"])


@CONTEXTS
@pytest.mark.parametrize(
    ("routing", "normalize", "bound"), [("step_priority", False, None), ("additive", True, 0.5)]
)
def test_opid_adds_what_the_skills_moved(context, routing, normalize, bound):
    config = config_of(
        "OPID",
        context=context,
        skill_routing=routing,
        normalize_skill_advantages=normalize,
        skill_advantage_clip=bound,
        episode_skill_weight=0.3,
        step_skill_weight=0.2,
    )
    groups = with_prompts(recorded_groups(context), config.chat_format())
    pipeline = run_pipeline(config, groups)
    policy = pipeline.learner.language_module.language_model
    outcome, skills = pipeline.group_advantages(), pipeline.shared[EPISODE_SKILLS]
    expected = {
        key: [outcome[key]] * len(pipeline.tokens("response_mask", *key))
        for key in pipeline.turns()
    }
    for kind, weight in (("episode", 0.3), ("step", 0.2)):
        shifts = {}
        for n, k in pipeline.turns():
            has_step = bool(skills[n].step_skills.get(k))
            is_due = has_step if kind == "step" else routing == "additive" or not has_step
            assert set(pipeline.tokens(f"has_{kind}_skill", n, k)) == {is_due}
            if is_due:
                skilled = pipeline.tokens(f"{kind}_skill_log_probs", n, k)
                plain = pipeline.log_probs(policy, n, k)
                shifts[n, k] = [x - y for x, y in zip(skilled, plain, strict=True)]
        flat = [value for values in shifts.values() for value in values]
        assert any(abs(value) > 1e-3 for value in flat)
        centre, scale = (
            (statistics.fmean(flat), statistics.pstdev(flat) + 1e-6) if normalize else (0.0, 1.0)
        )
        for key, values in shifts.items():
            moved = [(value - centre) / scale for value in values]
            moved = moved if bound is None else [clip(value, -bound, bound) for value in moved]
            expected[key] = [
                a + weight * value for a, value in zip(expected[key], moved, strict=True)
            ]
    assert_tokens(pipeline, "advantages", expected)
