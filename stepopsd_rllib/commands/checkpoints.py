"""What can be done with a checkpoint besides going on with it: measure it, export its model."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from transformers.utils.logging import disable_progress_bar

from stepopsd_rllib.commands.kept_checkpoints import FoundCheckpoint, find
from stepopsd_rllib.commands.ray_start import quiet_ray, running_ray
from stepopsd_rllib.commands.run_file import RUN_FILE
from stepopsd_rllib.models.loading import load_causal_lm, untied
from stepopsd_rllib.models.lora import ADAPTER_CONFIG, LoRASettings, add_adapters, merged_weights
from stepopsd_rllib.report.run_files import RESULTS, evaluation_of
from stepopsd_rllib.report.tables import single_table
from stepopsd_rllib.training import checkpoint_files
from stepopsd_rllib.training.checkpointed_algorithm import require_known_version

# What RLlib writes into every checkpoint folder of an algorithm.
CHECKPOINT_FILE = "rllib_checkpoint.json"
OF_THE_MACHINE: dict[str, Any] = {
    "num_env_runners": 0,
    "num_learners": 0,
    "sharding": "off",
    "num_gpus_per_learner": 0,
    "num_gpus_per_env_runner": 0,
    "sampler": "auto",
    "sampler_config": {},
}
"""Keys that say how the training machine was used: a checkpoint is measured in one process, with a
GPU where there is one."""


def evaluate(
    checkpoint: str, *, split: str | None, num_tasks: int | None, is_trusted: bool = False
) -> int:
    """Plays each task of a split once with a checkpoint's model and prints the table.

    Args:
        checkpoint: A checkpoint, trial or run folder; of several checkpoints the newest whole one.
        split: Split of the tasks; the one of the training config by default.
        num_tasks: So many tasks, evenly spaced; as in the training config by default.
        is_trusted: Whether one that lies outside of a run folder is read.
    """
    quiet_ray()
    disable_progress_bar()
    folder = whole_checkpoint(checkpoint, is_trusted=is_trusted)
    changes = {"eval_split": split, "eval_num_tasks": num_tasks}
    with restored(folder, {k: v for k, v in changes.items() if v is not None}) as algorithm:
        evaluation = evaluation_of({"evaluation": algorithm.evaluate()})
    iteration = checkpoint_files.describe(folder)["iteration"]
    print(single_table(replace(evaluation, iteration=iteration)))
    return 0


def export(
    checkpoint: str, directory: str, *, is_trusted: bool = False, merged: bool = False
) -> int:
    """Copies a checkpoint's model, in Hugging Face format, into a new folder; needs no Ray.

    Args:
        checkpoint: A checkpoint, trial or run folder.
        directory: The new folder.
        is_trusted: Whether a checkpoint outside of a run folder is read.
        merged: For a run with LoRA, write the base with the adapter in it, not the adapter.
    """
    target = Path(directory).expanduser().resolve()
    if target.exists():
        raise ValueError(f"{target} exists already. Name a folder that does not.")
    folder = whole_checkpoint(checkpoint, is_trusted=is_trusted)
    aside = target.with_name(target.name + checkpoint_files.PARTIAL)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        model = folder / checkpoint_files.MODEL
        has_adapter = (model / ADAPTER_CONFIG).is_file()
        if merged and has_adapter:
            checkpoint_files.write_model(aside, *merged_model(model))
        else:
            shutil.copytree(model, aside)
        checkpoint_files.put_in_place(aside, target)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise ValueError(f"{target}: cannot be written ({reason}).") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"{'adapter' if has_adapter and not merged else 'model  '}     {target}")
    return 0


def merged_model(adapter: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Weights of an adapter's base with the adapter in it, and the base's small files."""
    described = json.loads((adapter / ADAPTER_CONFIG).read_bytes())
    base = str(described["base_model_name_or_path"])
    lora = LoRASettings.of(
        {
            "rank": described["r"],
            "alpha": described["lora_alpha"],
            "targets": described["target_modules"],
            "start": str(adapter),
        }
    )
    model = load_causal_lm(base)
    add_adapters(model, lora, with_teacher=False)
    return untied(model, merged_weights(model)), checkpoint_files.small_files(base)


