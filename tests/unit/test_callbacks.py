"""RLlib's callbacks: all of them fire, with what RLlib documents, in every form of `.callbacks`."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from stepopsd_rllib.rollout.callbacks import CallbackError
from stepopsd_rllib.training.group_sampling import Round
from tests.helpers.agents import small_config
from tests.helpers.houses import FAULTY_ENV

EVERY = (
    "on_algorithm_init",
    "on_environment_created",
    "on_episode_created",
    "on_episode_start",
    "on_episode_step",
    "on_episode_end",
    "on_sample_end",
    "on_evaluate_start",
    "on_evaluate_end",
    "on_env_runners_recreated",
    "on_train_result",
)
SETTINGS = {"groups_per_step": 2, "group_size": 2, "eval_num_tasks": 1}


class Recorder(RLlibCallback):
    """Counts every callback and looks at what it gets."""

    fired: ClassVar[Counter[str]] = Counter()

    def on_algorithm_init(self, *, algorithm, metrics_logger, **kwargs):
        self.fired["on_algorithm_init"] += 1
        assert algorithm._requests.tasks.visited == 0
        assert algorithm.env_runner_group.local_env_runner.weights_version == 0, "it is finished"

    def on_environment_created(self, *, env_runner, metrics_logger, env, env_context, **kwargs):
        self.fired["on_environment_created"] += 1
        assert env_context["max_turns"] == 4 and env_context.worker_index == 0
        assert env.tasks("train")

    def on_episode_created(self, *, episode, env_runner, metrics_logger, env, env_index, **kwargs):
        self.fired["on_episode_created"] += 1
        assert len(episode) == 0 and env_index >= 0

    def on_episode_start(self, *, episode, env_runner, metrics_logger, env, env_index, **kwargs):
        self.fired["on_episode_start"] += 1
        assert episode.get_observations() and episode.get_infos(-1)["action"] == ""
        episode.custom_data["seen"] = 1

    def on_episode_step(self, *, episode, env_runner, metrics_logger, env, env_index, **kwargs):
        self.fired["on_episode_step"] += 1
        assert isinstance(env_runner, EnvRunner)
        assert episode.get_infos(-1)["turn"] == len(episode)
        episode.custom_data["seen"] += 1

    def on_episode_end(
        self, *, episode, prev_episode_chunks, env_runner, metrics_logger, env, **kwargs
    ):
        self.fired["on_episode_end"] += 1
        assert episode.is_done and episode.custom_data["seen"] == len(episode) + 1
        assert episode.custom_data["status"] and prev_episode_chunks == []
        metrics_logger.log_value("turns_seen", len(episode), reduce="sum")

    def on_sample_end(self, *, env_runner, metrics_logger, samples, **kwargs):
        self.fired["on_sample_end"] += 1
        assert all(isinstance(sample, SingleAgentEpisode) for sample in samples)
        assert all("seen" in sample.custom_data for sample in samples)

    def on_evaluate_start(self, *, algorithm, metrics_logger, **kwargs):
        self.fired["on_evaluate_start"] += 1

    def on_evaluate_end(self, *, algorithm, metrics_logger, evaluation_metrics, **kwargs):
        self.fired["on_evaluate_end"] += 1
        evaluation_metrics["mine"] = evaluation_metrics["success_rate"]

    def on_env_runners_recreated(
        self, *, algorithm, env_runner_group, env_runner_indices, is_evaluation, **kwargs
    ):
        self.fired["on_env_runners_recreated"] += 1

    def on_train_result(self, *, algorithm, metrics_logger, result, **kwargs):
        self.fired["on_train_result"] += 1
        result["added"] = 1


def test_every_callback_of_a_class_fires_with_what_rllib_documents(build, monkeypatch):
    Recorder.fired.clear()
    config = small_config(**SETTINGS).callbacks(Recorder).evaluation(evaluation_interval=1)
    algo = build(config)
    monkeypatch.setattr(algo, "_restore_dead_runners", lambda: [2])
    algo._restore_or_wait(Round())
    monkeypatch.undo()
    result = algo.train()
    fired = Recorder.fired
    assert set(fired) == set(EVERY)
    assert fired["on_algorithm_init"] == fired["on_train_result"] == 1
    assert fired["on_episode_created"] == fired["on_episode_start"] == 4 + 2
    assert fired["on_episode_end"] == 4 + 2 and fired["on_sample_end"] == 3
    assert fired["on_evaluate_start"] == fired["on_evaluate_end"] == 2
    assert fired["on_environment_created"] >= 2
    assert result["added"] == 1
    assert result["env_runners"]["turns_seen"] == 4 * result["env_runners"]["turns_mean"]
    evaluation = result["evaluation"]
    assert evaluation["mine"] == evaluation["success_rate"]
    assert evaluation["env_runners"]["turns_seen"] == evaluation["turns_mean"]


def test_lists_of_classes_and_callables_fire_too(build):
    Recorder.fired.clear()
    seen: Counter[str] = Counter()
    config = small_config(**SETTINGS, eval_at_start=False).callbacks(
        [Recorder, Recorder],
        on_episode_end=[lambda **kw: seen.update(["first"]), lambda **kw: seen.update(["second"])],
        on_episode_step=lambda episode, **kw: seen.update(["step"]),
    )
    algo = build(config)
    with pytest.raises(CallbackError):  # two recorders add one to each count of the episode
        algo.train()
    config = small_config(**SETTINGS, eval_at_start=False).callbacks(
        on_episode_end=[lambda **kw: seen.update(["first"]), lambda **kw: seen.update(["second"])],
        on_episode_step=lambda episode, **kw: seen.update(["step"]),
    )
    seen.clear()
    build(config).train()
    assert seen["first"] == seen["second"] == 4 and seen["step"] >= 4


def test_a_callback_that_raises_is_named_with_its_traceback(build):
    def count_turns(**kwargs):
        return {}["lost"]

    algo = build(small_config(**SETTINGS).callbacks(on_episode_step=count_turns))
    with pytest.raises(CallbackError, match=r"on_episode_step=count_turns raised KeyError") as told:
        algo.train()
    assert 'return {}["lost"]' in str(told.value)


def test_a_broken_episode_has_no_end(build):
    ended = []
    sound = small_config(**SETTINGS)
    tasks = build(sound)._requests.tasks.next(1)
    config = small_config(env=FAULTY_ENV, env_config={"faults": {tasks[0]: "step"}}, **SETTINGS)
    config.callbacks(on_episode_end=lambda episode, **kw: ended.append(episode))
    build(config).train()
    assert len(ended) == 2
    assert all(episode.custom_data["task_id"] != tasks[0] for episode in ended)


def test_a_run_with_callbacks_plays_what_one_without_plays(build):
    algos = [build(small_config(**SETTINGS)), build(small_config(**SETTINGS).callbacks(Recorder))]
    kept = [algo._sample_step().groups for algo in algos]
    assert kept[0].keys() == kept[1].keys()
    for number, group in kept[0].items():
        for one, other in zip(group.get(), kept[1][number].get(), strict=True):
            assert list(one.get_actions()) == list(other.get_actions())
