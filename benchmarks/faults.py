"""Injects faults while a run trains, one an iteration, and prints what each of them cost.

    python benchmarks/faults.py --rounds 3 --seed 0

Every round injects each kind once, in a seeded order, into a run of GRPO on tiny ALFWorld with two
env runners. Between faults the run trains on; the table says what was lost and how long it took.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from stepopsd_envs.alfworld.env import ALFWorldEnv

from stepopsd_rllib import GRPO, GRPOConfig

GROUPS, GROUP_SIZE = 4, 2
ENV_TIMEOUT_S, SAMPLER_TIMEOUT_S, SAMPLE_TIMEOUT_S = 2.0, 5.0, 20.0
WRONG_WEIGHTS_NATS = 1e-3  # more between sampler and learner, and they do not have the same weights
RECOVERY_S = 180.0  # most that a run may take until both runners are back
HUGE = 10 * 2**20  # characters


class FaultyHouse(ALFWorldEnv):
    """A house that misbehaves once for every order that lies in a folder."""

    thread_safe = True

    def __init__(self, *, orders: str, **kwargs: Any):
        """Keeps the folder; an order to die at the start is obeyed at once."""
        super().__init__(**kwargs)
        self.orders = Path(orders)
        if self._ordered("die_at_start"):
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self, action: str) -> Any:
        """Plays a turn, or obeys an order."""
        observation, reward, terminated, truncated, info = super().step(action)
        if self._ordered("game_raises"):
            raise RuntimeError("the simulator died")
        if self._ordered("game_exits"):
            raise SystemExit(1)
        if self._ordered("game_hangs"):
            time.sleep(3600)
        if self._ordered("game_answers_10_mb"):
            observation = "x" * HUGE
        if self._ordered("reward_is_nan"):
            reward = math.nan
        if self._ordered("retriever_breaks"):
            return "", 0.0, False, True, info | {"tool_error": "refused: no retriever"}
        return observation, reward, terminated, truncated, info

    def _ordered(self, order: str) -> bool:
        try:
            (self.orders / order).unlink()
        except FileNotFoundError:
            return False
        return True


@dataclass
class Cost:
    """What the faults of one kind did."""

    injected: int = 0
    survived: int = 0
    lost_reported: int = 0
    lost_unreported: int = 0
    wrong_weights: int = 0
    seconds: list[float] = field(default_factory=list)


class FaultyRun:
    """A run, the faults that it can be given, and what it says of them."""

    def __init__(self, folder: Path):
        """Builds a run with two env runners."""
        self.orders = folder / "orders"
        self.orders.mkdir()
        config = GRPOConfig().environment(
            FaultyHouse,
            env_config={
                "orders": str(self.orders),
                "size": "tiny",
                "think": "off",
                "instructions": False,
                "show_admissible_commands": False,
                "max_turns": 4,
            },
        )
        config.agent(
            sampler="transformers",
            group_size=GROUP_SIZE,
            groups_per_step=GROUPS,
            max_response_tokens=12,
            max_context_tokens=512,
            eval_num_tasks=1,
            env_timeout_s=ENV_TIMEOUT_S,
            sampler_timeout_s=SAMPLER_TIMEOUT_S,
            weight_sync_timeout_s=SAMPLE_TIMEOUT_S,
        )
        config.training(lr=1e-5, kl_coeff=0.0, entropy_coeff=0.01)
        config.env_runners(
            num_env_runners=2, num_cpus_per_env_runner=0.5, sample_timeout_s=SAMPLE_TIMEOUT_S
        )
        self.algorithm = GRPO(config=config)
        self.kinds: dict[str, Callable[[], None]] = {
            "kill -9 of a runner while sampling": lambda: self._signal(signal.SIGKILL),
            "kill -9 of a runner while loading weights": self._kill_while_loading,
            "kill -9 of a runner while starting": self._kill_while_starting,
            "SIGSTOP of a runner, longer than the timeout": lambda: self._signal(signal.SIGSTOP),
            "engine raises in step": lambda: self._spoil_engine("raises"),
            "engine hangs in step": lambda: self._spoil_engine("hangs"),
            "NaN loss": self._spoil_loss,
            **{
                kind.replace("_", " "): lambda order=kind: self._order(order)
                for kind in (
                    "game_raises",
                    "game_exits",
                    "game_hangs",
                    "game_answers_10_mb",
                    "reward_is_nan",
                    "retriever_breaks",
                )
            },
        }

    def train(self) -> Mapping[str, Any]:
        """One iteration."""
        return self.algorithm.train()

    def is_whole(self) -> bool:
        """Whether both runners are in service."""
        return self.algorithm.env_runner_group.num_healthy_remote_env_runners() == 2

    def close(self) -> None:
        """Ends the run, and what was left stopped."""
        self.algorithm.stop()

    def _on_a_runner(self, call: Callable[[Any], Any]) -> Any:
        group = self.algorithm.env_runner_group
        index = random.choice(group.healthy_env_runner_ids())
        return group.foreach_env_runner(call, local_env_runner=False, remote_worker_ids=[index])[0]

    def _order(self, order: str) -> None:
        (self.orders / order).touch()

    def _signal(self, number: int) -> None:
        pid = self._on_a_runner(lambda runner: os.getpid())

        def send() -> None:
            time.sleep(random.uniform(0.05, 0.3))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

        threading.Thread(target=send, daemon=True).start()

    def _kill_while_loading(self) -> None:
        def spoil(runner: Any) -> None:
            runner.load_weights = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

        self._on_a_runner(spoil)

    def _kill_while_starting(self) -> None:
        self._order("die_at_start")
        self._signal(signal.SIGKILL)

    def _spoil_engine(self, how: str) -> None:
        def spoil(runner: Any) -> None:
            engine = runner._sampler._sampler

            def step() -> Any:
                del engine.step
                if how == "hangs":
                    time.sleep(3600)
                raise RuntimeError("the kernel is gone")

            engine.step = step

        self._on_a_runner(spoil)

    def _spoil_loss(self) -> None:
        learner = self.algorithm.learner_group._learner
        sound = learner.compute_loss_for_module

        def nan_loss(**arguments: Any) -> Any:
            del learner.compute_loss_for_module
            return sound(**arguments) * math.nan

        learner.compute_loss_for_module = nan_loss


def observe(cost: Cost, result: Mapping[str, Any]) -> None:
    """Adds what an iteration says of its losses."""
    rollouts, learner = result["env_runners"], result["learners"]["default_policy"]
    cost.lost_reported += int(rollouts["groups_lost"] + rollouts["groups_broken"])
    told = sum(rollouts["status"].values())
    cost.lost_unreported += math.ceil((GROUPS * GROUP_SIZE - told) / GROUP_SIZE)
    cost.wrong_weights += learner["sampler_log_prob_difference_max"] > WRONG_WEIGHTS_NATS


def run(*, rounds: int, seed: int, kinds: list[str] | None = None) -> dict[str, Cost]:
    """Injects every kind once a round.

    Args:
        rounds: How often.
        seed: Of the order, the moments and the runners.
        kinds: Only these, by default all.
    """
    random.seed(seed)
    costs: dict[str, Cost] = defaultdict(Cost)
    with tempfile.TemporaryDirectory() as folder:
        faulty = FaultyRun(Path(folder))
        began = time.perf_counter()
        sound = statistics.median(_timed(faulty)[0] for _ in range(3))
        for _ in range(rounds):
            order = list(kinds or faulty.kinds)
            random.shuffle(order)
            for kind in order:
                cost = costs[kind]
                faulty.kinds[kind]()
                cost.injected += 1
                spent, num_iterations, since = 0.0, 0, time.perf_counter()
                # Two at least: a fault in loading strikes after sampling.
                while num_iterations < 2 or not faulty.is_whole():
                    seconds, result = _timed(faulty)
                    observe(cost, result)
                    spent += seconds - sound
                    num_iterations += 1
                    if time.perf_counter() - since > RECOVERY_S:
                        break
                cost.survived += faulty.is_whole()
                cost.seconds.append(max(0.0, spent))
                print(f"{time.perf_counter() - began:6.0f} s  {kind}", flush=True)
        faulty.close()
    return dict(costs)


def _timed(faulty: FaultyRun) -> tuple[float, Mapping[str, Any]]:
    began = time.perf_counter()
    result = faulty.train()
    return time.perf_counter() - began, result


def table(costs: Mapping[str, Cost]) -> str:
    """The costs as a Markdown table."""
    lines = [
        "| fault | injected | survived | lost groups, reported | unreported "
        "| wrong-weight updates | seconds to recover, median (worst) |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, cost in sorted(costs.items()):
        median, worst = statistics.median(cost.seconds), max(cost.seconds)
        lines.append(
            f"| {kind} | {cost.injected} | {cost.survived} | {cost.lost_reported} | "
            f"{cost.lost_unreported} | {cost.wrong_weights} | {median:.1f} ({worst:.1f}) |"
        )
    whole = Cost()
    for cost in costs.values():
        for name in ("injected", "survived", "lost_reported", "lost_unreported", "wrong_weights"):
            setattr(whole, name, getattr(whole, name) + getattr(cost, name))
    lines.append(
        f"| **all** | {whole.injected} | {whole.survived} | {whole.lost_reported} | "
        f"{whole.lost_unreported} | {whole.wrong_weights} | |"
    )
    return "\n".join(lines)


def main() -> None:
    """Runs the faults and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", help="only these; by default all")
    arguments = parser.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("stepopsd_rllib").setLevel(logging.ERROR)
    print(table(run(rounds=arguments.rounds, seed=arguments.seed, kinds=arguments.kinds)))


if __name__ == "__main__":
    main()
