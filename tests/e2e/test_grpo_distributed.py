"""Runners and learners in processes of their own: same update, same restart, nothing lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import ray

from stepopsd_rllib.episodes import to_rllib
from stepopsd_rllib.training.group_sampling import RolloutError
from stepopsd_rllib.training.weight_sync import WeightSyncError
from tests.helpers.agents import largest_difference, random_groups, small_config
from tests.helpers.houses import FAULTY_ENV
from tests.helpers.odd_env import BAD, ODD_ENV
from tests.helpers.pipelines import SKILLS, config_of, recorded_groups

pytestmark = pytest.mark.e2e

PLACES = [(0, 0), (2, 0), (2, 2)]
# Episodes of four turns are rarely won; KL and entropy have a gradient without a win.
# With its default epsilon Adam divides the rounding noise of a near-zero gradient by itself.
LEARNS = {"entropy_coeff": 0.01, "kl_coeff": 0.1, "adam_eps": 1e-6}


def config_for(runners: int, learners: int, **changes):
    config = small_config(**{"training": LEARNS, **changes})
    config.env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5)
    return config.learners(num_learners=learners, num_cpus_per_learner=0.5)


def learner_weights(algo) -> list[dict]:
    """The weights of every learner."""
    results = algo.learner_group.foreach_learner(
        lambda learner: [{n: v.numpy().copy() for n, v in learner.sampler_weights().items()}]
    )
    return [result.get()[0] for result in results.ignore_errors()]


def update(algo, groups) -> None:
    references = [ray.put([to_rllib(episode) for episode in group]) for group in groups]
    algo.learner_group.update(episodes_refs=references, timesteps={})


@pytest.mark.parametrize("context", ["append", "window"])
def test_the_update_does_not_depend_on_the_number_of_learners(build, context):
    groups = random_groups(sizes=(3, 2, 4, 2), context=context)
    after = []
    for learners in (0, 2):
        algo = build(config_for(0, learners, context=context, max_sampler_difference=None))
        start = learner_weights(algo)[0]
        update(algo, groups)
        weights = learner_weights(algo)
        assert largest_difference(start, weights[0]) > 1e-4
        assert all(largest_difference(weights[0], other) == 0.0 for other in weights)
        after.append(weights[0])
    assert largest_difference(*after) < 1e-5


def test_shared_beginnings_do_not_depend_on_the_number_of_learners(build):
    """Groups with a long prompt of their own: forwarded once by every learner that has one."""
    groups = []
    for g, group in enumerate(random_groups(sizes=(4, 3, 4, 3))):
        prompt = np.random.default_rng(g).integers(3, 400, 300).astype(np.int32)
        groups.append(
            [
                replace(e, turns=(replace(e.turns[0], prompt_ids=prompt), *e.turns[1:]))
                for e in group
            ]
        )
    after = []
    for learners, share in ((0, "off"), (0, "auto"), (2, "auto")):
        config = config_for(0, learners, share_prefixes=share, max_sampler_difference=None)
        algo = build(config)
        update(algo, groups)
        weights = learner_weights(algo)
        assert all(largest_difference(weights[0], other) == 0.0 for other in weights)
        after.append(weights[0])
    assert max(largest_difference(after[0], other) for other in after[1:]) < 1e-5


def test_a_distillation_loss_does_not_depend_on_the_number_of_learners(build):
    """Learners of unequal shares; one of them has a group without a success only."""
    groups = recorded_groups("window", version=0)
    groups.append([replace(episode, group=len(groups)) for episode in groups[0][:2]])
    after = []
    for learners in (0, 2):
        config = config_of(
            "SDAR", context="window", distillation_coeff=1.0, adam_eps=1e-6, **SKILLS
        )
        algo = build(config.learners(num_learners=learners, num_cpus_per_learner=0.5))
        update(algo, groups)
        weights = learner_weights(algo)
        assert all(largest_difference(weights[0], other) == 0.0 for other in weights)
        after.append(weights[0])
    assert largest_difference(*after) < 1e-5


def test_what_branches_teach_does_not_depend_on_the_number_of_learners(build):
    """The second of two learners has nothing to teach."""
    groups = random_groups((3, 2, 3, 2))
    for group in groups:
        for i, episode in enumerate(group):
            lost = [dataclasses.replace(turn, reward=0.0) for turn in episode.turns]
            group[i] = dataclasses.replace(
                episode,
                turns=episode.turns if episode.group < 2 else tuple(lost),
                preamble="" if episode.rollout else "- Look first.\n\n",
            )
    after = []
    for learners in (0, 2):
        config = config_of(
            "UCOB",
            context="append",
            skills="alfworld_brief",
            distillation_coeff=1.0,
            min_return_gap=0.5,
            adam_eps=1e-6,
        )
        algo = build(config.learners(num_learners=learners, num_cpus_per_learner=0.5))
        update(algo, groups)
        weights = learner_weights(algo)
        assert all(largest_difference(weights[0], other) == 0.0 for other in weights)
        after.append(weights[0])
    assert largest_difference(*after) < 1e-5


def test_runners_and_learners_elsewhere_take_the_same_first_step(build):
    after = []
    for runners, learners in PLACES:
        algo = build(config_for(runners, learners))
        result = algo.train()
        assert result["learners"]["default_policy"]["sampler_log_prob_difference_max"] < 1e-4
        after.append(learner_weights(algo)[0])
    assert all(largest_difference(after[0], other) < 1e-5 for other in after)


def test_minibatches_over_two_learners_of_unequal_rows_do_not_deadlock(build):
    training = LEARNS | {"minibatch_size": 4, "num_epochs": 2}
    algo = build(config_for(0, 2, training=training, max_sampler_difference=None))
    update(algo, random_groups(sizes=(8, 2, 7, 2)))
    weights = learner_weights(algo)
    assert largest_difference(*weights) == 0.0


@pytest.mark.parametrize(("runners", "learners"), [(0, 0), (2, 2)])
def test_a_killed_run_goes_on_from_its_checkpoint_bit_for_bit(build, tmp_path, runners, learners):
    algo = build(config_for(runners, learners))
    algo.train()
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    algo.train()
    expected = learner_weights(algo)[0]
    algo.stop()
    restored = build(config_for(runners, learners))
    restored.restore_from_path(path)
    result = restored.train()
    assert largest_difference(expected, learner_weights(restored)[0]) == 0.0
    assert result["learners"]["default_policy"]["sampler_log_prob_difference_max"] < 1e-4


def test_a_runner_that_dies_while_it_samples_is_replaced_and_its_groups_are_sampled_again(
    build, tmp_path
):
    sound = build(config_for(2, 0))
    sound.train()
    expected = learner_weights(sound)[0]
    task = sound._requests.tasks._tasks[sound._requests.tasks._order[1][1]]
    sound.stop()
    marker = tmp_path / "died"
    fault = {"faults": {task: "exit"}, "marker": str(marker)}
    algo = build(config_for(2, 0, env=FAULTY_ENV, env_config=fault))
    first = algo.train()["env_runners"]
    assert marker.exists()
    assert first["groups_lost"] == 2 and first["num_episodes"] == 12
    assert largest_difference(expected, learner_weights(algo)[0]) < 1e-5, "nothing was lost"
    for _ in range(20):
        result = algo.train()
        if result["env_runners"]["runners_restarted_lifetime"]:
            break
        time.sleep(1)
    assert result["env_runners"]["runners_restarted_lifetime"] >= 1
    assert algo.env_runner_group.num_healthy_remote_env_runners() == 2
    assert algo.train()["learners"]["default_policy"]["sampler_log_prob_difference_max"] < 1e-4


def test_a_runner_that_ray_restarted_unseen_gets_its_weights_before_it_samples(build):
    algo = build(config_for(2, 0))
    algo.train()
    actor = algo.env_runner_group._worker_manager.actors()[1]
    ray.kill(actor, no_restart=False)
    for _ in range(60):
        try:
            version = ray.get(actor.apply.remote(lambda runner: runner.weights_version))
            break
        except ray.exceptions.RayActorError:
            time.sleep(0.5)
    assert version == -1, "a restarted runner holds no weights of the run"
    result = algo.train()
    assert result["env_runners"]["groups_lost"] > 0
    assert result["env_runners"]["runners_restarted_lifetime"] == 1
    assert result["env_runners"]["num_episodes"] == 12


def test_a_sampler_that_fails_in_a_runner_is_started_again(build):
    algo = build(config_for(2, 0))
    algo.env_runner_group.foreach_env_runner(
        lambda runner: runner._sampler.close(), local_env_runner=False
    )
    with pytest.raises(WeightSyncError, match=r"Env runner \d: RuntimeError: This sampler is clos"):
        algo._sync()
    result = algo.train()["env_runners"]
    assert result["num_episodes"] == 12 and result["runners_restarted_lifetime"] == 2


def test_an_exception_in_a_runner_reaches_the_user(build):
    algo = build(config_for(2, 0))
    algo.env_runner_group.foreach_env_runner(
        lambda runner: setattr(runner, "_play", lambda *a, **k: {}["a bug"]),
        local_env_runner=False,
    )
    with pytest.raises(RolloutError, match=r"Env runner \d: KeyError: 'a bug'"):
        algo.train()


def test_a_task_that_ends_its_runner_every_time_is_given_up_by_name_and_never_drawn_again(build):
    config = config_for(2, 0, env_config={}, groups_per_step=8, group_size=2)
    config.environment(env=ODD_ENV).agent(model=small_config().model_path())
    config.env_config.clear()
    config.env_config["fault"] = "step:die"
    algo = build(config)
    first = algo.train()["env_runners"]
    assert first["groups_given_up"] == 1 and first["num_episodes"] == 14
    assert first["environment_error_lifetime"] == {"LostWithRunner": 2}
    rows = (algo.run_folder() / "errors.jsonl").read_text().splitlines()
    assert {json.loads(row)["task_id"] for row in rows} == {BAD}
    second = algo.train()["env_runners"]
    assert second["groups_given_up"] == 0 and second["tasks_skipped_lifetime"] >= 1
    assert second["num_episodes"] == 16
    for _ in range(20):  # its runner ended twice; Ray restarts it in its own time
        if second["runners_restarted_lifetime"] >= 2:
            break
        time.sleep(1)
        second = algo.train()["env_runners"]
    assert second["runners_restarted_lifetime"] == 2


def test_a_stuck_environment_costs_its_own_place_in_a_runner(build):
    """The deadline of an environment ends before the runner's."""
    config = config_for(1, 0, groups_per_step=8, group_size=2)
    config.environment(env=ODD_ENV).agent(model=small_config().model_path())
    config.env_config.clear()
    config.env_config["fault"] = "step:hang"
    config.env_runners(sample_timeout_s=10.0)
    result = build(config).train()["env_runners"]
    assert result["groups_lost"] == 0 and result["num_episodes"] == 14
    assert result["environment_error_lifetime"] == {"EnvTimeout": 2}


