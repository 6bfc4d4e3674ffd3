"""Where an environment gets its tasks: generated games, or official ones in a folder.

Parsed games are shared by all environments of a process, in a cache that is bounded.
"""

import functools
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from stepopsd_envs.alfworld.game import Game, load_game
from stepopsd_envs.alfworld.generator import (
    TASK_TYPES,
    GeneratedGame,
    TaskIdError,
    generate_game,
    generated_tasks,
    write_games,
)
from stepopsd_envs.alfworld.sizes import SIZES
from stepopsd_envs.text_env import SPLITS, nearest, require_choice
from stepopsd_envs.text_files import read_json

logger = logging.getLogger(__name__)

GAME_FILE = "game.tw-pddl"
EXCLUDED_IN_PATH = ("movable", "Sliced")
"""alfworld plays no game whose path holds one of these."""

_CACHED_GAMES = 256
_DEFAULT_DATA_FOLDER = "~/.cache/alfworld"
"""Where alfworld itself looks without $ALFWORLD_DATA."""
_DATA_SET = "json_2.1.1"
_TAIL_BYTES = 8192
_HAS_MOVABLE = "with a movable receptacle or a slice"
_OTHER_TYPE = "of other task types"
_UNSOLVABLE = "not marked solvable"
_ALFWORLDS_OWN_REASONS = (_HAS_MOVABLE, _OTHER_TYPE, _UNSOLVABLE)
"""alfworld leaves these out too, so that the panel is the published one without them."""
_SOLVABLE = re.compile(rb'(?<!\\)"solvable":\s*(true|false)')


class TaskSource(Protocol):
    """The tasks of all splits, and the game of each."""

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of a split, sorted."""
        ...

    def task_type(self, task_id: str) -> str:
        """Returns the task type that an id names."""
        ...

    def game(self, task_id: str) -> Game:
        """Returns the parsed game of an id; shared, so never to be changed."""
        ...

    def game_file(self, task_id: str, scratch: Path) -> Path:
        """Returns the game as a file, written under `scratch` if there is none yet."""
        ...


class GeneratedTasks:
    """Games made from their ids; needs no file but the alfworld wheel."""

    def __init__(self, size: str, task_types: Sequence[str]):
        """Takes the size of the games and the task types wanted."""
        require_choice("size", size, SIZES)
        self._size = size
        self._task_types = task_types

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the ids of a split, sorted."""
        every = _generated_tasks(self._size, split)
        if len(self._task_types) == len(TASK_TYPES):
            return every
        return tuple(name for name in every if name.split("/")[3] in self._task_types)

    def task_type(self, task_id: str) -> str:
        """Returns the fourth part of the id."""
        return task_id.split("/")[3]

    def game(self, task_id: str) -> Game:
        """Returns the game of an id of any size, split and type."""
        return _generated_game(task_id).game

    def game_file(self, task_id: str, scratch: Path) -> Path:
        """Writes the game in the official layout under `scratch`."""
        return write_games(scratch, [task_id])[0]


class OfficialTasks:
    """Games under a data root; a task id is the path of its game file below that root."""

    def __init__(self, root: Path, task_types: Sequence[str]):
        """Takes a data root that holds the splits, or `json_2.1.1` with the splits."""
        self._root = root
        self._task_types = tuple(task_types)
        self._base = root / _DATA_SET if (root / _DATA_SET).is_dir() else root
        if not any((self._base / split).is_dir() for split in SPLITS):
            raise FileNotFoundError(
                f"data={str(root)!r} holds no ALFWorld games: there is no {_DATA_SET}/train, "
                f"valid_seen or valid_unseen in it. Run `alfworld-download`, or point data (or "
                f'ALFWORLD_DATA) at its folder, or use data="generated".'
            )

    def tasks(self, split: str) -> tuple[str, ...]:
        """Returns the paths of the playable games of a split, sorted."""
        require_choice("split", split, SPLITS)
        return _official_tasks(self._root, self._base / split, self._task_types)

    def task_type(self, task_id: str) -> str:
        """Returns the task type that occurs in the path, as alfworld tells them apart."""
        return next(name for name in TASK_TYPES if name in task_id)

    def game(self, task_id: str) -> Game:
        """Returns the game at a path below the data root."""
        return _official_game(self._file(task_id))

    def game_file(self, task_id: str, scratch: Path) -> Path:
        """Returns the official file itself."""
        return self._file(task_id)

    def _file(self, task_id: str) -> Path:
        path = PurePosixPath(task_id)
        if path.is_absolute() or ".." in path.parts or path.name != GAME_FILE:
            raise TaskIdError(
                f"task={task_id!r} is no path of a {GAME_FILE} below the data root {self._root}."
            )
        if not any(name in task_id for name in TASK_TYPES):
            raise TaskIdError(
                f"task={task_id!r} names none of the task types {', '.join(TASK_TYPES)}, by which "
                "ALFWorld tells them apart. Rename its folder as alfworld does."
            )
        file = self._root / path
        if not file.is_file():
            raise TaskIdError(f"task={task_id!r}: there is no such file below {self._root}.")
        if not file.resolve().is_relative_to(self._root.resolve()):
            raise TaskIdError(
                f"task={task_id!r}: is a link to a place outside of {self._root}. Copy the game."
            )
        return file