def whole_checkpoint(path: str, *, is_trusted: bool) -> Path:
    """The checkpoint that a user means: the newest whole one; says which others it passes over.

    Args:
        path: A checkpoint, trial or run folder.
        is_trusted: Whether one that lies outside of a run folder is read.

    Raises:
        ValueError: There is none, none is whole, or it lies outside of a run folder.
    """
    given = Path(path).expanduser().resolve()
    if _is_checkpoint(given):
        damage = checkpoint_files.damage(given)
        if damage is not None:
            raise ValueError(f"{path}: is no whole checkpoint: {damage}. Name an older one.")
        chosen = given
    else:
        chosen = newest_whole(_candidates(given), print)
        if chosen is None:
            raise ValueError(
                f"{path}: no whole checkpoint there. Name a checkpoint_* folder, or the trial or "
                "run folder that holds some."
            )
    require_trust(chosen, is_trusted=is_trusted)
    package = str(checkpoint_files.describe(chosen).get("package", "0"))
    require_known_version(str(chosen), package)
    print(f"checkpoint  {chosen}", flush=True)
    return chosen


def newest_whole(
    candidates: list[Path], write: Callable[[str], None], below: str = ""
) -> Path | None:
    """The last of some checkpoint folders that is whole; the damaged ones before it are named.

    Args:
        candidates: Oldest first.
        write: Takes a line about each that is passed over.
        below: Only files whose name begins so are checked.
    """
    for folder in reversed(candidates):
        damage = checkpoint_files.damage(folder, below)
        if damage is None:
            return folder
        write(f"passed over {folder}: {damage}")
    return None


def require_trust(checkpoint: Path, *, is_trusted: bool) -> None:
    """Refuses a checkpoint that was not written by a run here.

    Raises:
        ValueError: It lies in no run folder, and the user did not say --trust.
    """
    trial = checkpoint.parent
    is_of_run = (trial / RESULTS).is_file() or (trial / "params.json").is_file()
    is_in_run = (trial.parent / RUN_FILE).is_file() or any(
        trial.parent.glob("experiment_state-*.json")
    )
    if not is_trusted and not (is_of_run and is_in_run):
        raise ValueError(
            f"{checkpoint}: lies outside of a run folder. A checkpoint is code: reading it runs "
            "what its author put there. If you trust where it comes from, add --trust."
        )


@contextmanager
def restored(folder: Path, changes: Mapping[str, Any]) -> Iterator[Algorithm]:
    """An algorithm that plays with a checkpoint's model, on whatever this machine has.

    Config and model come from the checkpoint alone; optimizer, teacher and counters are not read.

    Args:
        folder: A whole checkpoint.
        changes: Keys of the config that differ from training.
    """
    config = config_of(folder, changes)
    config.validate()
    algorithm_class = config.algo_class
    assert algorithm_class is not None
    with running_ray(algorithm_class, [config]):
        algorithm = config.build_algo()
        try:
            yield algorithm
        finally:
            algorithm.stop()


def config_of(folder: Path, changes: Mapping[str, Any]) -> AlgorithmConfig:
    """The config of a checkpoint, for whatever this machine has; not validated.

    Args:
        folder: A whole checkpoint.
        changes: Keys that differ from training.
    """
    # The state of the config is the first of the constructor's arguments that RLlib writes down.
    written = pickle.loads((folder / Algorithm.CLASS_AND_CTOR_ARGS_FILE_NAME).read_bytes())
    state = dict(written["ctor_args_and_kwargs"][0][0])
    config: AlgorithmConfig = state["class"]()
    vars(config).update({key: value for key, value in state.items() if key != "class"})
    model = folder / checkpoint_files.MODEL
    changed: dict[str, Any] = {"model": str(model)}
    if (model / ADAPTER_CONFIG).is_file():  # of a run with LoRA: the base is where it was
        changed = {"lora": {**state["lora"], "start": str(model)}}
    return config.update_from_dict({**OF_THE_MACHINE, **changed, **changes})


def _is_checkpoint(folder: Path) -> bool:
    has_mark = any(
        (folder / name).is_file() for name in (CHECKPOINT_FILE, checkpoint_files.MANIFEST)
    )
    return has_mark or (folder.is_dir() and folder.name.startswith("checkpoint_"))


def _candidates(folder: Path) -> list[Path]:
    """Checkpoint folders of a trial folder, or of all trials of a run folder, oldest first."""
    local = pyarrow.fs.LocalFileSystem()
    found: list[FoundCheckpoint] = find(local, str(folder))
    if not found and folder.is_dir():
        for trial in sorted(folder.iterdir()):
            found += find(local, str(trial)) if trial.is_dir() else []
    return sorted((Path(c.path) for c in found), key=lambda path: (path.stat().st_mtime, path))
