"""What the driver of a large run costs: its seconds and bytes a step, of up to 256 runners.

    python benchmarks/scale.py [--only NAME ...] [--steps 3]

The driver is the real one: task order, calls to runners, metrics, dealing out to learners, weight
sync, RLlib's actor managers, Ray's object store. Runners and learners are stand-ins
(`benchmarks/scale_parts.py`): they hand over episodes of true size, make rows and advantages with
the package's connectors, and sleep for the time that stated GPUs would take; many share a process,
as this is made for a laptop. A step is 128 groups of 8 episodes of 20,000 tokens.

`driver CPU` is all processor time of the driver's process, Ray's threads in it included. It is
compared with the step of the stated GPUs, which the stand-ins run faster than, so that a row takes
seconds. `in` and `out` are what the driver unpickles and pickles.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray._private.serialization import SerializationContext
from ray.rllib.utils.actor_manager import FaultTolerantActorManager
from scale_parts import (
    Pace,
    StandInLearner,
    StandInRunner,
    hosted,
    sampling_seconds,
    update_seconds,
)

from stepopsd_rllib import GRPOConfig

GROUPS, GROUP_SIZE = 128, 8
ROW_SECONDS = 6.0  # for which stand-ins sleep in a step
GOAL = 0.03
WEIGHTS_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One row of the table.

    Attributes:
        runners: How many.
        learners: How many.
        is_uneven: Whether a runner is four times slower than the others.
        dying: Runners that are killed in every step while they sample.
    """

    runners: int
    learners: int
    is_uneven: bool = False
    dying: int = 0

    def stated_seconds(self) -> float:
        """Of a step on the stated GPUs: sampling, then the update."""
        groups = -(-GROUPS // self.runners)
        slowness = Pace(speed=1.0).slowness if self.is_uneven else 1.0
        update = update_seconds(-(-GROUPS // self.learners) * GROUP_SIZE)
        return sampling_seconds(groups * GROUP_SIZE) * slowness + update


CASES = {
    "1 runner, 1 learner": Case(runners=1, learners=1),
    "8 runners, 1 learner": Case(runners=8, learners=1),
    "64 runners, 8 learners": Case(runners=64, learners=8),
    "256 runners, 32 learners": Case(runners=256, learners=32),
    "256, one four times slower": Case(runners=256, learners=32, is_uneven=True),
    "64, two die in every step": Case(runners=64, learners=8, dying=2),
}


class Bytes:
    """What this process pickles and unpickles through Ray."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        unpickle, pickle = SerializationContext.deserialize_objects, SerializationContext.serialize

        def deserialize_objects(context: Any, objects: Any, *args: Any, **kwargs: Any) -> Any:
            self.count["in"] += sum(len(data) for data, *_ in objects if data is not None)
            return unpickle(context, objects, *args, **kwargs)

        def serialize(context: Any, value: Any) -> Any:
            made = pickle(context, value)
            self.count["out"] += made.total_bytes
            return made

        setattr(SerializationContext, "deserialize_objects", deserialize_objects)  # noqa: B010
        setattr(SerializationContext, "serialize", serialize)  # noqa: B010


def small_algorithm() -> Any:
    """The real algorithm on the embedded model, before its runners and learners are exchanged."""
    config = GRPOConfig().environment("stepopsd/ALFWorld-v0", env_config={"size": "tiny"})
    config.agent(
        model="tiny",
        sampler="transformers",
        groups_per_step=GROUPS,
        group_size=GROUP_SIZE,
        max_sampler_difference=None,
        weight_sync_timeout_s=WEIGHTS_TIMEOUT_S,
    )
    config.env_runners(num_env_runners=0).learners(num_learners=0)
    config.training(kl_coeff=0.0).evaluation(evaluation_interval=None)
    return config.build_algo()


def exchange(algorithm: Any, case: Case, pace: Pace, processes: int) -> dict[int, Any]:
    """Puts stand-ins in the place of runners and learners; the runners that are to die."""
    make = functools.partial(StandInRunner, pace=pace)
    numbers = range(1, case.runners + 1)
    own = ray.remote(num_cpus=0, max_restarts=-1)(StandInRunner)
    dying = {number: own.remote(number, pace) for number in list(numbers)[: case.dying]}
    rest = [number for number in numbers if number not in dying]
    runners = dying | hosted(make, rest, processes=processes)
    learners = hosted(
        functools.partial(StandInLearner, pace=pace), range(case.learners), processes=processes
    )
    manager = functools.partial(
        FaultTolerantActorManager, max_remote_requests_in_flight_per_actor=2
    )
    algorithm.env_runner_group._worker_manager = manager(list(runners.values()), init_id=1)
    group = algorithm.learner_group
    algorithm.config = group.config = algorithm.config.copy(copy_frozen=False)
    group.config.num_learners = case.learners
    group._worker_manager = manager(list(learners.values()))
    group._workers = list(learners.values())
    algorithm._num_updates = 0
    algorithm._sync()
    return dying


def killed(dying: dict[int, Any], after_s: float) -> None:
    """Kills runners while they sample; Ray starts them again."""

    def kill() -> None:
        time.sleep(after_s)
        for actor in dying.values():
            ray.kill(actor, no_restart=False)

    threading.Thread(target=kill, daemon=True).start()


def all_back(algorithm: Any, count: int) -> None:
    """Restores killed runners, as RLlib does after a step; waits until they are there."""
    deadline = time.monotonic() + 60
    while len(algorithm.env_runner_group.healthy_env_runner_ids()) < count:
        assert time.monotonic() < deadline, "killed runners do not come back"
        algorithm.restore_env_runners(algorithm.env_runner_group)


def measure(name: str, case: Case, options: argparse.Namespace, traffic: Bytes) -> None:
    """Prints a row: the medians of some steps."""
    stated = case.stated_seconds()
    slow = case.runners if case.is_uneven else 0
    pace = Pace(speed=stated / ROW_SECONDS, slow_runner=slow)
    algorithm = small_algorithm()
    dying = exchange(algorithm, case, pace, options.processes)
    rows: list[tuple[float, float, float, float]] = []
    lost = 0
    for step in range(options.steps + 1):
        if dying:
            all_back(algorithm, case.runners)
            killed(dying, 0.25 * ROW_SECONDS)
        traffic.count.clear()
        wall, processor = time.perf_counter(), time.process_time()
        algorithm.training_step()
        spent = time.process_time() - processor
        if step:  # the first one imports what it needs
            found = (time.perf_counter() - wall, spent, traffic.count["in"], traffic.count["out"])
            rows.append(found)
            lost += int(algorithm.metrics.peek(("env_runners", "groups_lost")))
    wall_s, driver_s, came, went = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"| {name} | {stated:.0f} | {driver_s:.2f} | {driver_s / stated:.1%} | {came / 2**20:.1f} "
        f"| {went / 2**20:.1f} | {lost / len(rows):.0f} | {wall_s:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--steps", type=int, default=3, help="measured, after one that is not")
    parser.add_argument(
        "--processes", type=int, default=4, help="that runners share; learners, too"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    traffic = Bytes()
    print(
        f"{GROUPS * GROUP_SIZE:,} episodes a step; goal: driver at most {GOAL:.0%} of the step\n"
        "| | step on stated GPUs, s | driver CPU, s | share | in, MiB | out, MiB | groups lost "
        "| wall here, s |\n|---|--:|--:|--:|--:|--:|--:|--:|",
        flush=True,
    )
    for name in options.only:
        ray.init(
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=2 * 2**30,
        )
        measure(name, CASES[name], options, traffic)
        ray.shutdown()


if __name__ == "__main__":
    main()
