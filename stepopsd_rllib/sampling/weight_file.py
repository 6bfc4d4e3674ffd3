"""Weights in a file, which the processes of one engine read each for itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Names and tensors of a safetensors file; another process gets the path alone.

    Attributes:
        path: The file. In memory (`/dev/shm`) its pages are there once, whoever reads them.
    """

    path: str

    @classmethod
    def write(cls, path: Path, weights: Iterable[tuple[str, torch.Tensor]]) -> WeightFile:
        """Writes the tensors, wherever they are. Names that share memory get a copy each."""
        seen: set[int] = set()
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in weights:
            on_cpu = tensor.detach().cpu().contiguous()
            if on_cpu.data_ptr() in seen:
                on_cpu = on_cpu.clone()
            seen.add(on_cpu.data_ptr())
            tensors[name] = on_cpu
        save_file(tensors, path)
        return cls(str(path))

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """One tensor after the other, on the CPU."""
        with safe_open(self.path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no dictionary)
                yield name, file.get_tensor(name)
