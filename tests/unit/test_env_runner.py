"""Runners, groups and the algorithm around them, in this process."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import ray
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepopsd_rllib.environments import make_text_env
from stepopsd_rllib.episodes import from_rllib
from stepopsd_rllib.rollout.env_runner import TextEnvRunner
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from stepopsd_rllib.sampling.sampler import NO_VERSION
from stepopsd_rllib.sampling.transformers_sampler import TransformersSampler
from stepopsd_rllib.training import checkpoint_files as files
from stepopsd_rllib.training.group_sampling import RolloutError
from tests.helpers.agents import largest_difference, same_records, small_config, weights_of
from tests.helpers.houses import BARE, FAULTY_ENV
from tests.helpers.odd_env import BAD, ODD_ENV

# Episodes of four turns are rarely won; the entropy bonus has a gradient without a win.
ALWAYS_LEARNS = {"entropy_coeff": 0.01}
TASKS = make_text_env("stepopsd/ALFWorld-v0", BARE).tasks("train")


def visited(algo, steps: int) -> list[str]:
    """The tasks of the next steps, in order; the cursor stays where it is."""
    before = algo._requests.tasks.visited
    tasks = algo._requests.tasks.next(steps * algo.config.groups_per_step)
    algo._requests.tasks.visited = before
    return tasks


def test_a_runner_answers_requests_in_their_order():
    runner = TextEnvRunner(config=small_config(), worker_index=0)
    assert runner.weights_version == NO_VERSION
    requests = [
        EpisodeRequest(task_id=TASKS[g], group=g, rollout=i, seed=i) for g in (4, 1) for i in (1, 0)
    ]
    episodes = [from_rllib(episode) for episode in runner.sample(requests=requests)]
    assert [(e.group, e.rollout, e.task_id) for e in episodes] == [
        (r.group, r.rollout, r.task_id) for r in requests
    ]
    assert len(runner.sample(num_episodes=2)) == 2
    runner.stop()


def test_two_runs_of_one_seed_are_the_same_and_another_seed_is_not(build):
    weights, returns = [], []
    for seed in (1, 1, 2):
        algo = build(small_config(training=ALWAYS_LEARNS).debugging(seed=seed))
        results = [algo.train() for _ in range(2)]
        weights.append(weights_of(algo.learner_group._learner))
        returns.append([r["learners"]["default_policy"]["total_loss"] for r in results])
    assert largest_difference(weights[0], weights[1]) == 0.0 and returns[0] == returns[1]
    assert largest_difference(weights[0], weights[2]) > 0.0


def test_a_learning_rate_schedule_counts_the_updates_that_are_done(build):
    schedule = [[0, 1e-3], [2, 0.0]]
    algo = build(small_config(training={**ALWAYS_LEARNS, "lr": schedule}))
    before = weights_of(algo.learner_group._learner)
    rates, moved = [], []
    for _ in range(3):
        result = algo.train()["learners"]["default_policy"]
        rates.append(result["default_optimizer_learning_rate"])
        after = weights_of(algo.learner_group._learner)
        moved.append(largest_difference(before, after))
        before = after
    assert rates == pytest.approx([5e-4, 0.0, 0.0])  # what the next update steps with
    assert moved[0] > moved[1] > 0.0 and moved[2] == 0.0


def test_results_carry_what_reports_read(build):
    algo = build(small_config().evaluation(evaluation_interval=2))
    first, second, third = (algo.train() for _ in range(3))
    for result in (first, second, third):
        rollouts, learner = result["env_runners"], result["learners"]["default_policy"]
        assert rollouts["num_episodes"] == 12 and rollouts["turns_mean"] <= 4
        assert sum(rollouts["status"].values()) == 12
        assert learner["sampler_log_prob_difference_max"] < 1e-4
    assert first["evaluation"]["iteration"] == 0, "before any update"
    assert second["evaluation"]["iteration"] == 2
    assert "evaluation" not in third
    assert second["evaluation"]["num_episodes"] == 3
    lines = (algo.run_folder() / "evaluation.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["iteration"] for row in rows] == [0, 0, 0, 2, 2, 2]
    expected = make_text_env("stepopsd/ALFWorld-v0", BARE).tasks("valid_unseen")[::48]
    assert [row["task_id"] for row in rows] == list(expected) * 2, "each task once"


def test_evaluation_leaves_training_as_it_was(build):
    with_evaluation = build(small_config(training=ALWAYS_LEARNS))
    with_evaluation.evaluate()
    without = build(small_config(training=ALWAYS_LEARNS))
    start = weights_of(without.learner_group._learner)
    for algo in (with_evaluation, without):
        algo.train()
    left, right = (weights_of(a.learner_group._learner) for a in (with_evaluation, without))
    assert largest_difference(left, right) == 0.0 < largest_difference(start, left)


def unscored(turn):
    return replace(turn, behaviour_log_probs=np.zeros_like(turn.behaviour_log_probs))


def odd(fault: str, *, seed: int = 0, **agent):
    """Three-turn episodes; one task of eight has a fault."""
    settings = {"env_timeout_s": 0.5, "groups_per_step": 8, "eval_num_tasks": 1, **agent}
    config = small_config(**settings)
    config.environment(env=ODD_ENV, env_config={"fault": fault})
    config.env_config.clear()
    config.env_config["fault"] = fault
    return config.agent(model=small_config().model_path()).debugging(seed=seed)


def faulty(faults: dict[str, str], **agent):
    return small_config(env=FAULTY_ENV, env_config={"faults": faults}, **agent)


def test_a_broken_group_is_dropped_and_counted(build):
    broken = visited(build(small_config()), 1)[0]
    algo = build(faulty({broken: "step"}))
    result = algo.train()["env_runners"]
    assert result["groups_broken"] == 1 and result["status"]["environment_error"] == 3
    assert result["num_episodes"] == 9


@pytest.mark.parametrize("fault", ["step:hang", "append_message:raise", "reward:nan"])
def test_numbers_are_as_if_the_broken_episodes_had_not_been_there(build, fault):
    """Two seeded runs, one of them with a group that breaks: the sound groups say the same."""
    algo = build(odd("", seed=3))
    bad = next(i for i, task in enumerate(algo._requests.tasks.next(8)) if task == BAD)
    algo._requests.tasks.visited = 0
    sound = algo._sample_step().groups
    broken = build(odd(fault, seed=3))
    kept = broken._sample_step().groups
    assert kept.keys() == sound.keys() - {bad}
    for number, group in kept.items():
        for one, other in zip(group.get(), sound[number].get(), strict=True):
            left, right = from_rllib(one), from_rllib(other)
            for turn, same in zip(left.turns, right.turns, strict=True):
                # Rounding follows who else is in the batch.
                assert np.allclose(turn.behaviour_log_probs, same.behaviour_log_probs, atol=1e-4)
            without = [replace(e, turns=tuple(map(unscored, e.turns))) for e in (left, right)]
            assert same_records(*without)
    results = broken.train()["env_runners"]
    assert results["groups_broken"] <= 1 and np.isfinite(results["episode_return_mean"])


def test_a_stuck_environment_ends_by_name_in_the_run_without_runners(build):
    algo = build(odd("step:hang", groups_per_step=8))
    result = algo.train()["env_runners"]
    assert result["status"]["environment_error"] == 3 and result["num_episodes"] == 21
    assert result["environment_error_lifetime"] == {"EnvTimeout": 3}
    rows = (algo.run_folder() / "errors.jsonl").read_text().splitlines()
    assert {json.loads(row)["error"] for row in rows} == {"EnvTimeout: no answer within 0.5 s"}
    assert {json.loads(row)["task_id"] for row in rows} == {BAD}


@pytest.mark.parametrize("fault", ["reset:raise", "reset:hang", "first_message:raise"])
def test_a_broken_first_task_does_not_keep_a_run_from_starting(build, fault):
    seed = next(s for s in range(50) if np.random.default_rng([s, 0]).permutation(8)[0] == 7)
    algo = build(odd(fault, seed=seed))
    assert algo._requests.tasks.visited == 0 and algo._requests.tasks.next(1) == [BAD]


def test_the_next_update_starts_from_the_same_weights_after_one_without_signal(build):
    algo = build(odd("", groups_per_step=2))
    start = weights_of(algo.learner_group._learner)
    for _ in range(2):  # every episode wins: all groups are flat
        result = algo.train()
    assert largest_difference(start, weights_of(algo.learner_group._learner)) == 0.0
    assert result["learners"]["default_policy"]["no_signal_fraction"] == 1.0
    assert (result["num_updates_lifetime"], result["updates_left_out_lifetime"]) == (0, 2)


class Restless(TransformersSampler):
    """Raises or gets nowhere, for the first so many steps of the process."""

    faults: ClassVar[list[str]] = []

    def step(self):
        if not self.faults or self.is_idle():
            return super().step()
        fault = self.faults[0]
        if fault == "raise":
            self.faults.pop(0)
            raise RuntimeError("the kernel is gone")
        if fault == "hang":
            self.faults.pop(0)
            time.sleep(30)
        return []


@pytest.mark.parametrize("fault", ["raise", "hang", "idle"])
def test_a_sampler_that_fails_is_started_again_and_loses_nothing(build, monkeypatch, fault):
    expected = build(small_config(training=ALWAYS_LEARNS))
    expected.train()
    config = small_config(training=ALWAYS_LEARNS, sampler_timeout_s=3.0)
    algo = build(config)
    runner = algo.env_runner_group.local_env_runner
    make = runner.config.make_sampler

    def make_restless():
        sampler = make()
        sampler.__class__ = Restless
        return sampler

    runner._drop_sampler(is_stuck=False)
    monkeypatch.setattr(runner.config, "make_sampler", make_restless, raising=False)
    algo._sync()
    monkeypatch.setattr(Restless, "faults", [fault])
    restarts = algo._lifetime["runners_restarted"]  # the test's own
    if fault == "idle":  # until the watch gives it up
        monkeypatch.setattr(
            runner, "_drop_sampler", lambda **kw: (Restless.faults.clear(), drop(**kw))
        )
        drop = type(runner)._drop_sampler.__get__(runner)
    result = algo.train()["env_runners"]
    assert result["groups_lost"] == 4
    assert result["runners_restarted_lifetime"] == restarts + 1
    left, right = (weights_of(a.learner_group._learner) for a in (expected, algo))
    assert largest_difference(left, right) == 0.0


def test_a_sampler_that_always_raises_ends_the_run_with_what_it_said(build, monkeypatch):
    algo = build(small_config())
    runner = algo.env_runner_group.local_env_runner
    monkeypatch.setattr(type(runner._sampler._sampler), "step", lambda self: 1 / 0)
    with pytest.raises(RolloutError, match="The sampler raised ZeroDivisionError: division by"):
        algo.train()


def test_too_many_broken_groups_raise_with_the_first_errors(build):
    broken = visited(build(small_config()), 1)[1:]
    algo = build(faulty(dict.fromkeys(broken, "reset")))
    with pytest.raises(RolloutError, match="1 of 4 groups are usable") as raised:
        algo.train()
    assert "environment_error: OSError: the game file is gone" in str(raised.value)


def test_dynamic_sampling_replaces_groups_without_signal(build):
    training = {"dynamic_sampling": True, "dynamic_sampling_rounds": 4}
    algo = build(small_config(training=training, groups_per_step=2))
    result = algo.train()
    dropped = result["env_runners"]["groups_without_signal"]
    assert dropped > 0
    assert result["env_runners"]["num_episodes"] > 6
    groups = algo._sample_step().groups
    assert len(groups) <= 2
    assert algo._requests.num_groups == algo._requests.tasks.visited


def test_a_checkpoint_goes_on_bit_for_bit(build, tmp_path):
    training = {"lr_warmup_steps": 3, "kl_coeff": 0.1, **ALWAYS_LEARNS}
    algo = build(small_config(training=training))
    algo.train()
    saved = weights_of(algo.learner_group._learner)
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    # Weights once, the optimizer's two moments, and at most a quarter of a megabyte of the rest.
    size = sum(weight.nbytes for weight in saved.values())
    folders = [Path(path) / name for name in ("learner_group", "model")]
    assert sum(files.size_of(folder) for folder in folders) < 3 * size + 2**18
    uninterrupted = algo.train()
    restored = build(small_config(training=training))
    restored.restore_from_path(path)
    result = restored.train()
    expected = weights_of(algo.learner_group._learner)
    assert largest_difference(expected, saved) > 0
    assert largest_difference(expected, weights_of(restored.learner_group._learner)) == 0
    for section in ("num_episodes", "episode_return_mean", "num_env_steps_sampled_lifetime"):
        assert result["env_runners"][section] == uninterrupted["env_runners"][section]
    # Back to the earlier checkpoint in the same process, with later weights loaded.
    algo.restore_from_path(path)
    assert largest_difference(saved, weights_of(algo.learner_group._learner)) == 0
    algo.train()
    assert largest_difference(expected, weights_of(algo.learner_group._learner)) == 0


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_checkpoint_goes_on_over_the_end_of_a_pass_bit_for_bit(build, tmp_path, dynamic):
    """Eight tasks, three a step: the third step begins the second pass."""
    training = {"dynamic_sampling": dynamic, "dynamic_sampling_rounds": 2, **ALWAYS_LEARNS}
    settings = {"groups_per_step": 3, "group_size": 2, "training": training}
    algo = build(odd("reset:raise", **settings))
    for _ in range(2):
        algo.train()
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    uninterrupted = algo.train()
    restored = build(odd("reset:raise", **settings))
    restored.restore_from_path(path)
    result = restored.train()
    assert restored._requests.tasks.get_state() == algo._requests.tasks.get_state()
    assert restored._requests.tasks.visited > 8
    left, right = (weights_of(a.learner_group._learner) for a in (algo, restored))
    assert largest_difference(left, right) == 0.0
    assert result["num_updates_lifetime"] == uninterrupted["num_updates_lifetime"] == 3
    errors = "environment_error_lifetime"
    assert result["env_runners"][errors] == uninterrupted["env_runners"][errors]


def test_a_checkpoint_of_other_tasks_of_the_same_number_is_refused(build, tmp_path):
    algo = build(odd(""))
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    other = build(odd(""))
    other._requests.tasks = type(other._requests.tasks)([f"task {i}" for i in range(8)], seed=0)
    with pytest.raises(ValueError, match="trained on other tasks"):
        other.restore_from_path(path)


def test_the_exported_model_has_the_trained_weights(build, tmp_path):
    algo = build(small_config())
    algo.train()
    algo.export_hf(str(tmp_path / "export"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    trained = weights_of(algo.learner_group._learner)
    exported = model.state_dict()
    assert largest_difference({name: exported[name] for name in trained}, trained) == 0.0
    assert AutoTokenizer.from_pretrained(tmp_path / "export").chat_template


@pytest.mark.parametrize(
    ("agent", "env_config", "message"),
    [
        ({"max_context_tokens": 14}, {}, r"max_context_tokens=14: the first prompt of task"),
        ({"eval_split": "valid"}, {}, r"valid"),
        ({}, {"siez": "tiny"}, r"siez='tiny': ALFWorldEnv has no such key\. Did you mean 'size'"),
    ],
)
def test_what_only_a_built_run_can_know_is_refused_in_one_line(build, agent, env_config, message):
    with pytest.raises(ValueError, match=message) as raised:
        build(small_config(env_config=env_config, **agent))
    assert "\n" not in str(raised.value)


def test_ray_is_the_local_one(local_ray):
    assert ray.cluster_resources()["CPU"] == 4
