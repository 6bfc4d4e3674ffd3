"""The training step of every algorithm here: tasks, rollouts, update, verified weight sync."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from typing import Any, ClassVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EVALUATION_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from stepopsd_envs.text_files import json_line

from stepopsd_rllib.evaluation.success import (
    episode_metrics,
    error_rows,
    evaluation_metrics,
    evaluation_rows,
)
from stepopsd_rllib.rollout.callbacks import fire
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from stepopsd_rllib.sampling.sampler import NO_VERSION
from stepopsd_rllib.training.agent_config import AgentConfig
from stepopsd_rllib.training.checkpointed_algorithm import CheckpointedAlgorithm
from stepopsd_rllib.training.episode_requests import EpisodeRequests, evenly_spaced
from stepopsd_rllib.training.first_prompt import TASKS_TRIED, check_first_prompt, tasks_of
from stepopsd_rllib.training.group_sampling import Sampled, sample_groups
from stepopsd_rllib.training.learner_calls import ask_learners
from stepopsd_rllib.training.placement import sampler_dtype, shares_gpu
from stepopsd_rllib.training.runner_calls import RolloutError, Round
from stepopsd_rllib.training.sampled_group import Groups, dealt
from stepopsd_rllib.training.sampling_ahead import SamplingAhead
from stepopsd_rllib.training.step_batch import StepBatch
from stepopsd_rllib.training.usable_groups import enough_groups
from stepopsd_rllib.training.weight_sync import restart_runners, sync_weights

logger = logging.getLogger(__name__)

EVALUATION_FILE = "evaluation.jsonl"
ERRORS_FILE = "errors.jsonl"
CREDIT_FILE = "credit.jsonl"


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
        if "builds" not in vars(cls.config_class):
            cls.config_class.builds = (cls,)

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> AgentConfig:
        """A config of the class's own, with the defaults."""
        return cls.config_class(algo_class=cls)

    @override(Algorithm)
    def _set_up_metrics(self) -> None:
        """Checks a first prompt and syncs the initial weights, too.

        It is the last thing that RLlib's `setup` does before it says `on_algorithm_init`, which
        promises a finished algorithm.
        """
        super()._set_up_metrics()
        self._env = self.config.make_env()
        self._requests = EpisodeRequests(
            tasks_of(self._env, "train"),
            seed=self.config.seed,
            group_size=self.config.group_size,
        )
        split_tasks = tasks_of(self._env, self.config.eval_split)
        self._eval_tasks = evenly_spaced(split_tasks, self.config.eval_num_tasks)
        self._num_split_tasks = len(split_tasks)
        self._num_steps = 0  # training steps, whether they moved the weights or not
        self._num_updates = 0
        self._synced_version = NO_VERSION
        self._ahead = SamplingAhead[StepBatch]()
        self._learner_is_busy = threading.Lock()
        self._is_ending = False
        self._lifetime: Counter[str] = Counter()
        self._samplers: dict[int, str] = {}
        self._evaluation_at_start: dict[str, Any] | None = None
        tasks = self._requests.tasks
        first_tasks = tasks.next(min(TASKS_TRIED, len(tasks)))
        tasks.visited = 0
        check_first_prompt(self.config, self._env, first_tasks)
        self._sync()

    def __repr__(self) -> str:
        """The class's name; RLlib's reads the config, which a failed construction has not set."""
        return type(self).__name__

    @override(Algorithm)
    def training_step(self) -> None:
        """One step: sample groups, drop what is broken, update, sync."""
        if self._num_steps == 0 and self.config.eval_at_start and self.config.evaluation_interval:
            self._evaluation_at_start = self.evaluate()
        with _Timer(self, "sample"):
            batch = self._whole(self._ahead.take() or self._sample_step())
        self._log_rollouts(batch)
        groups = enough_groups(
            batch.groups, batch.episodes, counts=batch.counts, config=self.config
        )
        if self.config.off_policy_steps:
            self._sync_if_behind()
            self._ahead.start(self._sample_step)
        elif self.config.engine_sleeps():
            with _Timer(self, "sleep"):
                self.env_runner_group.foreach_env_runner(lambda runner: runner.sleep())
            self._synced_version = NO_VERSION  # an engine wakes up without weights
        with self._learner_is_busy:
            self._update(groups)
        if not self.config.off_policy_steps:
            self._sync_if_behind()
        self._log_counts()

    def _update(self, groups: Groups) -> None:
        with _Timer(self, "update"):
            results = self.learner_group.update(
                **self._training_data(groups),
                # What a learning-rate schedule counts: updates that are done after this one.
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self._num_updates + 1},
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self._num_steps += 1
        self._write_credit()
        self._count_update()

    def _training_data(self, groups: Groups) -> dict[str, Any]:
        """The groups as RLlib's learners take them: in this process, or by reference."""
        if self.learner_group.is_local:
            return {"episodes": [e for group in groups.values() for e in group.get()]}
        shares = dealt(groups, len(self.learner_group))
        return {"episodes_refs": [group.reference() for group in shares]}

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
        self._ahead.wait()  # the runners are the same
        self._sync_if_behind()
        requests = self._requests.for_evaluation(self._eval_tasks)
        self._fire("on_evaluate_start", metrics_logger=self.metrics)
        started = time.perf_counter()
        sampled = self._sample(requests, explore=False)
        episodes = [e for number in requests for e in sampled.groups[number].summaries]
        rows = evaluation_rows(episodes, iteration=self._num_steps, split=self.config.eval_split)
        self._append_lines(EVALUATION_FILE, rows)
        self._append_lines(ERRORS_FILE, error_rows(episodes, iteration=self._num_steps))
        metrics = evaluation_metrics(episodes, iteration=self._num_steps) | {
            "num_tasks": len(self._eval_tasks),
            "num_split_tasks": self._num_split_tasks,
            "seconds": time.perf_counter() - started,
        }
        if sampled.metrics:
            logged = MetricsLogger(root=True)
            logged.aggregate(sampled.metrics)
            metrics[ENV_RUNNER_RESULTS] = logged.reduce()
        self._fire("on_evaluate_end", metrics_logger=self.metrics, evaluation_metrics=metrics)
        return metrics

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Brings dead runners back; they sample only after they have the current weights."""
        if self._ahead.is_running:
            return []  # the thread that samples does
        return self._restore_dead_runners()

    def _restore_dead_runners(self) -> list[int]:
        restored = self.env_runner_group.probe_unhealthy_env_runners()
        return self._sync(runner_ids=restored) if restored else []

    @override(Algorithm)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Adds task cursor, counters and a batch that was sampled ahead to RLlib's state."""
        ahead = self._ahead.wait()  # it moves the cursor
        ahead = None if ahead is None else self._whole(ahead).fetched()
        return {
            **super().get_state(*args, **kwargs),
            **self._requests.get_state(),
            "num_steps": self._num_steps,
            "num_updates": self._num_updates,
            "lifetime": dict(self._lifetime),
            "sampled_ahead": ahead,
        }

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores task cursor and counters too, then syncs the restored weights, blocking."""
        self._ahead.drop()
        super().set_state(state)
        if "tasks" in state:
            self._requests.set_state(state)
            self._num_updates = state["num_updates"]
            self._num_steps = state.get("num_steps", self._num_updates)
            self._lifetime = Counter(state.get("lifetime", {}))
            if state.get("sampled_ahead") is not None:
                self._ahead.hold(state["sampled_ahead"])

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restores everything and verifies that every sampler has the restored weights."""
        super().restore_from_path(path, *args, **kwargs)
        self._sync()

    @override(Algorithm)
    def cleanup(self) -> None:
        """Ends runners and learners; a batch that is being sampled is not waited for."""
        self._is_ending = True
        super().cleanup()

    @classmethod
    @override(Algorithm)
    def _should_create_evaluation_env_runners(cls, eval_config: Any) -> bool:
        """Never: evaluation runs on the training runners, whose engines are there already."""
        return False

    def _sample_step(self) -> StepBatch:
        """The groups of one update; what is broken or without signal is left out and counted."""
        started = time.perf_counter()
        batch = StepBatch()
        rounds = self.config.dynamic_sampling_rounds if self.config.dynamic_sampling else 1
        for round_ in range(rounds):
            missing = self.config.groups_per_step - len(batch.groups)
            is_last = round_ == rounds - 1
            self._play(
                self._requests.for_training(missing),
                batch,
                drops_flat=self.config.dynamic_sampling and not is_last,
            )
            if len(batch.groups) >= self.config.groups_per_step:
                break
        batch.seconds = time.perf_counter() - started
        return batch

    def _play(
        self, requests: dict[int, list[EpisodeRequest]], batch: StepBatch, *, drops_flat: bool
    ) -> None:
        sampled = self._sample(requests, explore=True)
        self._requests.give_up(sampled.given_up)
        batch.add(requests, sampled, drops_flat=drops_flat)

    def _whole(self, batch: StepBatch) -> StepBatch:
        """The batch; groups that a machine took with it since they were played are played again."""
        while missing := batch.lost():
            logger.warning("%d groups were lost with the machine that held them.", len(missing))
            batch.drop(list(missing))
            self._play(missing, batch, drops_flat=False)
        return batch

    def _sample(self, requests: dict[int, list[EpisodeRequest]], *, explore: bool) -> Sampled:
        allowed = len(requests) - math.ceil(self.config.min_groups_fraction * len(requests))
        return sample_groups(
            self.env_runner_group,
            requests,
            explore=explore,
            version=lambda: self._synced_version,
            timeout_s=self.config.sample_timeout_s,
            max_given_up=allowed,
            restore_runners=self._restore_when_free,
        )

    def _restore_when_free(self, lost: Round) -> None:
        """Restores runners when the learners can be asked: after the update beside which they ran.

        The weights are newer then than those of the runners that were not lost; these get them too,
        so that what is left of the batch has one version.
        """
        with self._learner_is_busy:
            if self._is_ending:
                raise RolloutError("The algorithm was stopped.")
            self._restore_or_wait(lost)
            self._sync_if_behind()

    def _restore_or_wait(self, lost: Round) -> None:
        """Restores runners; where none is alive, waits for Ray to restart one."""
        if lost.silent:
            restart_runners(self.env_runner_group, lost.silent)
        if lost.stale:
            self._sync(runner_ids=lost.stale)
        deadline = time.monotonic() + self.config.env_runner_restore_timeout_s
        restored = self._restore_dead_runners()
        while self._all_runners_are_dead() and time.monotonic() < deadline:
            time.sleep(1.0)
            restored += self._restore_dead_runners()
        restored += [index for index in lost.stale if index]  # 0 is the local one: the same object
        if restored:
            self._fire(
                "on_env_runners_recreated",
                env_runner_group=self.env_runner_group,
                env_runner_indices=restored,
                is_evaluation=False,
            )

    def _fire(self, name: str, **arguments: Any) -> None:
        functions = getattr(self.config, f"callbacks_{name}")
        fire(name, force_list(self.callbacks), functions, algorithm=self, **arguments)

    def _all_runners_are_dead(self) -> bool:
        group = self.env_runner_group
        return group.num_remote_env_runners() > 0 and not group.healthy_env_runner_ids()

    def _sync(self, runner_ids: list[int] | None = None) -> list[int]:
        """Hands the weights to samplers; returns the numbers of the runners that have them."""
        if self.config.engine_sleeps():  # what the learner keeps for later is the engine's now
            ask_learners(self.learner_group, lambda learner: learner.release_memory())
        names = sync_weights(
            self.learner_group,
            self.env_runner_group,
            version=self._num_updates,
            runner_ids=runner_ids,
            timeout_s=self.config.weight_sync_timeout_s,
            dtype=sampler_dtype(self.config),
            shares_gpu=shares_gpu(self.config),
        )
        # Ray restarts a runner without a word: a call that is sent meanwhile waits for the new
        # process. Its sampler has another name.
        changed = [i for i, name in names.items() if self._samplers.get(i, name) != name]
        self._lifetime["runners_restarted"] += len(changed)
        self._samplers |= names
        if runner_ids is None:
            self._synced_version = self._num_updates
        return list(names)

    def _sync_if_behind(self) -> None:
        """Hands the weights to the samplers where they have others, or none."""
        if self._synced_version != self._num_updates:
            with _Timer(self, "weight_sync"):
                self._sync()

    def _log_rollouts(self, batch: StepBatch) -> None:
        episodes = batch.episodes
        if batch.metrics:
            self.metrics.aggregate(batch.metrics, key=ENV_RUNNER_RESULTS)
        self._append_lines(ERRORS_FILE, error_rows(episodes, iteration=self._num_steps))
        if self.config.off_policy_steps:
            self._log_seconds("sample_ahead", batch.seconds)
        metrics: dict[str, Any] = {**episode_metrics(episodes), **batch.counts}
        for errors in ("tool_error", "environment_error"):
            for kind, count in metrics.pop(errors, {}).items():
                self._lifetime[f"{errors}/{kind}"] += count
        metrics["runners_restarted_lifetime"] = self._lifetime["runners_restarted"]
        metrics["tasks_skipped_lifetime"] = self._requests.num_skipped
        for name, count in self._lifetime.items():
            errors, is_error, kind = name.partition("/")
            if is_error:
                metrics.setdefault(f"{errors}_lifetime", {})[kind] = count
        self.metrics.log_dict(metrics, key=ENV_RUNNER_RESULTS, reduce="mean", window=1)
        num_turns = sum(e.num_turns for e in episodes if e.status.is_outcome)
        self.metrics.log_value(
            (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), num_turns, reduce="lifetime_sum"
        )

    def _count_update(self) -> None:
        """The version of the weights now; an update that left them as they were is none."""
        version = max(ask_learners(self.learner_group, lambda learner: learner.num_updates))
        self._lifetime["updates_left_out"] += version == self._num_updates
        self._num_updates = version

    def _log_counts(self) -> None:
        counts = {
            "num_updates_lifetime": self._num_updates,
            "updates_left_out_lifetime": self._lifetime["updates_left_out"],
        }
        self.metrics.log_dict(counts, reduce="mean", window=1)
        self.metrics.log_value(
            (ENV_RUNNER_RESULTS, "runners_restarted_lifetime"),
            self._lifetime["runners_restarted"],
            reduce="mean",
            window=1,
        )

    def _write_credit(self) -> None:
        """Appends the learners' samples of token credit, where the algorithm takes any."""
        records = ask_learners(self.learner_group, lambda learner: learner.take_credit_records())
        self._append_lines(CREDIT_FILE, [row for rows in records for row in rows])

    def _log_seconds(self, name: str, seconds: float) -> None:
        self.metrics.log_value(("timers", name), seconds, reduce="mean", window=1)

    def _append_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Appends rows to a JSON-lines file of the run folder."""
        if rows:
            with (self.run_folder() / name).open("a", encoding="utf-8") as file:
                file.writelines(json_line(row) for row in rows)


class _Timer:
    """Logs the seconds of a part of the step under `timers/<name>`, unsmoothed."""

    def __init__(self, algorithm: AgentAlgorithm, name: str):
        self._algorithm, self._name = algorithm, name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._algorithm._log_seconds(self._name, time.perf_counter() - self._started)
