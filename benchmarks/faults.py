"""Injects faults while a run trains and prints what each of them cost.

    python benchmarks/faults.py --faults 1000 --seed 0

Every round injects each kind into a living run of GRPO on tiny ALFWorld with two env runners, in a
seeded order; between faults the run trains on.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import signal
import statistics
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray

from benchmarks.fault_house import withdraw
from benchmarks.faulty_run import GROUP_SIZE, GROUPS, STORE_BYTES, FaultyRun, Kind

WRONG_WEIGHTS_NATS = 1e-4  # more between sampler and learner, and they do not have the same weights
RECOVERY_S = 180.0  # most that a run may take until both runners are back
HANG_S = 300.0  # an iteration that takes longer never ends
_COUNTS = (
    "injected",
    "survived",
    "told",
    "lost_reported",
    "lost_unreported",
    "wrong_weights",
    "hangs",
)


@dataclass
class Cost:
    """What the faults of one kind did.

    Attributes:
        injected: Faults that struck.
        survived: Of these, how many the run trained on after, with both runners.
        told: Of these, how many the run's results, or a message, speak of.
        lost_reported: Groups that were sampled again or left out, as the results say.
        lost_unreported: Groups of which the results say nothing.
        wrong_weights: Updates on samples of other weights than they should be of.
        hangs: Iterations that never ended.
        seconds: Above sound iterations, one value an injection.
    """

    injected: int = 0
    survived: int = 0
    told: int = 0
    lost_reported: int = 0
    lost_unreported: int = 0
    wrong_weights: int = 0
    hangs: int = 0
    seconds: list[float] = field(default_factory=list)


class Hang(Exception):
    """An iteration did not end."""


def run(
    *,
    seed: int,
    faults: int = 0,
    minutes: float = math.inf,
    kinds: Sequence[str] | None = None,
    save: Path | None = None,
) -> dict[str, Cost]:
    """Injects every kind once a round into a living run.

    Args:
        seed: Of the order, the moments and the runners.
        faults: Rounds end when so many were injected; 0 is one round.
        minutes: Or when so much time is over.
        kinds: Only these, by default all.
        save: File for the costs so far, as JSON.
    """
    random.seed(seed)
    costs: dict[str, Cost] = defaultdict(Cost)
    with tempfile.TemporaryDirectory() as folder:
        faulty, sound = _sound_run(Path(folder))
        began, done = time.perf_counter(), 0
        while done == 0 or (done < faults and time.perf_counter() - began < 60 * minutes):
            order = list(kinds or faulty.kinds)
            random.shuffle(order)
            for kind in order:
                try:
                    inject(faulty, faulty.kinds[kind], costs[kind], sound)
                except Exception:  # the run ended: what this harness is there to find
                    traceback.print_exc()
                    costs[kind].injected += faulty.kinds[kind].at_once
                    faulty.close()
                    faulty, sound = _sound_run(Path(folder))
                done = sum(cost.injected for cost in costs.values())
                seconds = time.perf_counter() - began
                print(f"{seconds:6.0f} s  {done:4d}  {kind}: {_line(costs[kind])}", flush=True)
                if save is not None:
                    saved = {kind: asdict(cost) for kind, cost in costs.items()}
                    save.write_text(json.dumps(saved, indent=1) + "\n")
        faulty.close()
    return dict(costs)


def _sound_run(folder: Path) -> tuple[FaultyRun, float]:
    """A run, and the seconds of one of its iterations; it shows wrong weights, or is refused."""
    faulty = FaultyRun(folder)
    sound = statistics.median(_train(faulty)[0] for _ in range(5))
    stale = difference(faulty.train_with_stale_weights())
    print(f"a sound iteration takes {sound:.2f} s", flush=True)
    print(f"weights that are one update old show as {stale:.1e} nats", flush=True)
    if stale < 2 * WRONG_WEIGHTS_NATS:
        raise RuntimeError("Wrong weights would not be seen in this run.")
    return faulty, sound


def inject(faulty: FaultyRun, kind: Kind, cost: Cost, sound: float) -> None:
    """Injects the faults of one kind at once and trains until the run is whole again.

    Args:
        faulty: The run.
        kind: What to inject.
        cost: Of the kind; what these faults cost is added.
        sound: Seconds of an iteration without any.
    """
    before = _lifetime(faulty, kind.told_by)
    since = time.perf_counter()
    told, spent, injected = kind.inject(), 0.0, kind.at_once
    try:
        for iteration in range(1000):
            seconds, result = _train(faulty)
            observe(cost, result)
            spent += seconds - sound
            if kind.told_by == "status":
                told += _errors(result)
            is_late = time.perf_counter() - since > RECOVERY_S
            if is_late or (faulty.is_whole() and iteration + 1 >= kind.iterations):
                break
        injected -= withdraw(faulty.orders)  # what no game has read has not happened
        cost.survived += injected * faulty.is_whole()
    except Hang:
        cost.hangs += 1
        raise
    if kind.told_by not in ("", "status"):
        told += int(_lifetime(faulty, kind.told_by) - before)
    cost.injected += injected
    cost.told += min(injected, told)
    cost.seconds.append(max(0.0, spent))


def observe(cost: Cost, result: Mapping[str, Any]) -> None:
    """Adds what an iteration says of its losses."""
    rollouts = result["env_runners"]
    cost.lost_reported += int(rollouts["groups_lost"] + rollouts["groups_broken"])
    told = sum(rollouts["status"].values())
    cost.lost_unreported += math.ceil((GROUPS * GROUP_SIZE - told) / GROUP_SIZE)
    cost.wrong_weights += int(difference(result) > WRONG_WEIGHTS_NATS)


def difference(result: Mapping[str, Any]) -> float:
    """Largest difference of a token's log-prob between sampler and learner, nats."""
    return float(result["learners"]["default_policy"]["sampler_log_prob_difference_max"])