@pytest.mark.parametrize("when", ["sampling", "loading"])
def test_a_runner_that_hangs_is_restarted_and_the_run_goes_on(build, when):
    limits = {"weight_sync_timeout_s": 8.0}
    config = config_for(2, 0, **limits)
    config.env_runners(sample_timeout_s=12.0)
    algo = build(config)
    algo.train()
    stopped = algo.env_runner_group.foreach_env_runner(
        lambda runner: os.getpid(), local_env_runner=False
    )[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        if when == "loading":
            algo._sync()
        result = algo.train()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGKILL)
    assert result["env_runners"]["num_episodes"] == 12
    assert result["learners"]["default_policy"]["sampler_log_prob_difference_max"] < 1e-4
    while not result["env_runners"]["runners_restarted_lifetime"]:
        result = algo.train()
    assert algo.env_runner_group.num_healthy_remote_env_runners() == 2


def test_a_refusal_in_a_runner_stays_a_refusal(build):
    refused = "tests.helpers.own_sampler:RefusingSampler"
    with pytest.raises(ValueError, match=r"Env runner \d: ValueError: no such accelerator"):
        build(config_for(2, 0, sampler=refused))


def test_evaluation_on_remote_runners_plays_each_task_once(build):
    algo = build(config_for(2, 0, eval_num_tasks=5))
    metrics = algo.evaluate()
    rows = [
        json.loads(line)
        for line in (algo.run_folder() / "evaluation.jsonl").read_text().splitlines()
    ]
    assert metrics["num_episodes"] == 5
    assert len({row["task_id"] for row in rows}) == len(rows) == 5
