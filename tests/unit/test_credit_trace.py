"""What a record of `credit.jsonl` says of tokens, against the model; it costs no forward pass."""

from typing import Any

import pytest
import torch

from stepopsd_rllib.episodes import to_rllib
from stepopsd_rllib.training.learner import TokenLearner
from tests.helpers.agents import build_learner, random_groups, small_config
from tests.helpers.methods import ACTIVE, method_config, method_groups


def traced(training: dict[str, Any], context: str = "append") -> TokenLearner:
    training = {"credit_trace_interval": 1, **training}
    return build_learner(
        small_config(context=context, training=training, max_sampler_difference=None)
    )


def learner_of(name: str, **keys: Any) -> TokenLearner:
    config = method_config(name, ACTIVE.get(name, {}) | keys, "append")
    config.max_sampler_difference = None  # episodes of random tokens
    return build_learner(config)


def train(learner: TokenLearner, groups: Any) -> None:
    learner.update(episodes=[to_rllib(e) for group in groups for e in group], timesteps={})


def judged(learner: TokenLearner, prompt: list[int], response: list[int]) -> tuple[list, list]:
    """Log-probs and entropies of a response under the policy, from one row by itself."""
    module = learner.language_module
    ids = torch.tensor([[*prompt, *response]])
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[0, len(prompt) :] = True
    with torch.no_grad():
        logs, entropies = module.score(module.language_model, ids, mask, entropy="value")
    return logs[mask].tolist(), entropies[mask].tolist()


def expected(learner: TokenLearner, groups: Any) -> dict[tuple[int, int, int], tuple[list, list]]:
    """By group, rollout and turn, as the weights are now."""
    found = {}
    for episode in (e for group in groups for e in group):
        history: list[int] = []
        for k, turn in enumerate(episode.turns):
            prompt = turn.prompt_ids.tolist()
            history = prompt if episode.context == "window" else history + prompt
            response = turn.response_ids.tolist()
            found[episode.group, episode.rollout, k] = judged(learner, history, response)
            history = history + response
    return found


def turns_of(records: list[dict[str, Any]]) -> dict[tuple[int, int, int], dict[str, Any]]:
    return {(r["group"], r["rollout"], k): t for r in records for k, t in enumerate(r["turns"])}


@pytest.mark.parametrize("context", ["append", "window"])
def test_entropy_and_old_log_prob_are_those_of_the_policy_before_the_update(context):
    learner = traced({"credit_trace_episodes": 50, "entropy_coeff": 0.001}, context)
    groups = random_groups(context=context)
    before = expected(learner, groups)
    train(learner, groups)
    turns = turns_of(learner.take_credit_records())
    assert turns.keys() == before.keys()
    for place, (log_probs, entropies) in before.items():
        assert turns[place]["old_log_prob"] == pytest.approx(log_probs, abs=2e-4)
        assert turns[place]["entropy"] == pytest.approx(entropies, abs=2e-4)
        assert "new_log_prob" not in turns[place]  # of one optimizer step it would be the old


def test_of_several_steps_the_new_log_prob_is_that_of_the_last_pass():
    learner = traced({"num_epochs": 2, "entropy_coeff": 0.001})
    groups = random_groups()
    before = expected(learner, groups)
    train(learner, groups)
    turns = turns_of(learner.take_credit_records())
    # The second pass has the weights of one step, which another learner takes in one epoch.
    other = traced({"entropy_coeff": 0.001})
    train(other, groups)
    between = expected(other, groups)
    moved = 0.0
    for place, turn in turns.items():
        assert turn["old_log_prob"] == pytest.approx(before[place][0], abs=2e-4)
        assert turn["new_log_prob"] == pytest.approx(between[place][0], abs=2e-3)
        pairs = zip(turn["old_log_prob"], turn["new_log_prob"], strict=True)
        moved = max(moved, *(abs(old - new) for old, new in pairs))
    assert moved > 0.01


def test_what_the_update_does_not_forward_has_no_entropy():
    learner = traced({"credit_trace_episodes": 50, "invalid_action_penalty": 0.0})
    groups = random_groups((3, 3))
    train(learner, [groups[0], groups[1][1:]])  # of the second group only what was lost
    records = learner.take_credit_records()
    without = {r["group"] for r in records if any("entropy" not in t for t in r["turns"])}
    with_it = {r["group"] for r in records if any("entropy" in t for t in r["turns"])}
    assert (with_it, without) == ({0}, {1})


@pytest.mark.parametrize("name", ["GRPO", "StepOPSD", "OPID"])
def test_a_trace_costs_no_forward_pass_and_changes_no_weight(name):
    passes, weights = [], []
    for interval in (0, 1):
        learner = learner_of(name, num_epochs=2, credit_trace_interval=interval)
        count = [0]
        base: Any = learner.language_module.language_model.base_model
        base.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        train(learner, method_groups("append"))
        assert bool(learner.take_credit_records()) == bool(interval)
        passes.append(count[0])
        weights.append(learner.sampler_weights())
    assert passes[0] == passes[1] > 0
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())


def test_where_nobody_judged_a_token_there_is_null_and_no_zero():
    learner = learner_of("OPID", credit_trace_interval=1)
    train(learner, method_groups("append"))
    turns = turns_of(learner.take_credit_records()).values()
    skills = [v for t in turns for v in t["step_skill_log_prob"]]
    assert None in skills and any(v is not None and v < 0 for v in skills)
    assert 0.0 not in skills
    assert all(v < 0 for t in turns for v in t["old_log_prob"])
