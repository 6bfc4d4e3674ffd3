"""The same work on this package and on TRL in turn (A B A B), and the ratio of their seconds.

    python benchmarks/against_trl.py [--model tiny] [--rounds 2] [--steps 3] [--skill-words 0]
    python benchmarks/against_trl.py --sides "GRPO;StepOPSD;SDAR;OPID"

One step is 16 tasks of 8 episodes of 5 turns; see `toy_work.py`. Both sides sample with vLLM in the
trainer's process and train in float32 on one thread, GRPO without a reference, one optimizer step.
`floor` is the same work without a trainer, see `toy_floor.py`; StepOPSD, SDAR and OPID do more than
GRPO does, by their teachers.
TRL is installed into a virtual environment of its own, which sees this one's torch, transformers
and vLLM: the same builds on both sides. Each run is a process of its own; processor seconds stand
beside wall seconds, as a shared machine moves the latter. The tokens that each side forwarded are
counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import toy_work as work  # noqa: E402

TRL_PACKAGES = ("trl==1.16.0", "accelerate==1.15.0", "datasets==5.2.0")
SKILL_TOPICS, SKILL_WORDS = 4, 24  # of the library that SDAR's teacher reads
# Side of ours -> the method, and the keys it sets.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "GRPO": ("GRPO", {}),
    "GRPO, bfloat16 sampler": (
        "GRPO",
        {"sampler_config": {"dtype": "bfloat16"}, "max_sampler_difference": None},
    ),
    "GRPO, unshared": ("GRPO", {"share_prefixes": "off"}),
    "StepOPSD": (
        "StepOPSD",
        {
            "hindsight_position": "prefix",
            "hindsight_max_tokens": 512,
            "student_log_probs": "rollout",
        },
    ),
    "SDAR": ("SDAR", {"skills": "SKILLS", "skill_max_tokens": 512}),
    "OPID": ("OPID", {"analyzer": "rules"}),
}
SCORED = ("teacher_tokens_forwarded", "student_tokens_forwarded")
FLOOR = "floor"
TRL = {"TRL": {"correction": True}, "TRL without correction": {"correction": False}}
DEFAULT_SIDES = ("GRPO", "GRPO, bfloat16 sampler", "GRPO, unshared", FLOOR, *TRL)


def trl_python(folder: Path) -> Path:
    """The interpreter of TRL's environment, made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    here = sysconfig.get_paths()["purelib"]
    paths = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True,
        capture_output=True,
        text=True,
    )
    (Path(paths.stdout.strip()) / "same_builds.pth").write_text(f"{here}\n", encoding="utf-8")
    if subprocess.run([python, "-c", "import trl, accelerate, datasets"]).returncode:
        command = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*command, *TRL_PACKAGES], check=True)
    return python


