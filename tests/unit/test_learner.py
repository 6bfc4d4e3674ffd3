"""One training step of the learner on recorded episodes: invariances, refusals, gradients."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import pytest
import torch
from transformers import AutoModelForCausalLM

from stepopsd_rllib.episodes import AgentEpisode, pack_episodes
from tests.helpers.agents import (
    build_learner,
    largest_difference,
    random_groups,
    small_config,
    update,
    weights_of,
)

UNCHECKED = {"max_sampler_difference": None}
FULL = {"kl_coeff": 0.5, "entropy_coeff": 0.3, "invalid_action_penalty": 0.1}


def updated(groups, *, training=None, **agent):
    """Weights and metrics after one training step from the embedded model."""
    learner = build_learner(small_config(training=training, **(UNCHECKED | agent)))
    metrics = update(learner, groups)
    return weights_of(learner), metrics


def gradient(groups, *, training=None, **agent) -> tuple[dict[str, torch.Tensor], float]:
    """Gradient of the loss at the embedded model, and the loss."""
    settings = {"grad_clip": None, **(training or {})}
    learner = build_learner(small_config(training=settings, **(UNCHECKED | agent)))
    metrics = update(learner, groups)
    named = learner.language_module.language_model.named_parameters()
    return {name: p.grad.clone() for name, p in named}, metrics["total_loss"]


def relative_difference(left, right) -> float:
    scale = max(float(value.abs().max()) for value in left.values())
    return largest_difference(left, right) / scale


@pytest.mark.parametrize("context", ["append", "window"])
def test_neither_micro_batches_nor_row_order_change_the_gradient(context):
    groups = random_groups(context=context)
    agent = {"context": context, "training": FULL}
    whole, loss = gradient(groups, **agent)
    split, split_loss = gradient(groups, **agent, micro_batch_tokens=30)
    turned, turned_loss = gradient([group[::-1] for group in groups[::-1]], **agent)
    assert relative_difference(whole, split) < 1e-6
    assert relative_difference(whole, turned) < 1e-6
    assert split_loss == pytest.approx(loss, abs=1e-6)
    assert turned_loss == pytest.approx(loss, abs=1e-6)


def slow_loss(model, groups: list[list[AgentEpisode]], initial, config) -> torch.Tensor:
    """The objective, token by token in float64, from the equations in `algorithms/grpo.py`."""
    tokens = []
    for group in groups:
        returns = [e.return_ - 0.1 * e.num_invalid_actions for e in group]
        mean = sum(returns) / len(returns)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in returns) / (len(returns) - 1))
        for episode, return_ in zip(group, returns, strict=True):
            advantage = (return_ - mean) / (deviation + 1e-6) if deviation else 0.0
            ids, sampled = [], []
            for turn in episode.turns:
                ids += [*turn.prompt_ids.tolist(), *turn.response_ids.tolist()]
                sampled += [False] * len(turn.prompt_ids) + [True] * len(turn.response_ids)
            logits = model(torch.tensor([ids])).logits[0] / config.temperature
            with torch.no_grad():
                anchor = initial(torch.tensor([ids])).logits[0] / config.temperature
            for t in range(1, len(ids)):
                if not sampled[t]:
                    continue
                row = logits[t - 1].log_softmax(-1)
                ratio = (row[ids[t]] - row[ids[t]].detach()).exp()
                log_ratio = anchor[t - 1].log_softmax(-1)[ids[t]] - row[ids[t]]
                kl = log_ratio.exp() - log_ratio - 1
                entropy = -(row.exp() * row).sum()
                tokens.append(
                    -advantage * ratio + config.kl_coeff * kl - config.entropy_coeff * entropy
                )
    return torch.stack(tokens).mean()


def test_the_gradient_is_that_of_a_slow_loop_in_float64():
    groups = random_groups(sizes=(2, 3))
    config = small_config(training=FULL, temperature=0.8)
    fast, loss = gradient(groups, training=FULL, temperature=0.8)
    path = config.model_path()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    initial = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    expected = slow_loss(model, groups, initial, config)
    expected.backward()
    slow = {name: p.grad.float() for name, p in model.named_parameters()}
    assert relative_difference(slow, fast) < 1e-4
    assert loss == pytest.approx(expected.item(), abs=1e-5)


VARIANTS = {
    "grpo": {},
    "kl": {"kl_coeff": 0.5, "num_epochs": 2},
    "entropy": {"entropy_coeff": 0.5},
    "dr_grpo": {"normalize_advantages": False, "loss_aggregation": "seq-mean-token-sum-norm"},
    "gspo": {"importance_ratio": "sequence", "loss_aggregation": "seq-mean-token-mean"},
    "gspo_two_epochs": {
        "importance_ratio": "sequence",
        "loss_aggregation": "seq-mean-token-mean",
        "num_epochs": 3,
        "clip_low": 3e-4,
        "clip_high": 4e-4,
    },
    "clip_higher": {"clip_low": 0.001, "clip_high": 0.28, "num_epochs": 3, "lr": 1e-4},
    "clip_lower": {"clip_low": 0.001, "clip_high": 0.001, "num_epochs": 3, "lr": 1e-4},
    "three_epochs": {"num_epochs": 3, "lr": 1e-4},
    "row_sums": {"loss_aggregation": "seq-mean-token-sum"},
    "truncated_importance": {"importance_cap": 2.0},
    "sampler_ratio": {"old_log_probs": "sampler"},
    "penalty": {"invalid_action_penalty": 1.0},
    "minibatches": {"minibatch_size": 4},
    "warm_up": {"lr_warmup_steps": 10},
    "weight_decay": {"weight_decay": 10.0},
}


def test_every_setting_changes_the_update():
    groups = random_groups()
    after = {
        name: updated(groups, training={"grad_clip": None, **training})[0]
        for name, training in VARIANTS.items()
    }
    names = list(after)
    same = [
        (one, other)
        for i, one in enumerate(names)
        for other in names[:i]
        if largest_difference(after[one], after[other]) < 1e-7
    ]
    assert same == []


def test_row_statistics_differ_from_episode_statistics_for_rows_of_one_turn():
    groups = random_groups(context="window")
    training = {"advantage_statistics": "rows", "invalid_action_penalty": 0.0}
    rows, _ = updated(groups, context="window", training=training)
    episodes, _ = updated(groups, context="window", training={"invalid_action_penalty": 0.0})
    assert largest_difference(rows, episodes) > 1e-6


def test_rows_without_an_advantage_are_left_out_without_changing_the_gradient():
    groups = random_groups()
    groups[0] = [_without_reward(episode) for episode in groups[0]]
    training = {"invalid_action_penalty": 0.0}
    skipped, _ = gradient(groups, training=training)
    # A negligible entropy bonus makes every row count.
    forwarded, _ = gradient(groups, training=training | {"entropy_coeff": 1e-12})
    assert relative_difference(forwarded, skipped) < 1e-6


def _without_reward(episode: AgentEpisode) -> AgentEpisode:
    turns = tuple(dataclasses.replace(turn, reward=0.0) for turn in episode.turns)
    return dataclasses.replace(episode, turns=turns)


def test_groups_without_signal_leave_the_weights_alone():
    flat = [[_without_reward(e) for e in group] for group in random_groups()]
    learner = build_learner(small_config(training={"invalid_action_penalty": 0.0}, **UNCHECKED))
    before = weights_of(learner)
    metrics = update(learner, flat)
    assert metrics["total_loss"] == 0.0 and metrics["gradient_norm"] == 0.0
    assert largest_difference(before, weights_of(learner)) == 0.0


def test_a_gradient_that_is_not_finite_is_skipped_and_counted():
    learner = build_learner(small_config(**UNCHECKED))
    head = learner.language_module.language_model.get_input_embeddings().weight
    with torch.no_grad():
        head[0] = math.nan
    before = weights_of(learner)
    metrics = update(learner, random_groups())
    assert metrics["skipped_update_fraction"] == 1.0
    assert learner.num_optimizer_steps == 0
    after = weights_of(learner)
    assert all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)


def test_episodes_of_other_weights_are_refused():
    learner = build_learner(small_config(**UNCHECKED))
    with pytest.raises(RuntimeError, match=r"weights of versions \[3\], the learner is at 0"):
        update(learner, random_groups(version=3))


@pytest.mark.parametrize(("limit", "raises"), [("auto", True), (0.01, True), (99.0, False)])
def test_a_sampler_that_disagrees_is_refused(limit, raises):
    learner = build_learner(small_config(max_sampler_difference=limit))
    if raises:
        with pytest.raises(RuntimeError, match=r"sampler and learner disagree by .* nats a token"):
            update(learner, random_groups())
    else:
        assert update(learner, random_groups())["sampler_log_prob_difference_mean"] > 0.1


def test_frozen_copies_get_no_gradient_and_are_not_sent_to_samplers():
    learner = build_learner(small_config(training=FULL, **UNCHECKED))
    module = learner.language_module
    reference = pickle.loads(pickle.dumps(module.reference.state_dict()))
    update(learner, random_groups())
    assert all(p.grad is None and not p.requires_grad for p in module.reference.parameters())
    assert largest_difference(reference, module.reference.state_dict()) == 0.0
    weights = weights_of(learner)
    assert largest_difference({name: reference[name] for name in weights}, weights) > 0
    tied = {"lm_head.weight"}
    assert weights.keys() == module.language_model.state_dict().keys() - tied
    optimized = {id(p) for g in learner.get_optimizer().param_groups for p in g["params"]}
    assert optimized == {id(p) for p in module.language_model.parameters()}


def test_a_checkpoint_of_an_earlier_update_brings_its_weights_back():
    learner = build_learner(small_config(training={"lr_warmup_steps": 3}, **UNCHECKED))
    update(learner, random_groups())
    state = pickle.loads(pickle.dumps(learner.get_state()))
    earlier = weights_of(learner)
    update(learner, random_groups(version=1))
    expected = weights_of(learner)
    learner.set_state(state)
    assert largest_difference(earlier, weights_of(learner)) == 0.0
    assert learner.num_optimizer_steps == 1
    update(learner, random_groups(version=1))
    assert largest_difference(expected, weights_of(learner)) == 0.0


def test_gradient_checkpointing_changes_memory_not_the_gradient():
    groups = random_groups()
    plain, _ = gradient(groups)
    passes: list[int] = []
    config = small_config(training={"grad_clip": None}, gradient_checkpointing=True, **UNCHECKED)
    learner = build_learner(config)
    layer = learner.language_module.language_model.model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: passes.append(1))
    update(learner, groups)
    named = learner.language_module.language_model.named_parameters()
    assert relative_difference(plain, {name: p.grad for name, p in named}) < 1e-6
    assert len(passes) == 2, "each layer runs again in the backward pass"


def test_metrics_say_what_happened():
    groups = random_groups()
    _, metrics = updated(groups, training=FULL | {"minibatch_size": 4})
    rows = pack_episodes([e for group in groups for e in group])
    assert metrics["entropy"] > 0 and metrics["kl_to_reference"] >= 0
    assert metrics["skipped_update_fraction"] == 0 and metrics["gradient_norm"] > 0
    assert metrics["weights_seq_no"] == 1 and len(rows.lengths) == 12
    assert 0 <= metrics["clip_fraction"] <= 1


def flat(groups):
    """The same episodes, none better than another."""
    return [
        [
            dataclasses.replace(
                episode,
                turns=tuple(
                    dataclasses.replace(turn, reward=0.0, is_action_valid=True)
                    for turn in episode.turns
                ),
            )
            for episode in group
        ]
        for group in groups
    ]


def state_of(learner) -> dict:
    """All that an update may move, copied."""
    optimizer = learner.get_optimizer("default_policy")
    return {
        "weights": weights_of(learner),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "counters": (
            learner.num_updates,
            learner.num_optimizer_steps,
            learner.language_module.teacher_version,
        ),
    }


def assert_same_state(left: dict, right: dict) -> None:
    assert largest_difference(left["weights"], right["weights"]) == 0.0
    assert left["counters"] == right["counters"]
    flat_left, flat_right = (pickle.dumps(s["optimizer"]) for s in (left, right))
    assert left["optimizer"]["param_groups"] == right["optimizer"]["param_groups"]
    for index, moments in left["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, right["optimizer"]["state"][index][name]), name
    assert len(flat_left) == len(flat_right)


@pytest.mark.parametrize("training", [{}, {"weight_decay": 0.1}, {"num_epochs": 2}])
def test_a_batch_without_signal_leaves_everything_as_it_was(training, caplog):
    settings = {"lr_warmup_steps": 4, "lr": [[0, 1e-3], [10, 1e-4]], **training}
    learner = build_learner(small_config(training=settings, **UNCHECKED))
    update(learner, random_groups((3, 3), seed=1))
    before = state_of(learner)
    metrics = update(learner, flat(random_groups((3, 3), seed=2, version=1)))
    assert metrics["no_signal_fraction"] == 1.0 and metrics["skipped_update_fraction"] == 0.0
    assert "no token has an advantage" in caplog.text
    assert_same_state(before, state_of(learner))
    # The next update is the one that would have come without it.
    update(learner, random_groups((3, 3), seed=3, version=1))
    other = build_learner(small_config(training=settings, **UNCHECKED))
    update(other, random_groups((3, 3), seed=1))
    update(other, random_groups((3, 3), seed=3, version=1))
    assert_same_state(state_of(learner), state_of(other))


@pytest.mark.parametrize("training", [{"entropy_coeff": 0.01}, {"kl_coeff": 0.1}])
def test_a_regulariser_is_a_signal(training):
    learner = build_learner(small_config(training=training, **UNCHECKED))
    update(learner, random_groups((3, 3), seed=1))
    metrics = update(learner, flat(random_groups((3, 3), seed=2, version=1)))
    assert metrics["no_signal_fraction"] == 0.0 and learner.num_updates == 2


def test_a_loss_or_gradient_that_is_not_finite_is_skipped_and_ends_the_run_in_the_end():
    learner = build_learner(small_config(max_skipped_updates=1, **UNCHECKED))
    update(learner, random_groups((3, 3), seed=1))
    before = state_of(learner)
    sound = learner.compute_loss_for_module
    learner.compute_loss_for_module = lambda **kwargs: sound(**kwargs) * math.nan
    metrics = update(learner, random_groups((3, 3), seed=2, version=1))
    assert metrics["skipped_update_fraction"] == 1.0 and metrics["no_signal_fraction"] == 0.0
    assert_same_state(before, state_of(learner))
    with pytest.raises(FloatingPointError, match=r"max_skipped_updates=1: .* 2 optimizer steps"):
        update(learner, random_groups((3, 3), seed=2, version=1))
    learner.compute_loss_for_module = sound
    update(learner, random_groups((3, 3), seed=2, version=1))
    assert learner.num_skipped_in_a_row == 0 and learner.num_updates == 2
