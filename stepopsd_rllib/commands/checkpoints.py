"""What can be done with a checkpoint besides going on with it: measure it, export its model."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from transformers.utils.logging import disable_progress_bar

from stepopsd_rllib.commands.ray_start import quiet_ray, start_ray
from stepopsd_rllib.report.run_files import evaluation_of
from stepopsd_rllib.report.tables import single_table

# What RLlib writes into every checkpoint folder of an algorithm.
CHECKPOINT_FILE = "rllib_checkpoint.json"


def evaluate(checkpoint: str, *, split: str | None, num_tasks: int | None) -> int:
    """Plays each task of a split once with a checkpoint's model and prints the table.

    Args:
        checkpoint: A checkpoint, trial or run folder; of several checkpoints the newest.
        split: Split of the tasks; the one of the training config by default.
        num_tasks: So many tasks, evenly spaced; as in the training config by default.
    """
    changes = {"eval_split": split, "eval_num_tasks": num_tasks}
    algorithm = restored(checkpoint, {k: v for k, v in changes.items() if v is not None})
    try:
        print(single_table(evaluation_of({"evaluation": algorithm.evaluate()})))
    finally:
        _close(algorithm)
    return 0


def export(checkpoint: str, directory: str) -> int:
    """Writes a checkpoint's model in Hugging Face format into a new folder."""
    target = Path(directory).resolve()
    if target.exists():
        raise ValueError(f"{target} exists already. Name a folder that does not.")
    # One process without vLLM is the quickest to start, and nothing is sampled.
    plain = {"num_env_runners": 0, "num_learners": 0, "sampler": "transformers"}
    algorithm = restored(checkpoint, plain)
    try:
        algorithm.export_hf(str(target))  # type: ignore[attr-defined]
    finally:
        _close(algorithm)
    print(f"model       {target}")
    return 0


def newest_checkpoint(path: str) -> Path:
    """The checkpoint folder that a user means by a checkpoint, trial or run folder.

    Raises:
        ValueError: There is no checkpoint at or below the path.
    """
    folder = Path(path).resolve()
    if (folder / CHECKPOINT_FILE).is_file():
        return folder
    marks = [*folder.glob(f"checkpoint_*/{CHECKPOINT_FILE}")]
    marks = marks or [*folder.glob(f"*/checkpoint_*/{CHECKPOINT_FILE}")]
    if not marks:
        raise ValueError(
            f"{path}: no checkpoint there ({CHECKPOINT_FILE}). Name a checkpoint_* folder, or the "
            "trial or run folder that holds some."
        )
    return max(marks, key=lambda mark: mark.stat().st_mtime).parent


def restored(checkpoint: str, changes: dict[str, Any]) -> Algorithm:
    """The algorithm of a checkpoint with some keys of its config changed; starts Ray."""
    quiet_ray()
    disable_progress_bar()
    folder = newest_checkpoint(checkpoint)
    print(f"checkpoint  {folder}", flush=True)
    # The state of the config is the first of the constructor's arguments that RLlib writes down.
    written = pickle.loads((folder / Algorithm.CLASS_AND_CTOR_ARGS_FILE_NAME).read_bytes())
    algorithm_class: type[Algorithm] = written["class"]
    state = dict(written["ctor_args_and_kwargs"][0][0])
    config: AlgorithmConfig = state["class"]()
    vars(config).update({key: value for key, value in state.items() if key != "class"})
    config.update_from_dict(changes)
    config.validate()
    start_ray(algorithm_class, [config])
    return algorithm_class.from_checkpoint(str(folder), config=config)


def _close(algorithm: Algorithm) -> None:
    algorithm.stop()
    ray.shutdown()
