"""Which checkpoints of a trial stay: the newest, and the best where a result says which is best."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.fs
from ray import tune
from ray.tune.experiment import Trial

from stepopsd_rllib.training.checkpoint_files import DESCRIPTION

PREFIX = "checkpoint_"


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """A checkpoint folder in a trial folder.

    Attributes:
        path: Path as its file system names it.
        number: Number in the order in which they were written.
        description: What it says of itself; {} where it is not whole.
    """

    path: str
    number: int
    description: dict[str, Any]

    @property
    def iteration(self) -> int:
        """Training iterations before it; 0 where it does not say."""
        return int(self.description.get("iteration", 0))

    def score(self, key: str) -> float:
        """A result at the time of the checkpoint; -inf where it had none."""
        value = self.description.get("metrics", {}).get(key)
        return float(value) if isinstance(value, int | float) else float("-inf")


def find(filesystem: pyarrow.fs.FileSystem, trial: str) -> list[FoundCheckpoint]:
    """The checkpoint folders of a trial folder, oldest first."""
    selector = pyarrow.fs.FileSelector(trial, allow_not_found=True)
    found = []
    for info in filesystem.get_file_info(selector):
        number = info.base_name.removeprefix(PREFIX)
        if info.type == pyarrow.fs.FileType.Directory and number.isdigit():
            found.append(
                FoundCheckpoint(info.path, int(number), _description(filesystem, info.path))
            )
    return sorted(found, key=lambda checkpoint: checkpoint.number)


def to_drop(
    found: Sequence[FoundCheckpoint], keep: int | None, score: str | None
) -> list[FoundCheckpoint]:
    """The checkpoints that need not stay.

    Args:
        found: Oldest first.
        keep: How many stay; None keeps all.
        score: Result key whose largest values stay. The newest stays in any case, even if it is
            one more. Without it the newest `keep` stay.
    """
    if keep is None:
        return []
    ranked = sorted(found, key=lambda c: (c.score(score) if score else 0.0, c.number))
    staying = {checkpoint.path for checkpoint in [*ranked[-keep:], *found[-1:]]}
    return [checkpoint for checkpoint in found if checkpoint.path not in staying]


def size(filesystem: pyarrow.fs.FileSystem, path: str) -> int:
    """Bytes of a folder."""
    selector = pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True)
    return sum(info.size or 0 for info in filesystem.get_file_info(selector))


def in_megabytes(num_bytes: int) -> str:
    """A number of bytes as text, such as "15.2 MB"."""
    return f"{num_bytes / 1e6:,.1f} MB"


class KeptCheckpoints(tune.Callback):
    """Shows each new checkpoint with its size and removes those that need not stay.

    Tune's own rule knows only the checkpoints of its own session; a run that goes on has older
    ones.
    """

    def __init__(
        self,
        keep: int | None,
        score: str | None,
        write: Callable[[str], None] = lambda line: None,
    ):
        """Takes what `to_drop` takes, and `write`, which is given a line to show."""
        self._keep, self._score, self._write = keep, score, write

    def on_checkpoint(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        checkpoint: tune.Checkpoint,
        **info: Any,
    ) -> None:
        """Shows the checkpoint that Tune was just told of, and removes what need not stay."""
        storage: Any = trial.storage
        filesystem, folder = storage.storage_filesystem, storage.trial_fs_path
        found = find(filesystem, folder)
        for old in to_drop(found, self._keep, self._score):
            filesystem.delete_dir(old.path)
        name = posixpath.basename(str(checkpoint.path))
        after = _description(filesystem, str(checkpoint.path)).get("iteration", "?")
        self._write(
            f"  {name} after {after} iterations: "
            f"{in_megabytes(size(filesystem, str(checkpoint.path)))}"
        )


def _description(filesystem: pyarrow.fs.FileSystem, path: str) -> dict[str, Any]:
    try:
        with filesystem.open_input_stream(posixpath.join(path, DESCRIPTION)) as file:
            found = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
