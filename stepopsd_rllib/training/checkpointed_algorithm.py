"""An Algorithm whose checkpoints are whole or absent, and stand on their own."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import safetensors.torch
from packaging.version import InvalidVersion, Version
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.tune import Checkpoint
from ray.tune.utils import flatten_dict

from stepopsd_rllib.models.lora import write_adapter
from stepopsd_rllib.models.module_state import leave_out_weights
from stepopsd_rllib.training import checkpoint_files as files
from stepopsd_rllib.training.learner_calls import ask_learners
from stepopsd_rllib.training.shards import SHARDS, read_shards, write_shards
from stepopsd_rllib.training.weight_sync import learner_weights

_KEPT_METRICS = ("env_runners/", "evaluation/")
"""Results that a checkpoint repeats, so that the best one can be found without the run's files."""

_MODULE_STATE = f"learner_group/learner/rl_module/{DEFAULT_MODULE_ID}/module_state.pkl"
"""Where RLlib writes the module's state; the policy's weights are moved out of it."""

_OF_THE_BASE = ("config.json", "generation_config.json")
"""Files of a model's folder that a folder with an adapter alone does not repeat."""


class CheckpointedAlgorithm(Algorithm):
    """Writes `checkpoint_files` into every checkpoint, and checks them before it reads one.

    On a local storage a checkpoint is written beside its final place and renamed when it is whole:
    whatever kills the process leaves no folder that looks like one.
    """

    config: Any
    learner_group: Any

    @override(Algorithm)
    def setup(self, config: Any) -> None:
        """Keeps the model's small files: its folder may move while the run goes on."""
        super().setup(config)
        self._model_files = files.small_files(self.config.model_path())

    @override(Algorithm)
    def save(self, checkpoint_dir: str | None = None) -> Any:
        """Writes a checkpoint for Tune; see the class.

        Raises:
            ValueError: The storage cannot be written; what was begun is removed.
        """
        storage: Any = self._storage
        if storage is None or checkpoint_dir is not None:
            return super().save(checkpoint_dir)
        _count_on(storage)
        is_local = isinstance(storage.storage_filesystem, pyarrow.fs.LocalFileSystem)
        aside = None
        if is_local:
            trial = Path(storage.trial_fs_path)
            remove_partial(trial)
            aside = trial / f"checkpoint{files.PARTIAL}"
            storage.persist_current_checkpoint = self._rename_into_place
        try:
            return super().save(str(aside) if aside else None)
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            raise ValueError(
                f"{storage.trial_fs_path}: the checkpoint after {self.iteration} iterations cannot "
                f"be written ({reason}). Make room there and go on: stepopsd train --resume "
                f"{storage.experiment_fs_path}"
            ) from error
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
                del storage.persist_current_checkpoint  # the class's own again

    @override(Algorithm)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Writes RLlib's state, then what sharded learners hold, model, description and manifest.

        Raises:
            ValueError: Sharded learners are to write to a storage that is not local.
        """
        is_local = isinstance(kwargs.get("filesystem"), pyarrow.fs.LocalFileSystem | None)
        if self.config.shards_learners() and not is_local:
            raise ValueError(
                f"{path}: sharded learners write their parts to a local folder. Save there, and "
                "copy it; a run of Tune does so by itself."
            )
        saved = super().save_to_path(path, **kwargs)
        if is_local:
            self._complete(Path(saved))
        return saved

    @override(Algorithm)
    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Restores everything, Tune's counters too.

        Raises:
            ValueError: The checkpoint is not whole or of another model, or a newer version of this
                package wrote it. Nothing was restored.
        """
        folder = Path(checkpoint_dir)
        damage = files.damage(folder)
        if damage is not None:
            raise ValueError(f"{folder}: {damage}. Go on from an older checkpoint.")
        other = files.of_another_model(folder, self._model_files)
        if other is not None:
            raise ValueError(
                f"{folder}: {other}. Restore it into a run of the model that it is of."
            )
        description = files.describe(folder)
        require_known_version(str(folder), description.get("package", "0"))
        super().load_checkpoint(checkpoint_dir)
        # Tune hands these over in the process that wrote the checkpoint, and in no other.
        self._iteration = description["iteration"]
        self._time_total = description["time_total_s"]

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restores everything; learners on other machines are sent what they cannot read.

        Raises:
            ValueError: Sharded learners wrote it, and it is not on a local storage.
        """
        super().restore_from_path(path, *args, **kwargs)
        found = kwargs.get("filesystem")
        filesystem, place = (found, path) if found else pyarrow.fs.FileSystem.from_uri(str(path))
        self._restore_shards(filesystem, str(place))
        modules = partial(_ask_modules, self.learner_group)
        if not any(modules(lambda module: module.awaits_weights)):
            return
        with filesystem.open_input_file(f"{place}/{files.MODEL}/{files.WEIGHTS}") as file:
            sent = ray.put(safetensors.torch.load(file.read()))
        modules(lambda module: module.set_policy_weights(ray.get(sent)))

    def export_hf(self, path: str, *, merged: bool = True) -> None:
        """Writes the trained model in the Hugging Face format, for vLLM and Transformers.

        Args:
            path: Folder; written aside and renamed, so that it is whole or absent.
            merged: For a run with LoRA, write the whole model; False writes the adapter alone, in
                peft's format.
        """
        target = Path(path).resolve()
        aside = target.with_name(target.name + files.PARTIAL)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            self._write_policy(aside, merged=merged)
            files.put_in_place(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def run_folder(self) -> Path:
        """Where the trial writes its own files: Tune's folder, or RLlib's log folder without Tune.

        On a storage that is not local it is Tune's working directory of the trial, which Tune
        copies to the storage.
        """
        storage = self._storage
        if storage is None:
            return Path(str(self.logdir))
        if isinstance(storage.storage_filesystem, pyarrow.fs.LocalFileSystem):
            folder = Path(storage.trial_fs_path)
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        folder = Path(storage.trial_working_directory)
        if not folder.exists():
            folder.mkdir(parents=True)
            _fetch_own_files(storage, folder)
        return folder

    def _complete(self, folder: Path) -> None:
        model, shards = folder / files.MODEL, folder / SHARDS
        for part in (model, shards):
            shutil.rmtree(part, ignore_errors=True)
        if self.config.shards_learners():
            write_shards(self.learner_group, shards)
        self._write_policy(model, merged=False)
        state, weights = folder / _MODULE_STATE, model / files.WEIGHTS
        if state.is_file() and weights.is_file():  # an adapter's file has another name
            leave_out_weights(state, weights)
        flat = flatten_dict(self._last_result or {})
        description = {
            "format": files.FORMAT,
            "package": files.package_version(),
            "algorithm": f"{type(self).__module__}:{type(self).__qualname__}",
            "iteration": self.iteration,
            "time_total_s": self._time_total,
            # What the trial appends to them after this comes again when a run goes on from here.
            "file_bytes": {
                file.name: file.stat().st_size for file in self.run_folder().glob("*.jsonl")
            },
            "metrics": {
                key: value
                for key, value in flat.items()
                if key.startswith(_KEPT_METRICS)
                and isinstance(value, int | float)
                and math.isfinite(value)
            },
        }
        (folder / files.DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
        files.write_manifest(folder)

    def _restore_shards(self, filesystem: Any, place: str) -> None:
        info = filesystem.get_file_info(f"{place}/{SHARDS}")
        if info.type == pyarrow.fs.FileType.NotFound:
            return
        if not isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            raise ValueError(
                f"{place}: sharded learners wrote it; they read it from a local folder. Copy it "
                "there; a run of Tune does so by itself."
            )
        read_shards(self.learner_group, Path(place) / SHARDS)

    def _write_policy(self, folder: Path, *, merged: bool) -> None:
        lora = self.config.lora_settings()
        if merged or not lora.rank:
            files.write_model(folder, self._policy_weights("whole_weights"), self._model_files)
            return
        base = str(Path(self.config.model_path()).resolve())
        write_adapter(folder, self._policy_weights("adapter_weights"), lora, base=base)
        for name, content in self._model_files.items():
            if name not in _OF_THE_BASE:
                (folder / name).write_bytes(content)

    def _policy_weights(self, of: str) -> dict[str, Any]:
        return learner_weights(self.learner_group, as_reference=False, dtype="float32", of=of)

    def _rename_into_place(self, checkpoint: Checkpoint) -> Checkpoint:
        """Takes the place of Tune's copy from a temporary folder."""
        storage: Any = self._storage
        storage._check_validation_file()
        target = Path(storage.checkpoint_fs_path)
        files.put_in_place(Path(checkpoint.path), target)
        return Checkpoint(filesystem=storage.storage_filesystem, path=str(target))


