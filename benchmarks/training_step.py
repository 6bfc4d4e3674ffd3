"""Where the time of a training step goes; how much is neither model arithmetic nor engine.

    python benchmarks/training_step.py [--sampler vllm] [--iterations 5] [--set KEY=VALUE ...]

Runs the tiny GRPO example on ALFWorld with runner and learner in one process, so that every part
can be timed where it happens. The clock stands around whole calls; a part that calls another one is
charged for its own share alone. Environments step in threads beside the engine: `env steps` is what
they take there, and is no part of the sum.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

from stepopsd_rllib.commands import tuned
from stepopsd_rllib.connectors.row_log_probs import RowLogProbs
from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.rollout import turn_loop
from stepopsd_rllib.rollout.env_runner import TextEnvRunner
from stepopsd_rllib.training.learner import TokenLearner

EXAMPLE = Path(__file__).parent.parent / "tuned_examples" / "grpo" / "alfworld_tiny.yaml"
MODEL_AND_ENGINE = ("engine", "forward", "backward", "optimizer", "weight load")
GOAL = 0.15


class Clock:
    """Seconds by part; what an inner part takes is not charged to the outer one."""

    def __init__(self) -> None:
        """Starts at 0; belongs to the thread that makes it."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._thread = threading.get_ident()
        self._inner = [0.0]

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its own time charged to `part`; to `env steps` in other threads."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            if threading.get_ident() != self._thread:
                try:
                    return function(*args, **kwargs)
                finally:
                    self.seconds["env steps"] += time.perf_counter() - begin
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                total = time.perf_counter() - begin
                self.seconds[part] += total - self._inner.pop()
                self._inner[-1] += total

        return call

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Times a method of a class, an object or a module from now on."""
        setattr(owner, name, self.timed(part, getattr(owner, name)))


def instrument(clock: Clock, algorithm: Any) -> None:
    sampler = algorithm.env_runner_group.local_env_runner._sampler
    for name in ("step", "submit"):
        clock.wrap(sampler, name, "engine")
    clock.wrap(sampler, "load_weights", "weight load")
    clock.wrap(turn_loop, "_reset", "env steps")
    clock.wrap(turn_loop, "_step", "env steps")
    for name in ("first_prompt", "continuation", "text"):
        clock.wrap(ChatFormat, name, "tokenising")
    clock.wrap(TextEnvRunner, "sample", "turn loop")
    learner = algorithm.learner_group._learner
    clock.wrap(CausalLMModule, "score", "forward")
    clock.wrap(torch.Tensor, "backward", "backward")
    clock.wrap(learner, "_clip_and_step", "optimizer")
    clock.wrap(TokenLearner, "_update", "loss and micro-batches")
    clock.wrap(type(learner._learner_connector), "__call__", "connectors")
    for piece in learner._learner_connector.connectors:
        if not isinstance(piece, RowLogProbs):
            clock.wrap(type(piece), "__call__", f"connector {type(piece).__name__}")
    clock.wrap(algorithm, "_sample_step", "groups and metrics")
    clock.wrap(algorithm, "_sync", "weight sync")
    clock.wrap(algorithm, "training_step", "rest of the step")


def report(clock: Clock, iterations: int, wall: list[float]) -> float:
    """Prints milliseconds an iteration by part; returns the share that is overhead."""
    beside = clock.seconds.pop("env steps", 0.0)
    total = sum(wall)
    clock.seconds["RLlib around the step"] = total - sum(clock.seconds.values())
    for part, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        mark = "" if part in MODEL_AND_ENGINE else "  *"
        print(f"{part:>34}: {1e3 * seconds / iterations:9.1f} ms {seconds / total:7.1%}{mark}")
    print(
        f"{'env steps, in threads':>34}: {1e3 * beside / iterations:9.1f} ms {beside / total:7.1%}"
    )
    overhead = 1 - sum(clock.seconds[part] for part in MODEL_AND_ENGINE) / total
    print(
        f"one iteration {statistics.median(wall):.2f} s (median of {iterations}); neither model "
        f"arithmetic nor engine (*): {overhead:.1%}, goal at most {GOAL:.0%}"
    )
    return overhead


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sampler", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    example = tuned.read(EXAMPLE, options.overrides)
    (config,) = tuned.configs(example)
    config.sampler, config.evaluation_interval = options.sampler, None
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm = config.build_algo()
    algorithm.train()  # the first one warms up
    clock = Clock()
    instrument(clock, algorithm)
    wall = []
    for _ in range(options.iterations):
        begin = time.perf_counter()
        algorithm.train()
        wall.append(time.perf_counter() - begin)
    report(clock, options.iterations, wall)
    algorithm.stop()


if __name__ == "__main__":
    main()
