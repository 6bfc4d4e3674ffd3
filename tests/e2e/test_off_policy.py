"""`off_policy_steps: 1`: the next batch is sampled during the update, and nothing else changes."""

from __future__ import annotations

import pytest

from tests.helpers.agents import largest_difference, small_config, weights_of
from tests.helpers.houses import FAULTY_ENV

pytestmark = pytest.mark.e2e

# KL and entropy have a gradient without a win; see test_grpo_distributed.
LEARNS = {"entropy_coeff": 0.01, "kl_coeff": 0.1, "adam_eps": 1e-6, "old_log_probs": "sampler"}


def config_for(runners: int = 1, **changes):
    config = small_config(**{"training": LEARNS, **changes})
    config.env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5)
    return config.agent(off_policy_steps=1)


def versions(batch) -> set[int]:
    """Weights that sampled a batch."""
    return {version for episode in batch.episodes for version in episode.weights_versions}


def test_the_next_batch_is_of_the_weights_before_the_update_and_the_ratio_knows(build):
    algo = build(config_for())
    results = []
    for step in range(3):
        results.append(algo.train())
        assert algo._num_updates == step + 1
        assert versions(algo._ahead.wait()) == {step}
    learners = [result["learners"]["default_policy"] for result in results]
    assert learners[0]["sampler_log_prob_difference_max"] < 1e-4, "the first batch is on-policy"
    assert all(after["sampler_log_prob_difference_max"] > 1e-4 for after in learners[1:])
    assert learners[0]["effective_sample_size"] == pytest.approx(1.0, abs=1e-6)
    assert all(0 < after["effective_sample_size"] < 1 for after in learners[1:])
    assert all(result["timers"]["sample_ahead"] > 0 for result in results)
    assert [result["env_runners"]["num_episodes"] for result in results] == [12, 12, 12]


def test_evaluation_has_the_newest_weights_and_leaves_the_batch_as_it_was(build):
    evaluated, other = build(config_for()), build(config_for())
    for algo in (evaluated, other):
        algo.train()
    evaluated.evaluate()
    assert evaluated._synced_version == evaluated._num_updates == 1
    for algo in (evaluated, other):
        algo.train()
    left, right = (weights_of(algo.learner_group._learner) for algo in (evaluated, other))
    assert largest_difference(left, right) == 0.0


def test_a_checkpoint_holds_the_batch_and_goes_on_bit_for_bit(build, tmp_path):
    algo = build(config_for())
    algo.train()
    algo.train()
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    algo.train()
    expected = weights_of(algo.learner_group._learner)
    restored = build(config_for())
    restored.restore_from_path(path)
    assert versions(restored._ahead.wait()) == {1}
    restored.train()
    assert largest_difference(expected, weights_of(restored.learner_group._learner)) == 0.0


def test_groups_that_are_lost_beside_an_update_are_sampled_again_with_one_version(build, tmp_path):
    sound = build(config_for())
    order = sound._requests.tasks
    order.next(1)
    task = order._tasks[order._order[1][4]]  # of the second batch
    sound.stop()
    marker = tmp_path / "died"
    fault = {"faults": {task: "exit"}, "marker": str(marker)}
    algo = build(config_for(2, env=FAULTY_ENV, env_config=fault))
    first = algo.train()["env_runners"]
    assert first["groups_lost"] == 0
    batch = algo._ahead.wait()
    assert marker.exists() and batch.counts["groups_lost"] > 0
    assert versions(batch) <= {0, 1}
    for group in batch.groups.values():
        assert len({record.custom_data["group"] for record in group.get()}) == 1
    second = algo.train()["env_runners"]
    assert second["groups_lost"] > 0 and second["num_episodes"] == 12
    assert algo.train()["env_runners"]["num_episodes"] == 12
