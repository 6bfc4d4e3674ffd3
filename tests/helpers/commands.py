"""The command line in a process of its own, as a user starts it."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


def start(*arguments: str, log: Path, **environment: str) -> subprocess.Popen:
    """Starts `stepopsd`; what it prints is appended to `log`."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'envs'}:{ROOT}", "RAY_ADDRESS": "local"}
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "stepopsd_cli", *arguments],
            env=env | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
        )
    atexit.register(process.kill)  # of a test that failed meanwhile
    return process


def wait_for(
    text: str, log: Path, process: subprocess.Popen | None = None, seconds: float = 480.0
) -> None:
    """Until a text stands in a log; fails when the process has ended without it."""
    end = time.monotonic() + seconds
    while text not in log.read_text() and time.monotonic() < end:
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.2)
    assert text in log.read_text(), log.read_text()


def results(run: Path) -> list[dict[str, Any]]:
    """The results of a run of one trial; a line that is being written is left out."""
    (file,) = run.glob("*/result.json")
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def workers(process: int, title: str) -> list[psutil.Process]:
    """Ray's processes below one whose title holds a text."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        try:
            if title in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found
