"""Where a trial of a run folder stands: its newest whole checkpoint, and what it wrote after it."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs

from stepopsd_rllib.commands.checkpoints import newest_whole
from stepopsd_rllib.commands.kept_checkpoints import FoundCheckpoint, find
from stepopsd_rllib.commands.progress import StopConditions
from stepopsd_rllib.commands.run_file import PlannedTrial
from stepopsd_rllib.commands.storage import Storage
from stepopsd_rllib.commands.tensorboard_restart import PREFIX, restart_mark
from stepopsd_rllib.commands.trials import ERROR_FILE
from stepopsd_rllib.report.run_files import RESULTS
from stepopsd_rllib.training.checkpoint_files import PARTIAL
from stepopsd_rllib.training.checkpointed_algorithm import remove_partial

ITERATION = "training_iteration"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a trial stands.

    Attributes:
        checkpoint: The newest whole one, on this machine; None to begin anew.
        iteration: Training iterations before it.
        is_finished: Whether its stop criteria were met there.
        file_bytes: How long the trial's own files were then.
    """

    checkpoint: str | None
    iteration: int
    is_finished: bool
    file_bytes: Mapping[str, int]

    def __str__(self) -> str:
        """Such as "from checkpoint_000003, after 30 iterations"."""
        if self.is_finished:
            return f"finished after {self.iteration} iterations"
        if self.checkpoint is None:
            return "from the start"
        return f"from {posixpath.basename(self.checkpoint)}, after {self.iteration} iterations"


def standing(
    storage: Storage, name: str, trial: PlannedTrial, say: Callable[[str], None], scratch: Path
) -> Standing:
    """Looks for a trial's newest whole checkpoint and whether the trial ended there.

    Args:
        storage: Where run folders are.
        name: The run folder.
        trial: One of its trials.
        say: Told of checkpoints that are passed over.
        scratch: Folder for checkpoints of a storage that is not local.
    """
    folder = posixpath.join(storage.path, name, trial.folder)
    if storage.is_local:
        remove_partial(Path(folder))
    chosen, found = None, find(storage.filesystem, folder)
    for checkpoint in reversed(found):
        local = _local(storage, checkpoint, scratch / trial.folder)
        if newest_whole([local], say):
            chosen = (local, checkpoint)
            break
    if chosen is None:
        return Standing(None, 0, is_finished=False, file_bytes={})
    local, checkpoint = chosen
    iteration = checkpoint.iteration
    results = _rows(storage, posixpath.join(folder, RESULTS))
    last = [row for row in results if row[ITERATION] == iteration]
    reached = bool(last) and StopConditions(trial.example.stop)(trial.folder, last[-1])
    return Standing(
        str(local),
        iteration,
        is_finished=reached,
        file_bytes=checkpoint.description.get("file_bytes", {}),
    )


def cut_files(storage: Storage, name: str, trial: str, standing: Standing) -> None:
    """Takes out of a trial's files what was written after its checkpoint: it will come again.

    A line that a killed process left half written goes with it.
    """
    folder = posixpath.join(storage.path, name, trial)
    has_events = False
    for info in storage.filesystem.get_file_info(
        pyarrow.fs.FileSelector(folder, allow_not_found=True)
    ):
        if info.base_name.endswith(".jsonl"):
            length = standing.file_bytes.get(info.base_name, 0)
            _replace(storage, info.path, _content(storage, info.path)[:length])
        elif info.base_name == ERROR_FILE:
            storage.filesystem.delete_file(info.path)
        has_events = has_events or info.base_name.startswith(PREFIX)
    if has_events:
        mark, content = restart_mark(standing.iteration)
        _replace(storage, posixpath.join(folder, mark), content)
    path = posixpath.join(folder, RESULTS)
    kept = [row for row in _rows(storage, path) if row[ITERATION] <= standing.iteration]
    _replace(storage, path, "".join(json.dumps(row) + "\n" for row in kept).encode())
    path = posixpath.join(folder, "progress.csv")
    table = list(csv.reader(io.StringIO(_content(storage, path).decode("utf-8", "replace"))))
    if table and ITERATION in table[0]:
        column, width = table[0].index(ITERATION), len(table[0])
        whole = [row for row in table[1:] if len(row) == width and row[column].isdigit()]
        kept_rows = [row for row in whole if int(row[column]) <= standing.iteration]
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([table[0], *kept_rows])
        _replace(storage, path, out.getvalue().encode())


@contextmanager
def scratch_folder(storage: Storage) -> Iterator[Path]:
    """A folder for checkpoints that are not on this machine."""
    folder = Path(tempfile.mkdtemp(prefix="stepopsd_")) if not storage.is_local else Path()
    try:
        yield folder
    finally:
        if not storage.is_local:
            shutil.rmtree(folder, ignore_errors=True)


def _local(storage: Storage, checkpoint: FoundCheckpoint, scratch: Path) -> Path:
    if storage.is_local:
        return Path(checkpoint.path)
    target = scratch / posixpath.basename(checkpoint.path)
    target.mkdir(parents=True)
    pyarrow.fs.copy_files(checkpoint.path, str(target), source_filesystem=storage.filesystem)
    return target


def _content(storage: Storage, path: str) -> bytes:
    """What a file holds; nothing where there is none."""
    try:
        with storage.filesystem.open_input_stream(path) as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _rows(storage: Storage, path: str) -> list[dict[str, Any]]:
    """The whole results of a `result.json`; [] where there is none."""
    found = []
    for line in _content(storage, path).splitlines():
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get(ITERATION), int):
                found.append(row)
    return found


def _replace(storage: Storage, path: str, content: bytes) -> None:
    """Writes a file aside and renames it; does nothing where nothing changes."""
    if content == _content(storage, path):
        return
    aside = f"{path}{PARTIAL}"
    with storage.filesystem.open_output_stream(aside) as file:
        file.write(content)
    storage.filesystem.move(aside, path)
