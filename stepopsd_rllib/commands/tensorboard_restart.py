"""Tells TensorBoard that a trial goes on from an earlier iteration than its events end with."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from tensorboardX import SummaryWriter

PREFIX = "events.out.tfevents."
"""How the name of a file that TensorBoard reads begins; it reads them in the order of names."""


def restart_mark(iteration: int) -> tuple[str, bytes]:
    """The event file of a restart: on reading it, TensorBoard forgets what will come again.

    Args:
        iteration: The last one that stands.

    Returns:
        Name and content of the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        SummaryWriter(folder, purge_step=iteration + 1).close()
        (written,) = Path(folder).iterdir()
        # Behind the files before it; a writer that begins in the same second has a shorter name.
        return f"{PREFIX}{int(time.time())}.{socket.gethostname()}.restart", written.read_bytes()
