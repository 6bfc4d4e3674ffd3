"""Where run folders go: a folder of this machine, or an address that pyarrow opens (`s3://...`)."""

from __future__ import annotations

import fcntl
import os
import posixpath
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs

from stepopsd_rllib.commands.paths import expanded, is_of_a_job

_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_HALF_AN_ADDRESS = re.compile(r"^(s3|gs|gcs|hdfs|abfs|abfss|az|file):(?!//)")
LOCK = ".lock"
"""File of a run folder that the training process holds."""
_LEAST_FREE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder of run folders.

    Attributes:
        location: An absolute path, or an address: what Tune is told.
        filesystem: Opens `path`.
        path: The location as `filesystem` names it.
    """

    location: str
    filesystem: pyarrow.fs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        """Whether the location is a path of this machine."""
        return isinstance(self.filesystem, pyarrow.fs.LocalFileSystem)

    def run(self, name: str) -> str:
        """Where a run folder is, as a person would write it."""
        return posixpath.join(self.location, name)

    def exists(self, *names: str) -> bool:
        """Whether there is a file or folder of that name."""
        info = self.filesystem.get_file_info(posixpath.join(self.path, *names))
        return info.type != pyarrow.fs.FileType.NotFound


def open_storage(text: str) -> Storage:
    """The storage that a person names.

    Args:
        text: A folder, with `~` and variables, or an address.

    Raises:
        ValueError: The address cannot be opened, or the folder lies where Ray deletes it.
    """
    if _HALF_AN_ADDRESS.match(text):
        scheme, _, rest = text.partition(":")
        raise ValueError(f"--storage {text}: write {scheme}://{rest.lstrip('/')}.")
    if not text.strip():
        raise ValueError("--storage: names nothing. Give a folder, such as --storage runs.")
    text = expanded(text, "--storage")
    if _ADDRESS.match(text) and not text.startswith("file://"):
        return _opened(text, text)
    path = os.path.abspath(text.removeprefix("file://"))
    if is_of_a_job(path):
        raise ValueError(
            f"--storage {text}: lies in the job's working directory, which Ray deletes after the "
            "job. Name a folder that stays, by its absolute path, or an address: --storage "
            "/shared/runs."
        )
    return Storage(path, pyarrow.fs.LocalFileSystem(), path)


def reserve(storage: Storage, name: str | None, default: str) -> str:
    """Makes the run folder, so that no other run can take its name; returns the name.

    Args:
        storage: Where.
        name: What the user named it.
        default: What it is called otherwise, with the time, and with a number if that is taken.

    Raises:
        ValueError: The name is taken or cannot be one, or nothing can be written there.
    """
    if name is not None:
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"--name {name}: is not the name of one folder.")
        if not _made(storage, name):
            raise _taken(storage, name)
        return name
    stem = f"{default.replace('/', '_')}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    for free in (stem, *(f"{stem}_{number}" for number in range(2, 1000))):
        if _made(storage, free):
            return free
    raise ValueError(f"--storage {storage.location}: no free name for the run. Give a --name.")


def require_free(storage: Storage, name: str | None) -> None:
    """Refuses a name that is taken, before anything that takes time.

    Raises:
        ValueError: It is.
    """
    if name and storage.exists(name):
        raise _taken(storage, name)


def _taken(storage: Storage, name: str) -> ValueError:
    return ValueError(
        f"--name {name}: {storage.run(name)} exists already. Choose another name, or go on with "
        f"that run: stepopsd train --resume {shlex.quote(storage.run(name))}"
    )


def began(storage: Storage, name: str) -> bool:
    """Whether a run folder holds a trial's folder."""
    selector = pyarrow.fs.FileSelector(posixpath.join(storage.path, name), allow_not_found=True)
    return any(
        info.type == pyarrow.fs.FileType.Directory
        for info in storage.filesystem.get_file_info(selector)
    )


@contextmanager
def locked(storage: Storage, name: str) -> Iterator[None]:
    """Holds a run folder for one process at a time; on a local storage only.

    Raises:
        ValueError: Another process trains there.
    """
    if not storage.is_local:
        yield
        return
    with Path(storage.path, name, LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{storage.run(name)}: another process trains there. Wait, or end it first."
            ) from error
        except OSError:  # a file system without locks
            pass
        yield


def is_locked(run: Path) -> bool:
    """Whether a process trains in a run folder."""
    try:
        with (run / LOCK).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def release(storage: Storage, name: str) -> None:
    """Removes the folder of a run that never began."""
    if storage.is_local:
        for file in Path(storage.path, name).iterdir():
            file.unlink()
        Path(storage.path, name).rmdir()
    elif storage.exists(name):
        storage.filesystem.delete_dir(posixpath.join(storage.path, name))


def _opened(address: str, path: str) -> Storage:
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(address)
    except (OSError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"--storage {address}: cannot be opened ({' '.join(str(error).split())})."
        ) from error
    return Storage(address.rstrip("/"), filesystem, path.rstrip("/"))


def _made(storage: Storage, name: str) -> bool:
    """Makes a new folder and says whether it is new."""
    where = posixpath.join(storage.path, name)
    try:
        if storage.is_local:
            Path(storage.path).mkdir(parents=True, exist_ok=True)
            _require_room(storage)
            Path(where).mkdir()
        else:
            if storage.exists(name):
                return False
            storage.filesystem.create_dir(where, recursive=True)
    except FileExistsError as error:
        if error.filename == where:
            return False
        raise _cannot_be_written(storage, error) from error
    except OSError as error:
        raise _cannot_be_written(storage, error) from error
    return True


def _require_room(storage: Storage) -> None:
    status = os.statvfs(storage.path)
    free = status.f_bavail * status.f_frsize
    if free < _LEAST_FREE_BYTES:
        raise OSError(f"{free / 2**20:.0f} MB are free, no checkpoint fits")


def _cannot_be_written(storage: Storage, error: OSError) -> ValueError:
    reason = error.strerror or " ".join(str(error).split())
    return ValueError(
        f"--storage {storage.location}: cannot be written ({reason}). Name a folder that can."
    )
