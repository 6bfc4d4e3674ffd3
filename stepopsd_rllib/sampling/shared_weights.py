"""Weights read where the learner has them: CUDA's interprocess handles instead of copies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedWeights:
    """Handles of tensors on a GPU, for other processes that use the same GPU.

    They hold as long as the tensors stay where they are, whatever numbers are written into them: a
    learner makes them once. No byte of a weight travels; who reads must be done before the learner
    writes again.

    Attributes:
        gpu: The card's UUID. Its number may be another one in another process.
        addresses: Of the tensors by name, to tell whether they moved.
        handles: Name -> PyTorch's function and arguments that open the tensor in another process.
    """

    gpu: str
    addresses: Mapping[str, int]
    handles: Mapping[str, tuple[Callable[..., Tensor], tuple[Any, ...]]]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> SharedWeights:
        """Handles of tensors, which must outlive every use of them.

        Args:
            weights: By checkpoint name, all on one GPU.

        Raises:
            ValueError: Some are elsewhere.
        """
        from torch.multiprocessing.reductions import reduce_tensor

        devices = {tensor.device for tensor in weights.values()}
        if len(devices) != 1 or next(iter(devices)).type != "cuda":
            raise ValueError(f"SharedWeights: tensors on {sorted(map(str, devices))}, not one GPU.")
        return cls(
            gpu=gpu_uuid(next(iter(devices))),
            addresses=addresses(weights),
            handles={name: reduce_tensor(tensor.detach()) for name, tensor in weights.items()},
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, in the memory of the process that shares them; read-only by accord.

        Raises:
            RuntimeError: This process does not see the GPU.
        """
        device = self._device()
        if device is None:
            raise RuntimeError(f"SharedWeights: GPU {self.gpu} is not one of this process's.")
        found = {}
        for name, (rebuild, values) in self.handles.items():
            given = inspect.signature(rebuild).bind(*values)
            given.arguments["storage_device"] = device
            found[name] = rebuild(*given.args, **given.kwargs)
        return found

    @property
    def is_here(self) -> bool:
        """Whether this process uses the GPU."""
        return self._device() is not None

    def _device(self) -> int | None:
        if not torch.cuda.is_available():
            return None
        numbers = range(torch.cuda.device_count())
        return next((i for i in numbers if gpu_uuid(torch.device("cuda", i)) == self.gpu), None)


def addresses(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Where tensors are in their device's memory, by name."""
    return {name: tensor.data_ptr() for name, tensor in weights.items()}


def gpu_uuid(device: torch.device) -> str:
    """A name of the card that is the same in every process."""
    return str(torch.cuda.get_device_properties(device).uuid)