def task_source(
    data: str | Path, size: str, task_types: str | Sequence[str] | None
) -> GeneratedTasks | OfficialTasks:
    """Makes the source that the configuration names.

    Args:
        data: "generated", "official" (the folder of $ALFWORLD_DATA) or a data root.
        size: Size of generated games.
        task_types: The task types wanted; None for all six.
    """
    chosen = TASK_TYPES if task_types is None else task_types
    chosen = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    if not chosen:
        raise ValueError("task_type=[] leaves no task. Name some types, or None for all six.")
    for task_type in chosen:
        require_choice("task_type", task_type, TASK_TYPES)
    if data == "generated":
        return GeneratedTasks(size, chosen)
    if data == "official":
        folder = os.environ.get("ALFWORLD_DATA", _DEFAULT_DATA_FOLDER)
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(
                f'data="official": the folder {root} (ALFWORLD_DATA) does not exist. Run '
                '`alfworld-download`, or set ALFWORLD_DATA, or use data="generated".'
            )
        return OfficialTasks(root.resolve(), chosen)
    root = Path(data).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"data={str(data)!r} is neither 'generated' nor 'official' nor a folder that exists."
            + nearest(str(data), ("generated", "official"))
        )
    return OfficialTasks(root.resolve(), chosen)


@functools.lru_cache(maxsize=_CACHED_GAMES)
def _generated_game(task_id: str) -> GeneratedGame:
    return generate_game(task_id)


@functools.lru_cache(maxsize=_CACHED_GAMES)
def _official_game(file: Path) -> Game:
    return load_game(file)


_generated_tasks = functools.cache(generated_tasks)


@functools.lru_cache(maxsize=16)
def _official_tasks(root: Path, folder: Path, task_types: tuple[str, ...]) -> tuple[str, ...]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist, so this split has no games.")
    left_out: Counter[str] = Counter()
    left_out_games: list[tuple[str, str]] = []
    tasks = []
    for file in folder.rglob(GAME_FILE):
        task_id = file.relative_to(root).as_posix()
        reason = _reason_to_leave_out(file, task_id, task_types)
        if reason:
            left_out[reason] += 1
            left_out_games.append((task_id, reason))
        else:
            tasks.append(task_id)
    reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    if not tasks:
        raise ValueError(
            f"{folder} has no playable game ({reasons or f'no {GAME_FILE} at all'}). "
            "Check the folder and task_type."
        )
    if set(left_out) - set(_ALFWORLDS_OWN_REASONS):
        logger.warning(
            "%s: %d games, %d left out (%s), such as %s. A success rate is one over the games that "
            "are there.",
            folder,
            len(tasks),
            left_out.total(),
            reasons,
            min(file for file, reason in left_out_games if reason not in _ALFWORLDS_OWN_REASONS),
        )
    return tuple(sorted(tasks))


def _reason_to_leave_out(file: Path, task_id: str, task_types: tuple[str, ...]) -> str:
    if any(word in task_id for word in EXCLUDED_IN_PATH):
        return _HAS_MOVABLE
    if not any(task_type in task_id for task_type in task_types):
        return _OTHER_TYPE
    return _reason_not_to_play(file)


def _reason_not_to_play(file: Path) -> str:
    """Nothing for a whole file that says `"solvable": true`, near its end if alfworld wrote it.

    Parsing all 3,553 training files as JSON takes seconds; a quote inside a JSON text is escaped,
    so that the key cannot be found where it is not. A file is parsed where that leaves a doubt.
    """
    try:
        with file.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            tail = stream.read()
        found = _SOLVABLE.search(tail)
        if found is not None and tail.rstrip().endswith(b"}"):
            return "" if found[1] == b"true" else _UNSOLVABLE
        data = read_json(file)
    except OSError as error:
        return f"that cannot be read ({error.strerror})"
    except ValueError as error:
        is_pointer = "Git-LFS" in str(error)
        return "that are Git-LFS pointers" if is_pointer else "cut off or damaged"
    solvable = data.get("solvable") if isinstance(data, dict) else None
    if solvable is None:
        return "without the key 'solvable'"
    return "" if solvable is True else _UNSOLVABLE
