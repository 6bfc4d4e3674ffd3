"""A Ray of a test's own, started from the command line, whose processes are all ended after it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

STORE_BYTES = 200_000_000
END_S = 10.0


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
        while left := _processes_of(folder):  # one that ends may have started another
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=END_S)
        shutil.rmtree(folder, ignore_errors=True)


def _processes_of(folder: Path) -> list[psutil.Process]:
    """Those that name the folder: in their command line, or, as workers do, in the environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.environ().get("RAY_TMPDIR", "")]
        except psutil.Error:  # it ended meanwhile, or is another user's
            continue
        is_of_it = any(word == str(folder) or f"{folder}/" in word for word in words)
        if is_of_it and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
