"""Run folders with the files that a run writes, filled by a seed."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ACTIONS = ("go to desk 1", "take mug 1 from desk 1", "open fridge 1", "examine shelf 2", "look")
TYPES = ("pick_and_place", "pick_heat", "look_at_obj")


def words(rng: random.Random) -> str:
    return f"You arrive at shelf {rng.randint(1, 9)}. On it, you see a mug {rng.randint(1, 9)}."


def sample(
    rng: random.Random, update: int, group: int, rollout: int, text: Callable[[], str] | None = None
) -> dict[str, Any]:
    """A record of `credit.jsonl` as StepOPSD writes it."""
    won = rng.random() < 0.5
    advantage = round(rng.gauss(0, 1), 6)
    say = text or (lambda: words(rng))
    return {
        "schema": 4,
        "update": update,
        "task_id": say() if text else f"task {group}",
        "task_type": say() if text else TYPES[group % 3],
        "group": group,
        "rollout": rollout,
        "context": "append",
        "status": "success" if won else "turn_limit",
        "won": won,
        "return": float(won),
        "told": "" if won else say(),
        "final_observation": say(),
        "turns": [_turn(rng, advantage, say) for _ in range(rng.randint(2, 6))],
    }


def _turn(rng: random.Random, advantage: float, say: Callable[[], str]) -> dict[str, Any]:
    action = rng.choice(ACTIONS)
    tokens = [say() for _ in range(3)] if rng.random() < 0.1 else ["<act", "ion>", *action, "\n"]
    size = len(tokens)
    gap = [round(rng.gauss(0, 0.4), 6) for _ in range(size)]
    weight = [round(1 + max(-0.2, min(0.2, delta)), 6) for delta in gap]
    old = [round(-rng.expovariate(2), 6) for _ in range(size)]
    return {
        "observation": say(),
        "response": "".join(tokens),
        "action": action,
        "is_action_valid": rng.random() < 0.9,
        "finish_reason": rng.choice(["stop", "stop", "length"]),
        "reward": 0.0,
        "prompt": f"<|im_start|>user\n{say()}<|im_end|>",
        "prompt_kept": 0,
        "tokens": tokens,
        "behaviour_log_prob": old,
        "old_log_prob": old,
        "new_log_prob": [round(o - 0.01, 6) for o in old],
        "entropy": [round(rng.expovariate(3), 6) for _ in range(size)],
        "teacher_log_prob": [round(o + d, 6) for o, d in zip(old, gap, strict=True)],
        "log_prob_gap": gap,
        "is_scored": [True] * size,
        "in_span": [rng.random() < 0.8 for _ in range(size)],
        "weight": weight,
        "group_advantage": [advantage] * size,
        "advantage": [round(advantage * w, 6) for w in weight],
    }


def write_run(
    folder: Path, *, samples: int = 64, tasks: int = 30, seed: int = 0, updates: int = 8
) -> Path:
    """A trial folder with results, evaluations, errors and sampled episodes in groups of 8."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    groups = [(1 + i * updates // max(1, samples // 8), i) for i in range(samples // 8)]
    records = [sample(rng, update, i, rollout) for update, i in groups for rollout in range(8)]
    write_lines(folder / "credit.jsonl", records)
    evaluations = [
        {
            "iteration": iteration,
            "split": "valid_unseen",
            "task_id": f"unseen {task}",
            "task_type": TYPES[task % 3],
            "won": (won := rng.random() < 0.3 + 0.05 * iteration),
            "return": float(won),
            "turns": rng.randint(3, 20),
            "status": "success" if won else "turn_limit",
            "error": "",
        }
        for iteration in (0, updates // 2, updates)
        for task in range(tasks)
    ]
    write_lines(folder / "evaluation.jsonl", evaluations)
    error = {"iteration": 2, "task_id": "task 1", "rollout": 0, "status": "tool_error"}
    write_lines(folder / "errors.jsonl", [error | {"error": "ReadTimeout: no answer"}] * 3)
    write_lines(folder / "result.json", [_result(rng, i) for i in range(1, updates + 1)])
    return folder


def _result(rng: random.Random, iteration: int) -> dict[str, Any]:
    return {
        "training_iteration": iteration,
        "time_this_iter_s": 10.0,
        "time_total_s": 10.0 * iteration,
        "date": "2026-11-26_13-00-00",
        "timers": {"sample": 5.0, "update": 3.0, "weight_sync": 0.5},
        "env_runners": {
            "success_rate": 0.3 + 0.04 * iteration,
            "episode_return_mean": 0.3 + 0.04 * iteration,
            "valid_action_ratio": 0.9,
            "turns_mean": rng.uniform(8, 12),
        },
        "learners": {"default_policy": {"entropy": 1.0 / iteration, "effect_size": 0.05}},
        "config": {"env": "stepopsd/ALFWorld-v0", "language_model": "tiny", "seed": 0},
    }


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
