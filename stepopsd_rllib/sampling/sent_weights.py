"""Weights on their way to samplers: rounded where the learner is, gathered in one buffer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepopsd_rllib.models.sharding import whole

# NumPy has no bfloat16; its bits travel as whole numbers of the same size.
_CARRIERS = {"float32": np.float32, "bfloat16": np.int16}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class SentWeights:
    """A set of weights as arrays, which Ray's object store hands out without a copy.

    Attributes:
        dtype: What the numbers are, "float32" or "bfloat16".
        shapes: Name of each tensor of real numbers -> its shape, in the order of the buffer.
        numbers: All of them, one behind the other; bfloat16 as the int16 of its bits.
        others: Tensors of whole numbers by name.
    """

    dtype: str
    shapes: Mapping[str, tuple[int, ...]]
    numbers: np.ndarray
    others: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], dtype: str) -> SentWeights:
        """Rounds tensors to the sampler's dtype on their device and gathers them on the host.

        The sampler would round them in the same way; this way half as many bytes travel. From a GPU
        they go into page-locked memory without waiting for each other. Tensors that are spread over
        learners are made whole one by one, so that no device holds two of them.

        Args:
            weights: By checkpoint name.
            dtype: "float32" or "bfloat16".
        """
        wanted = _DTYPES[dtype]
        real = {name: tensor.detach() for name, tensor in weights.items() if _is_real(tensor)}
        on_gpu = any(tensor.is_cuda for tensor in real.values())
        buffer = torch.empty(
            sum(tensor.numel() for tensor in real.values()), dtype=wanted, pin_memory=on_gpu
        )
        start = 0
        for tensor in real.values():
            end = start + tensor.numel()
            buffer[start:end].copy_(whole(tensor.to(wanted)).reshape(-1), non_blocking=on_gpu)
            start = end
        if on_gpu:
            torch.cuda.synchronize()
        return cls(
            dtype=dtype,
            shapes={name: tuple(tensor.shape) for name, tensor in real.items()},
            numbers=(buffer.view(torch.int16) if dtype == "bfloat16" else buffer).numpy(),
            others={
                name: tensor.detach().cpu().numpy()
                for name, tensor in weights.items()
                if name not in real
            },
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, views of the buffer; read-only where the object store holds it."""
        if self.numbers.dtype != _CARRIERS[self.dtype]:
            raise ValueError(f"weights: {self.numbers.dtype} cannot carry {self.dtype}.")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            buffer = torch.from_numpy(self.numbers)
            found = {name: torch.from_numpy(values) for name, values in self.others.items()}
        if self.dtype == "bfloat16":
            buffer = buffer.view(torch.bfloat16)
        start = 0
        for name, shape in self.shapes.items():
            end = start + math.prod(shape)
            found[name] = buffer[start:end].view(shape)
            start = end
        return found


def add_own_parts(weights: Mapping[str, Tensor], dtype: str) -> None:
    """Gives a learner's parts to the one that makes `SentWeights.of` the same weights."""
    for tensor in weights.values():
        if _is_real(tensor):
            whole(tensor.detach().to(_DTYPES[dtype]))


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point()
