"""StepOPSD's learner on recorded episodes: what the update is, whose weights teach, bad keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from stepopsd_rllib import GRPOConfig, StepOPSDConfig
from stepopsd_rllib.episodes import to_rllib
from stepopsd_rllib.training.learner import TokenLearner
from tests.helpers.agents import NO_REGULARISATION, SMALL, build_learner, random_groups
from tests.helpers.houses import BARE

SHAPING = {"span_mode": "clean_step_no_observation", "credit_trace_interval": 0}


def config_of(algorithm: type[GRPOConfig], **keys: Any) -> GRPOConfig:
    config = algorithm().environment("stepopsd/ALFWorld-v0", env_config=BARE)
    config.agent(**SMALL)
    # Random tokens have no log-probs that a sampler would have written.
    config.agent(max_sampler_difference=None)
    config.training(lr=3e-4, **NO_REGULARISATION)
    if algorithm is StepOPSDConfig:
        keys = SHAPING | keys
    return config.update_from_dict(keys)


def digest(weights: Mapping[str, torch.Tensor]) -> str:
    whole = hashlib.sha256()
    for name in sorted(weights):
        whole.update(weights[name].detach().numpy().tobytes())
    return whole.hexdigest()


def updated(learner: TokenLearner, versions: range, *, context: str = "append") -> list[dict]:
    """Updates on random groups; digests of policy and teacher before each, and its metrics."""
    module, seen = learner.language_module, []
    for version in versions:
        before = {
            "policy": digest(module.language_model.state_dict()),
            "teacher": digest(module.teacher.state_dict()) if module.teacher else "",
        }
        groups = random_groups(seed=version, context=context, version=version)
        results = learner.update(
            episodes=[to_rllib(episode) for group in groups for episode in group], timesteps={}
        )
        names = ("effect_size", "gap_std", "teacher_version", "teacher_tokens_forwarded")
        metrics = dict(results.items())["default_policy"]
        before |= {name: float(metrics[name].peek()) for name in names if name in metrics}
        seen.append(before)
    return seen


@pytest.mark.parametrize(
    ("context", "minibatch", "keys"),
    [
        ("append", None, {"lambda_mix": 0.0, "score_all": True}),
        ("window", 6, {"alpha_clip": 0.0, "score_all": True}),
        ("append", None, {"hindsight": "none", "teacher": "live"}),
        ("window", None, {"lambda_decay_steps": 1, "score_all": True}),
    ],
    ids=["lambda", "alpha", "gap", "decayed"],
)
def test_without_shaping_the_weights_are_grpos_bit_for_bit(context, minibatch, keys):
    shared = {"context": context, "minibatch_size": minibatch}
    grpo = build_learner(config_of(GRPOConfig, **shared))
    stepopsd = build_learner(config_of(StepOPSDConfig, **shared, **keys))
    initial = digest(grpo.sampler_weights())
    updated(grpo, range(3), context=context)
    seen = updated(stepopsd, range(3), context=context)
    assert digest(stepopsd.sampler_weights()) == digest(grpo.sampler_weights()) != initial
    assert all(update["effect_size"] == 0 for update in seen)
    if "score_all" in keys:
        assert all(update["gap_std"] > 0 for update in seen)


@pytest.mark.parametrize("keys", [{}, {"hindsight_position": "prefix"}])
def test_with_shaping_they_are_not(keys):
    grpo = build_learner(config_of(GRPOConfig))
    stepopsd = build_learner(config_of(StepOPSDConfig, **keys))
    updated(grpo, range(1))
    (seen,) = updated(stepopsd, range(1))
    assert digest(stepopsd.sampler_weights()) != digest(grpo.sampler_weights())
    assert 0 < seen["effect_size"] <= 0.05


@pytest.mark.parametrize("interval", [10, 3])
def test_the_teacher_of_an_update_is_the_policy_of_the_last_refresh(interval):
    learner = build_learner(config_of(StepOPSDConfig, teacher_refresh_interval=interval))
    seen = updated(learner, range(12))
    policies = [update["policy"] for update in seen]
    assert len(set(policies)) == 12
    # Updates 1 to `interval` have the initial weights, the next ones those after `interval`, ...
    assert [update["teacher"] for update in seen] == [
        policies[update // interval * interval] for update in range(12)
    ]


def test_the_teacher_survives_a_restore():
    keys = {"teacher_refresh_interval": 2}
    learner = build_learner(config_of(StepOPSDConfig, **keys))
    updated(learner, range(3))
    state = learner.get_state()
    expected = updated(learner, range(3, 6))
    restored = build_learner(config_of(StepOPSDConfig, **keys))
    restored.set_state(state)
    actual = updated(restored, range(3, 6))
    assert actual == expected
    assert actual[0]["teacher"] != actual[0]["policy"]
    assert digest(restored.sampler_weights()) == digest(learner.sampler_weights())


def test_a_restore_with_another_interval_knows_how_old_the_teacher_is():
    learner = build_learner(config_of(StepOPSDConfig, teacher_refresh_interval=2))
    updated(learner, range(3))
    restored = build_learner(config_of(StepOPSDConfig, teacher_refresh_interval=3))
    restored.set_state(learner.get_state())
    # Three updates are done, and the new interval would have refreshed after the third.
    assert restored.language_module.teacher_version == 2
    assert [update["teacher_version"] for update in updated(restored, range(3, 6))] == [2, 2, 6]


def test_a_live_teacher_and_an_initial_anchor_hold_no_needless_copies():
    live = build_learner(config_of(StepOPSDConfig, teacher="live")).language_module
    assert live.teacher is None and live.reference is None
    anchored = build_learner(config_of(StepOPSDConfig, kl_coeff=0.1)).language_module
    assert anchored.teacher is not anchored.reference is not None
    keys = {"kl_coeff": 0.1, "kl_reference": "teacher"}
    moving = build_learner(config_of(StepOPSDConfig, **keys)).language_module
    assert moving.reference is None and moving.teacher is not None


def test_the_teacher_is_neither_optimized_nor_sent_to_samplers():
    learner = build_learner(config_of(StepOPSDConfig, kl_coeff=0.1))
    module = learner.language_module
    trained = {id(p) for p in learner.get_parameters(module)}
    assert trained == {id(p) for p in module.language_model.parameters()}
    assert module.get_non_inference_attributes() == ["reference", "teacher"]
    tied = {"lm_head.weight"}
    assert set(learner.sampler_weights()) == set(module.language_model.state_dict()) - tied


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"alpha_clip": 1.0}, r"config\.alpha_clip=1\.0: must be in \[0, 1\)"),
        ({"alpha_clip": -0.1}, r"config\.alpha_clip=-0\.1"),
        ({"lambda_mix": 1.5}, r"config\.lambda_mix=1\.5: must be a number in \[0, 1\]"),
        ({"teacher_refresh_interval": 0}, r"config\.teacher_refresh_interval=0.*at least 1"),
        (
            {"span_mode": "answer_only"},
            r"span_mode='answer_only': ALFWorldEnv names no answer_tags",
        ),
        (
            {"span_mode": "actions"},
            r"config\.span_mode='actions': must be one of action_only|clean",
        ),
        ({"hindsight": "peers"}, r"config\.hindsight='peers'"),
        ({"hindsight_max_tokens": 0}, r"config\.hindsight_max_tokens=0"),
        ({"weight_fn": "tanh"}, r"config\.weight_fn='tanh'"),
        ({"lambda_decay_steps": -1}, r"config\.lambda_decay_steps=-1"),
        ({"kl_reference": "teacher", "teacher": "live"}, r"needs teacher='stale'"),
        (
            {"student_log_probs": "rollout", "top_p": 0.9},
            r"student_log_probs='rollout'.*top_p=0\.9",
        ),
        ({"step_normalization_clip": 0.5}, r"config\.step_normalization_clip=0\.5"),
    ],
)
def test_bad_values_are_refused_in_one_line_with_their_key(keys, message):
    with pytest.raises(ValueError, match=message):
        config_of(StepOPSDConfig, **keys).validate()


def test_text_and_unknown_keys_are_refused():
    with pytest.raises(ValueError, match=r"config\.alpha_clip='1e-1' is text"):
        config_of(StepOPSDConfig, alpha_clip="1e-1")
    with pytest.raises(ValueError, match=r"config\.alpha_clp.*'alpha_clip'"):
        config_of(StepOPSDConfig, alpha_clp=0.1)
