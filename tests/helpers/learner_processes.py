"""Learners that exchange gradients, each in a process of its own, without Ray."""

from __future__ import annotations

import datetime
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import ray
import torch

TIMEOUT_S = 180.0


def in_processes(count: int, call: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `call(rank, *arguments)` returns in each of several processes with a gloo group.

    Raises:
        AssertionError: One of them raised, or waits for the others in vain.
    """
    assert not ray.is_initialized(), "a forked process would ask Ray, and never get an answer"
    context = multiprocessing.get_context("fork")  # nothing is imported again
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(count):
            here, there = context.Pipe(duplex=False)
            process = context.Process(
                target=_run, args=(rank, count, folder, there, call, arguments), daemon=True
            )
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        try:
            answers = []
            for rank, pipe in enumerate(pipes):
                assert pipe.poll(TIMEOUT_S * 4), f"process {rank} hangs"
                answers.append(pipe.recv())
        finally:
            for process in processes:
                process.terminate()
                process.join()
    for rank, (error, _) in enumerate(answers):
        assert not error, f"process {rank}: {error}"
    return [result for _, result in answers]


def _run(rank: int, count: int, folder: str, pipe: Any, call: Any, arguments: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/group",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=TIMEOUT_S),
    )
    try:
        pipe.send(("", call(rank, *arguments)))
    except Exception:
        pipe.send((traceback.format_exc(), None))
    torch.distributed.destroy_process_group()
