"""The `shards/` of a checkpoint: written and read by all learners, wherever they run.

A learner whose machine has the checkpoint's folder, by a shared file system too, uses it as it is.
For one that has not, its own file comes through Ray piece by piece, and all files go to it when
they are read.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ray

from stepopsd_rllib.training.learner_calls import ask_learners

SHARDS = "shards"
_METADATA = ".metadata"  # torch.distributed.checkpoint's: which tensors there are, and where
_PIECE_BYTES = 2**26


def write_shards(learner_group: Any, folder: Path) -> None:
    """Lets all learners write their parts into a folder, which is made.

    Raises:
        LearnerLost: One of them died.
    """
    folder.mkdir(parents=True)
    mark = folder / uuid.uuid4().hex
    mark.write_text(mark.name)
    places = ask_learners(learner_group, partial(_write, str(folder), mark.name, _digest(mark)))
    mark.unlink()
    for number, place in places:
        if place is not None:
            _fetch(learner_group, number, Path(place), folder)


def read_shards(learner_group: Any, folder: Path) -> None:
    """Lets all learners read their parts of a folder that any number of learners wrote.

    Raises:
        LearnerLost: One of them died.
        ValueError: It is of other tensors than the learners have.
    """
    has_it = ask_learners(
        learner_group, partial(_has, str(folder), _METADATA, _digest(folder / _METADATA))
    )
    without = [number for number, has in has_it if not has]
    if without:
        ask_learners(learner_group, _make_room, only=without)
        for file in sorted(folder.iterdir()):
            for piece in _pieces(file):
                sent = ray.put(piece)
                ask_learners(learner_group, partial(_take, file.name, sent), only=without)
    ask_learners(learner_group, partial(_read, str(folder), without))


def _write(folder: str, mark: str, digest: str, learner: Any) -> tuple[int, str | None]:
    """The learner's number, and its own folder where it does not have the checkpoint's."""
    number, has = _has(folder, mark, digest, learner)
    place = folder if has else tempfile.mkdtemp()
    learner.write_shards(place)
    return number, None if has else place


def _has(folder: str, name: str, digest: str, learner: Any) -> tuple[int, bool]:
    """The learner's number, and whether a file is on its machine: this one, not an older one."""
    file = Path(folder) / name
    return learner.number, learner.shares_folders and file.is_file() and _digest(file) == digest


def _fetch(learner_group: Any, number: int, place: Path, folder: Path) -> None:
    """Brings what a learner wrote on its machine, and removes it there."""
    (names,) = ask_learners(
        learner_group, lambda _: sorted(file.name for file in place.iterdir()), only=[number]
    )
    for name in names:
        with (folder / name).open("wb") as file:
            while True:
                start = file.tell()
                (piece,) = ask_learners(
                    learner_group, lambda _, n=name, s=start: _piece(place / n, s), only=[number]
                )
                if not piece:
                    break
                file.write(piece)
    ask_learners(learner_group, lambda _: shutil.rmtree(place), only=[number])


def _make_room(learner: Any) -> None:
    learner.received_shards = tempfile.mkdtemp()


def _take(name: str, sent: ray.ObjectRef, learner: Any) -> None:
    with (Path(learner.received_shards) / name).open("ab") as file:
        file.write(ray.get(sent))


def _read(folder: str, without: list[int], learner: Any) -> None:
    if learner.number not in without:
        learner.read_shards(folder)
        return
    try:
        learner.read_shards(learner.received_shards)
    finally:
        shutil.rmtree(learner.received_shards)


def _pieces(path: Path) -> Iterator[bytes]:
    start = 0
    while piece := _piece(path, start):
        yield piece
        start += len(piece)


def _piece(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(_PIECE_BYTES)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
