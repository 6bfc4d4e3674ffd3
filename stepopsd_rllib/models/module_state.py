"""What of a module goes into a checkpoint: nothing that can be rebuilt, nothing twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def packed_state(tensors: Mapping[str, Tensor], *, left_out: Collection[str]) -> dict[str, Any]:
    """Tensors as arrays; bfloat16, which NumPy lacks, as the int16 of its bits.

    Args:
        tensors: A state dict.
        left_out: First parts of the names that are not kept, such as "reference".

    Returns:
        An array a tensor. Of several names of one tensor (a tied head) the first is kept.
    """
    kept: dict[str, Any] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in tensors.items():
        if name.partition(".")[0] in left_out:
            continue
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key in seen and tensor.numel():
            continue
        seen.add(key)
        host = tensor.detach().cpu()
        is_bfloat16 = host.dtype == torch.bfloat16
        kept[name] = np.array((host.view(torch.int16) if is_bfloat16 else host).numpy())
    return kept


def unpack_state(
    state: Mapping[str, Any], own: Mapping[str, Tensor], *, left_out: Collection[str]
) -> None:
    """Writes arrays of `packed_state` into a module's tensors, in place.

    Raises:
        ValueError: Names or shapes differ from the module's.
    """
    unknown = [name for name in state if name not in own]
    given = {_place(own[name]) for name in state if name in own}
    missing = [
        name
        for name, tensor in own.items()
        if name.partition(".")[0] not in left_out and _place(tensor) not in given
    ]
    if unknown or missing:
        raise ValueError(
            f"checkpoint: the model has {len(missing)} tensors that the checkpoint lacks "
            f"({', '.join(missing[:3])}), the checkpoint {len(unknown)} that the model lacks "
            f"({', '.join(unknown[:3])}). Restore with the model and the keys it was trained with."
        )
    with torch.no_grad():
        for name, value in state.items():
            tensor = torch.as_tensor(value)
            target = own[name]
            if tensor.dtype == torch.int16 and target.is_floating_point():
                tensor = tensor.view(torch.bfloat16)
            if tensor.shape != target.shape:
                raise ValueError(
                    f"checkpoint: {name} has shape {tuple(tensor.shape)}, the model's "
                    f"{tuple(target.shape)}. Restore with the model it was trained with."
                )
            target.copy_(tensor)


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)