def table(costs: Mapping[str, Cost]) -> str:
    """The costs as a Markdown table."""
    lines = [
        "| fault | injected | survived | told | lost groups, reported | unreported "
        "| wrong-weight updates | hangs | seconds to recover, median (worst) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    whole = Cost()
    for kind, cost in sorted(costs.items()):
        seconds = cost.seconds or [math.nan]
        median, worst = statistics.median(seconds), max(seconds)
        lines.append(f"| {kind} | {_cells(cost)} | {median:.1f} ({worst:.1f}) |")
        for name in _COUNTS:
            setattr(whole, name, getattr(whole, name) + getattr(cost, name))
    return "\n".join([*lines, f"| **all** | {_cells(whole)} | |"])


def _cells(cost: Cost) -> str:
    return " | ".join(str(getattr(cost, name)) for name in _COUNTS)


def _line(cost: Cost) -> str:
    counts = " ".join(f"{name}={getattr(cost, name)}" for name in _COUNTS)
    return f"{counts} seconds={cost.seconds[-1] if cost.seconds else math.nan:.1f}"


def _train(faulty: FaultyRun) -> tuple[float, Mapping[str, Any]]:
    began = time.perf_counter()
    with _deadline(HANG_S):
        result = faulty.train()
    faulty.last = result
    return time.perf_counter() - began, result


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang(f"more than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)


def _lifetime(faulty: FaultyRun, name: str) -> float:
    return faulty.last["env_runners"].get(name, faulty.last.get(name, 0.0))


def _errors(result: Mapping[str, Any]) -> int:
    status = result["env_runners"]["status"]
    return int(sum(status.get(f"{kind}_error", 0) for kind in ("environment", "tool", "sampler")))


def start_ray() -> None:
    """A Ray whose object store a fault can fill."""
    ray.init(
        num_cpus=4,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def main() -> None:
    """Runs the faults and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=0, help="at least so many; one round else")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", help="only these; by default all")
    parser.add_argument("--save", type=Path, help="file for the costs, as JSON")
    arguments = parser.parse_args()
    start_ray()
    logging.getLogger("stepopsd_rllib").setLevel(logging.CRITICAL)
    costs = run(
        seed=arguments.seed,
        faults=arguments.faults,
        minutes=arguments.minutes,
        kinds=arguments.kinds,
        save=arguments.save,
    )
    print(table(costs))


if __name__ == "__main__":
    main()
