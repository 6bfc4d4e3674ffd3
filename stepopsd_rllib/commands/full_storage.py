"""A storage that is full or locked in the middle of a run: one line, and how to go on."""

from __future__ import annotations

import errno
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stepopsd_rllib.commands import failures

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def writable(where: str, command: str) -> Iterator[None]:
    """Tells of a run folder that cannot be written any more.

    Args:
        where: The run folder.
        command: Command that goes on with it, such as "train".

    Raises:
        ValueError: What a write inside failed of, with the fix.
    """
    try:
        yield
    except Exception as error:  # Tune wraps what its loop raises
        message = failures.users_mistake(error) or ""
        if not message.startswith(failures.UNWRITTEN):
            raise
        _quiet_writers()
        raise ValueError(
            f"{where}: cannot be written any more ({message.removeprefix(failures.UNWRITTEN)}). "
            "Make room there, or let it be written, and go on: "
            f"stepopsd {command} --resume {shlex.quote(where)}"
        ) from error


def _quiet_writers() -> None:
    """Keeps writers of logs, which flush once more in threads and at exit, from saying it again."""

    def unless_told(hook: Callable[[Any], object]) -> Callable[[Any], object]:
        def show(event: Any) -> None:
            error = event.exc_value
            # Without a number: the queue of a writer that was closed when its write failed.
            is_told = isinstance(error, OSError) and error.errno in (*UNWRITABLE, None)
            if not is_told and not isinstance(error, EOFError):
                hook(event)

        return show

    sys.unraisablehook = unless_told(sys.unraisablehook)
    threading.excepthook = unless_told(threading.excepthook)