def measured(python: str | Path, arguments: list[str]) -> dict[str, Any]:
    """The result of one run in a process of its own."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "envs"))),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TOKENIZERS_PARALLELISM": "false",
    }
    run = subprocess.run([python, "-m", *arguments], env=env, capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{arguments[0]} printed no result:\n{run.stderr[-3000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def run_ours(options: dict[str, Any]) -> None:
    """This package's side, in a process of its own."""
    import resource

    import ray
    import torch

    from benchmarks.toy_env import ToyEnv
    from stepopsd_rllib import ALGORITHMS

    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    config = ALGORITHMS[options["method"]].get_default_config()
    config.environment(ToyEnv, env_config={"skill_words": options["skill_words"]})
    config.update_from_dict(
        {
            "model": options["model"],
            "sampler": "vllm",
            "group_size": work.GROUP_SIZE,
            "groups_per_step": work.GROUPS,
            "num_envs_per_env_runner": work.GROUPS * work.GROUP_SIZE,
            "max_response_tokens": work.RESPONSE_TOKENS,
            "max_context_tokens": options["context_tokens"],
            "kl_coeff": 0.0,
            "entropy_coeff": 0.0,
            "lr": 1e-6,
            "weight_decay": 0.0,
            "evaluation_interval": 0,
            **options["keys"],
        }
    )
    algo = config.build_algo()
    wall, processor, results = [], [], []
    for _ in range(options["warm_up"] + options["steps"]):
        begin = time.perf_counter(), time.process_time()
        results.append(algo.train())
        wall.append(time.perf_counter() - begin[0])
        processor.append(time.process_time() - begin[1])
    results = results[options["warm_up"] :]

    def mean(read: Any) -> float:
        return statistics.mean(float(read(result)) for result in results)

    parts = ("sample", "update", "weight_sync")
    result = {
        "wall": wall[options["warm_up"] :],
        "processor": processor[options["warm_up"] :],
        "counts": {
            "rows": mean(lambda r: r["env_runners"]["num_episodes"]),
            "trained": mean(lambda r: r["learners"]["default_policy"]["update_tokens_forwarded"]),
            "scored": mean(
                lambda r: sum(r["learners"]["default_policy"].get(name, 0) for name in SCORED)
            ),
        },
        "parts": {part: mean(lambda r, part=part: r["timers"][part]) for part in parts},
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print("RESULT " + json.dumps(result), flush=True)


def write_skills(folder: Path) -> Path:
    """A library of made-up skills."""
    folder.mkdir(parents=True, exist_ok=True)
    skills = [
        f"## {work.sentence(f'title/{n}', 3)} {{#toy-{n}}}\n"
        f"Principle: {work.sentence(f'principle/{n}', SKILL_WORDS)}\n"
        f"When to apply: {work.sentence(f'when/{n}', SKILL_WORDS // 4)}\n"
        for n in range(SKILL_TOPICS)
    ]
    (folder / "general.md").write_text("\n".join(["# General", *skills]), encoding="utf-8")
    return folder


def report(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Seconds of a step, and every run's ratio to the run of TRL in the same round."""
    print(f"{'side':26} {'wall s':>8} {'processor s':>12} {'trained tok':>12} {'scored tok':>11}")
    for side, results in runs.items():
        wall, processor = (
            statistics.median(x for r in results for x in r[clock])
            for clock in ("wall", "processor")
        )
        counts = results[-1]["counts"]
        print(
            f"{side:26} {wall:8.2f} {processor:12.2f} {counts['trained']:12.0f}"
            f" {counts['scored']:11.0f}"
        )
    for base in (*TRL, FLOOR):
        for side in (name for name in OURS if name in runs and base in runs):
            pairs = list(zip(runs[base], runs[side], strict=True))
            for clock in ("wall", "processor"):
                ratios = [
                    statistics.median(theirs[clock]) / statistics.median(ours[clock])
                    for theirs, ours in pairs
                ]
                print(
                    f"{base} / {side}, {clock}: {statistics.median(ratios):.2f} times "
                    f"({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} rounds)"
                )


def main() -> None:
    """Runs the sides in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=work.MODELS, default="tiny")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--skill-words", type=int, default=0)
    parser.add_argument("--sides", default=";".join(DEFAULT_SIDES), help="with ; between")
    parser.add_argument(
        "--folder", type=Path, default=Path.home() / ".cache" / "stepopsd_against_trl"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_ours(json.loads(arguments.child))
        return
    folder = arguments.folder / arguments.model
    options = {
        "model": str(work.build_model(folder, arguments.model)),
        "folder": str(arguments.folder / "trl_run"),
        "steps": arguments.steps,
        "warm_up": arguments.warm_up,
        "skill_words": arguments.skill_words,
        "context_tokens": work.CONTEXT_TOKENS + 2 * arguments.skill_words,
        "rows_at_once": 32 if arguments.model == "tiny" else 16,
    }
    runs: dict[str, list[dict[str, Any]]] = {}
    for round_ in range(arguments.rounds):
        for side in arguments.sides.split(";"):
            if side in TRL:
                python = trl_python(arguments.folder / "trl")
                call = ["benchmarks.toy_trl", json.dumps(options | TRL[side])]
            elif side == FLOOR:
                python = Path(sys.executable)
                call = ["benchmarks.toy_floor", json.dumps(options)]
            else:
                python = Path(sys.executable)
                method, keys = OURS[side]
                if "skills" in keys:
                    keys = keys | {"skills": str(write_skills(arguments.folder / "skills"))}
                child = json.dumps(options | {"method": method, "keys": keys})
                call = ["benchmarks.against_trl", "--child", child]
            result = measured(python, call)
            runs.setdefault(side, []).append(result)
            print(
                f"round {round_}, load {os.getloadavg()[0]:.1f}: {side}: {json.dumps(result)}",
                flush=True,
            )
    report(runs)


if __name__ == "__main__":
    main()
