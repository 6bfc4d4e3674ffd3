"""A Ray of a test's own, started from the command line, whose processes are all ended after it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STORE_BYTES = 200_000_000


@contextmanager
def started_ray(
    *options: str, python: str = sys.executable, **environment: str
) -> Iterator[dict[str, str]]:
    """Runs `ray start --head` in a short folder of its own.

    Args:
        options: Of `ray start`.
        python: Interpreter of its workers.
        environment: Variables of the cluster's processes.

    Yields:
        Variables with which a command finds this cluster and no other.
    """
    folder = Path(f"/tmp/rt{os.getpid()}")  # sockets have short names
    folder.mkdir()
    variables = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    variables |= environment
    variables.pop("RAY_ADDRESS", None)
    head = ["start", "--head", "--port=0", f"--object-store-memory={STORE_BYTES}", *options]
    try:
        subprocess.run([python, "-m", "ray.scripts.scripts", *head], env=variables, check=True)
        address = (folder / "ray/ray_current_cluster").read_text().strip()
        yield variables | {"RAY_ADDRESS": address}
    finally:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                is_ours = str(folder).encode() in entry.read_bytes()
            except OSError:  # it ended meanwhile
                continue
            if is_ours and entry.parent.name != str(os.getpid()):
                os.kill(int(entry.parent.name), signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