def _ask_modules(learner_group: Any, call: Callable[[Any], Any]) -> list[Any]:
    """What the module of every learner answers."""
    return ask_learners(learner_group, lambda learner: call(learner.language_module))


def _fetch_own_files(storage: Any, folder: Path) -> None:
    """Brings what an earlier session of the trial wrote: Tune copies whole files over it."""
    selector = pyarrow.fs.FileSelector(storage.trial_fs_path, allow_not_found=True)
    for info in storage.storage_filesystem.get_file_info(selector):
        if info.base_name.endswith(".jsonl"):
            pyarrow.fs.copy_files(
                info.path,
                str(folder / info.base_name),
                source_filesystem=storage.storage_filesystem,
            )


def _count_on(storage: Any) -> None:
    """Numbers the next checkpoint after those that the trial's folder has, of earlier sessions."""
    selector = pyarrow.fs.FileSelector(storage.trial_fs_path, allow_not_found=True)
    for info in storage.storage_filesystem.get_file_info(selector):
        number = info.base_name.removeprefix("checkpoint_")
        if number.isdigit():
            storage.current_checkpoint_index = max(storage.current_checkpoint_index, int(number))


def remove_partial(trial: Path) -> None:
    """Removes what a killed process left half written in a trial folder."""
    for folder in trial.glob(f"*{files.PARTIAL}"):
        shutil.rmtree(folder, ignore_errors=True)


def require_known_version(where: str, package: str) -> None:
    """Refuses what a newer version of this package wrote.

    Raises:
        ValueError: With both versions.
    """
    own = files.package_version()
    try:
        is_newer = Version(package) > Version(own)
    except InvalidVersion:
        is_newer = True
    if is_newer:
        raise ValueError(
            f"{where}: was written by {files.PACKAGE} {package}, this is {own}. Install that "
            f"version: pip install '{files.PACKAGE}>={package}'"
        )
