"""The training step of every algorithm here: tasks, rollouts, update, verified weight sync."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EVALUATION_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)
from stepopsd_envs.text_files import json_line

from stepopsd_rllib.episodes import AgentEpisode, from_rllib
from stepopsd_rllib.evaluation.success import (
    episode_metrics,
    error_rows,
    evaluation_metrics,
    evaluation_rows,
)
from stepopsd_rllib.objectives.advantages import is_informative
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from stepopsd_rllib.training.agent_config import AgentConfig
from stepopsd_rllib.training.checkpointed_algorithm import CheckpointedAlgorithm
from stepopsd_rllib.training.first_prompt import check_first_prompt, tasks_of
from stepopsd_rllib.training.group_sampling import Groups, RolloutError, sample_groups
from stepopsd_rllib.training.placement import sampler_dtype
from stepopsd_rllib.training.task_cursor import TaskCursor
from stepopsd_rllib.training.weight_sync import sync_weights

logger = logging.getLogger(__name__)

EVALUATION_FILE = "evaluation.jsonl"
ERRORS_FILE = "errors.jsonl"
CREDIT_FILE = "credit.jsonl"
_EVALUATION_GROUP = 1 << 40


class AgentAlgorithm(CheckpointedAlgorithm):
    """Samples groups of episodes, updates on whole groups, hands verified weights to samplers."""

    config_class: ClassVar[type[AgentConfig]] = AgentConfig
    """The config that builds the algorithm."""
    config: Any  # RLlib declares the three as optional, and of its own base classes
    learner_group: Any
    env_runner_group: Any

    def __init_subclass__(cls, **kwargs: Any):
        """Tells the config which algorithm it builds."""
        super().__init_subclass__(**kwargs)
        if "algorithm" not in vars(cls.config_class):
            cls.config_class.algorithm = cls

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> AgentConfig:
        """A config of the class's own, with the defaults."""
        return cls.config_class(algo_class=cls)

    @override(Algorithm)
    def setup(self, config: Any) -> None:
        """Builds runners and learners, checks a first prompt, syncs the initial weights."""
        super().setup(config)
        self._env = self.config.make_env()
        self._tasks = TaskCursor(tasks_of(self._env, "train"), seed=self.config.seed)
        split_tasks = tasks_of(self._env, self.config.eval_split)
        self._eval_tasks = evenly_spaced(split_tasks, self.config.eval_num_tasks)
        self._num_split_tasks = len(split_tasks)
        self._num_updates = 0
        self._num_groups_sampled = 0
        self._evaluation_at_start: dict[str, Any] | None = None
        check_first_prompt(self.config, self._env, self._tasks.next(1)[0])
        self._tasks.visited -= 1
        self._sync()

    def __repr__(self) -> str:
        """The class's name; RLlib's reads the config, which a failed construction has not set."""
        return type(self).__name__

    @override(Algorithm)
    def training_step(self) -> None:
        """One step: sample groups, drop what is broken, update, sync."""
        if self._num_updates == 0 and self.config.eval_at_start and self.config.evaluation_interval:
            self._evaluation_at_start = self.evaluate()
        with _Timer(self, "sample"):
            groups = self._sample_step()
        with _Timer(self, "update"):
            results = self.learner_group.update(
                episodes_refs=[ray.put(episodes) for episodes in groups.values()],
                # What a learning-rate schedule counts: updates that are done after this one.
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self._num_updates + 1},
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self._num_updates += 1
        self._write_credit()
        with _Timer(self, "weight_sync"):
            self._sync()

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """One iteration; the first one's results hold the evaluation before any update."""
        self._evaluation_at_start = None
        results = super().step()
        if self._evaluation_at_start is not None:
            results.setdefault(EVALUATION_RESULTS, self._evaluation_at_start)
        return results

    @override(Algorithm)
    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Plays every evaluation task once on the training runners, at the evaluation temperature.

        Returns:
            Metrics with counts and Wilson intervals; each task's outcome is appended to
            `evaluation.jsonl`.
        """
        del parallel_train_future
        requests = {
            _EVALUATION_GROUP + i: [
                EpisodeRequest(
                    task_id=task,
                    group=_EVALUATION_GROUP + i,
                    rollout=0,
                    seed=self._seed(i, 0, evaluation=True),
                )
            ]
            for i, task in enumerate(self._eval_tasks)
        }
        started = time.perf_counter()
        groups, _ = self._sample(requests, explore=False)
        episodes = [from_rllib(episode) for number in requests for episode in groups[number]]
        rows = evaluation_rows(episodes, iteration=self._num_updates, split=self.config.eval_split)
        self._append_lines(EVALUATION_FILE, rows)
        self._append_lines(ERRORS_FILE, error_rows(episodes, iteration=self._num_updates))
        metrics = evaluation_metrics(episodes, iteration=self._num_updates)
        return metrics | {
            "num_tasks": len(self._eval_tasks),
            "num_split_tasks": self._num_split_tasks,
            "seconds": time.perf_counter() - started,
        }

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Brings dead runners back; they sample only after they have the current weights."""
        restored = env_runner_group.probe_unhealthy_env_runners()
        if restored:
            self._counters["total_num_restored_workers"] += len(restored)
            self._sync(runner_ids=restored)
        return restored

    @override(Algorithm)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Adds task cursor and counters to RLlib's state."""
        return {
            **super().get_state(*args, **kwargs),
            "tasks": self._tasks.get_state(),
            "num_updates": self._num_updates,
            "num_groups_sampled": self._num_groups_sampled,
        }

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores task cursor and counters too, then syncs the restored weights, blocking."""
        super().set_state(state)
        if "tasks" in state:
            self._tasks.set_state(state["tasks"])
            self._num_updates = state["num_updates"]
            self._num_groups_sampled = state["num_groups_sampled"]

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restores everything and verifies that every sampler has the restored weights."""
        super().restore_from_path(path, *args, **kwargs)
        self._sync()

    @classmethod
    @override(Algorithm)
    def _should_create_evaluation_env_runners(cls, eval_config: Any) -> bool:
        """Never: evaluation runs on the training runners, whose engines are there already."""
        return False

    def _sample_step(self) -> Groups:
        """The groups of one update; what is broken or without signal is dropped and counted."""
        kept: Groups = {}
        episodes: list[AgentEpisode] = []
        counts = {"groups_lost": 0, "groups_broken": 0, "groups_without_signal": 0}
        rounds = self.config.dynamic_sampling_rounds if self.config.dynamic_sampling else 1
        for round_ in range(rounds):
            missing = self.config.groups_per_step - len(kept)
            groups, lost = self._sample(self._training_requests(missing), explore=True)
            counts["groups_lost"] += lost
            is_last = round_ == rounds - 1
            for number, group in groups.items():
                records = [from_rllib(episode) for episode in group]
                episodes += records
                usable = [
                    e for e, record in zip(group, records, strict=True) if record.is_trainable
                ]
                if len(usable) < 2:
                    counts["groups_broken"] += 1
                elif self.config.dynamic_sampling and not is_last and _is_flat(usable):
                    counts["groups_without_signal"] += 1
                else:
                    kept[number] = usable
            if len(kept) >= self.config.groups_per_step:
                break
        self._log_rollouts(episodes, counts)
        self._append_lines(ERRORS_FILE, error_rows(episodes, iteration=self._num_updates))
        return self._require_groups(kept, counts, episodes)

    def _require_groups(
        self, kept: Groups, counts: dict[str, int], episodes: list[AgentEpisode]
    ) -> Groups:
        """Raises when too few groups are left; makes their number divide over the learners."""
        num_learners = max(1, self.config.num_learners)
        # Every learner needs a group, and groups are never cut.
        needed = max(
            num_learners, math.ceil(self.config.min_groups_fraction * self.config.groups_per_step)
        )
        if len(kept) < needed:
            errors = sorted({f"{e.status}: {e.error}" for e in episodes if e.error})[:3]
            raise RolloutError(
                f"{len(kept)} of {self.config.groups_per_step} groups are usable, "
                f"config.min_groups_fraction={self.config.min_groups_fraction} needs {needed} "
                f"({counts}). First errors: {errors or 'none'}."
            )
        surplus = len(kept) % num_learners
        for number in list(kept)[len(kept) - surplus :]:
            del kept[number]
        return kept

    def _training_requests(self, num_groups: int) -> dict[int, list[EpisodeRequest]]:
        requests = {}
        for task in self._tasks.next(num_groups):
            group = self._num_groups_sampled
            self._num_groups_sampled += 1
            requests[group] = [
                EpisodeRequest(task_id=task, group=group, rollout=i, seed=self._seed(group, i))
                for i in range(self.config.group_size)
            ]
        return requests

    def _sample(
        self, requests: dict[int, list[EpisodeRequest]], *, explore: bool
    ) -> tuple[Groups, int]:
        return sample_groups(
            self.env_runner_group,
            requests,
            explore=explore,
            version=self._num_updates,
            timeout_s=self.config.sample_timeout_s,
            restore_runners=self._restore_or_wait,
        )

    def _restore_or_wait(self, stale: Sequence[int]) -> None:
        """Restores runners; where none is alive, waits for Ray to restart one.

        Args:
            stale: Runners that Ray restarted unseen: alive, but on other weights.
        """
        if stale:
            self._counters["total_num_restored_workers"] += len(stale)
            self._sync(runner_ids=list(stale))
        deadline = time.monotonic() + self.config.env_runner_restore_timeout_s
        self.restore_env_runners(self.env_runner_group)
        while not self.env_runner_group.healthy_env_runner_ids() and time.monotonic() < deadline:
            time.sleep(1.0)
            self.restore_env_runners(self.env_runner_group)

    def _sync(self, runner_ids: list[int] | None = None) -> None:
        sync_weights(
            self.learner_group,
            self.env_runner_group,
            version=self._num_updates,
            runner_ids=runner_ids,
            timeout_s=self.config.weight_sync_timeout_s,
            dtype=sampler_dtype(self.config),
        )

    def _seed(self, group: int, rollout: int, *, evaluation: bool = False) -> int:
        """A seed of 32 bits that depends on the run's seed, the group and the rollout alone."""
        return int(
            np.random.SeedSequence(
                [self.config.seed, int(evaluation), group, rollout]
            ).generate_state(1)[0]
        )

    def _log_rollouts(self, episodes: list[AgentEpisode], counts: dict[str, int]) -> None:
        metrics: dict[str, Any] = {**episode_metrics(episodes), **counts}
        for status, count in metrics.pop("tool_error", {}).items():
            self.metrics.log_value(
                (ENV_RUNNER_RESULTS, "tool_error_lifetime", status), count, reduce="lifetime_sum"
            )
        metrics["runners_restarted_lifetime"] = self._counters["total_num_restored_workers"]
        self.metrics.log_dict(metrics, key=ENV_RUNNER_RESULTS, reduce="mean", window=1)
        num_turns = sum(len(episode.turns) for episode in episodes)
        self.metrics.log_value(
            (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), num_turns, reduce="lifetime_sum"
        )

    def _write_credit(self) -> None:
        """Appends the learners' samples of token credit, where the algorithm takes any."""
        results = self.learner_group.foreach_learner(lambda learner: learner.take_credit_records())
        self._append_lines(
            CREDIT_FILE, [row for result in results.ignore_errors() for row in result.get()]
        )

    def _append_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Appends rows to a JSON-lines file of the run folder."""
        if rows:
            with (self.run_folder() / name).open("a", encoding="utf-8") as file:
                file.writelines(json_line(row) for row in rows)


def evenly_spaced(tasks: Sequence[str], count: int | None) -> tuple[str, ...]:
    """At most `count` tasks, evenly spaced over a sorted list, so that no task type is left out."""
    if count is None or count >= len(tasks):
        return tuple(tasks)
    return tuple(tasks[i * len(tasks) // count] for i in range(count))


def _is_flat(group: list[SingleAgentEpisode]) -> bool:
    returns_N = torch.tensor([episode.get_return() for episode in group], dtype=torch.float64)
    return not is_informative(returns_N, torch.zeros(len(group), dtype=torch.int64)).any()


class _Timer:
    """Logs the seconds of a part of the step under `timers/<name>`, unsmoothed."""

    def __init__(self, algorithm: AgentAlgorithm, name: str):
        self._algorithm, self._name = algorithm, name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._started
        self._algorithm.metrics.log_value(("timers", self._name), seconds, reduce="mean", window=1)
