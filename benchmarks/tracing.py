"""Processor seconds that the samples of `credit.jsonl` cost, as a share of an iteration.

    python benchmarks/tracing.py [--pairs 6] [--set KEY=VALUE ...]

One process trains StepOPSD on tiny ALFWorld. Iterations with a sample and iterations without one
take turns; nothing else differs. Two figures come out: the seconds within the code of the samples,
and the difference of the two kinds of iterations, which is noisier, as their episodes differ. A run
takes a sample every `credit_trace_interval` updates, so that an iteration costs that part of
one sample on average.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from stepopsd_rllib.commands import tuned
from stepopsd_rllib.connectors.credit_trace import CreditTrace
from stepopsd_rllib.training.agent_algorithm import AgentAlgorithm

EXAMPLE = Path(__file__).parent.parent / "tuned_examples" / "stepopsd" / "alfworld_tiny.yaml"
ONE_PROCESS = ("num_env_runners=0", "sampler=transformers", "evaluation_interval=null")
PARTS = ((CreditTrace, "fill"), (CreditTrace, "add_update"), (AgentAlgorithm, "_write_credit"))
GOAL = 0.02


class Meter:
    """Processor seconds of this process within the measured methods."""

    def __init__(self) -> None:
        """Starts at 0."""
        self.seconds = 0.0

    def measured(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, with its seconds added up."""

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - begin

        return call


def main() -> None:
    """Measures, and prints a line a pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    meter = Meter()
    for owner, name in PARTS:
        setattr(owner, name, meter.measured(getattr(owner, name)))
    (config,) = tuned.configs(tuned.read(EXAMPLE, [*ONE_PROCESS, *options.overrides]))
    interval = config.credit_trace_interval
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm: Any = config.build_algo()
    (trace,) = algorithm.learner_group._learner._credit_traces()

    def iteration(sampled: bool) -> tuple[float, float]:
        """Processor seconds of an iteration, and those of its sample."""
        trace.interval, meter.seconds = int(sampled), 0.0
        begin = time.process_time()
        algorithm.train()
        return time.process_time() - begin, meter.seconds

    iteration(True)  # the first of everything
    without, with_, own, idle = [], [], [], []
    for pair in range(options.pairs):
        for sampled in (pair % 2 == 0, pair % 2 == 1):
            whole, part = iteration(sampled)
            (with_ if sampled else without).append(whole)
            (own if sampled else idle).append(part)
        print(f"without {without[-1]:.2f} s, with {with_[-1]:.2f} s, of these {own[-1]:.3f} s")
    base = statistics.mean(without)
    share = (statistics.mean(own) / interval + statistics.mean(idle)) / base
    difference = (statistics.mean(with_) - base) / interval / base
    print(
        f"a sample takes {statistics.mean(own):.3f} s of processor time, an iteration "
        f"{base:.2f} s; "
        f"every {interval} updates that is {share:.3%} of an iteration (goal below {GOAL:.0%}; "
        f"by the difference of iterations {difference:+.2%})"
    )
    algorithm.stop()


if __name__ == "__main__":
    main()
