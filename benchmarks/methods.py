"""Cost of an iteration of every method relative to GRPO, on tiny ALFWorld with the embedded model.

    python benchmarks/methods.py [--iterations 20] [--methods GRPO,SDAR]

Prints a Markdown table: processor seconds of an iteration (median, without the first) and the ratio
to GRPO. Processor time of this process, which other load on the
machine does not change; runner and learner are in this process.
"""

from __future__ import annotations

import argparse
import statistics
import time

import ray

from stepopsd_rllib import tuned

EXAMPLES = {
    "GRPO": "grpo",
    "StepOPSD": "stepopsd",
    "SDAR": "sdar",
    "SkillSD": "skill_sd",
    "RLSD": "rlsd",
    "SkillGRPO": "skill_grpo",
    "OPID": "opid",
    "AgentOPSD": "agentopsd",
    "GiGPO": "gigpo",
    "GRSD": "grsd",
}


def iteration_seconds(folder: str, iterations: int) -> list[float]:
    """Processor seconds of every iteration, evaluation left out."""
    example = tuned.read(f"tuned_examples/{folder}/alfworld_tiny.yaml", ["evaluation_interval="])
    (config,) = tuned.configs(example)
    algorithm = config.build_algo()
    seconds = []
    for _ in range(iterations):
        started = time.process_time()
        algorithm.train()
        seconds.append(time.process_time() - started)
    algorithm.stop()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--methods", default=",".join(EXAMPLES))
    options = parser.parse_args()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    print("| method | processor seconds | relative to GRPO |\n|---|---|---|", flush=True)
    base = None
    for name in options.methods.split(","):
        seconds = statistics.median(iteration_seconds(EXAMPLES[name], options.iterations)[1:])
        base = seconds if name == "GRPO" else base
        ratio = f"{seconds / base:.2f}" if base else "-"
        print(f"| {name} | {seconds:.2f} | {ratio} |", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
