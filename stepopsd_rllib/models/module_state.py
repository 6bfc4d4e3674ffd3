"""What of a module goes into a checkpoint: nothing that can be rebuilt, nothing twice."""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from stepopsd_rllib.models.sharding import own_part, spread_like

POLICY_PREFIX = "language_model."
"""Begins the names of the policy's tensors in a module's state."""

_WEIGHTS_IN = "weights_in"
"""Entry of a saved state in the place of tensors that a file beside it holds."""


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
            target.copy_(spread_like(target, tensor))


def state_elsewhere(names: Collection[str]) -> dict[str, Any]:
    """The state of a sharded module, none of whose learners holds a whole tensor.

    Args:
        names: Of the policy's tensors in a file of weights, which `leave_out_weights` will name.
    """
    return {_WEIGHTS_IN: {"file": None, "names": list(names)}}


def leave_out_weights(state_file: Path, weights: Path) -> None:
    """Takes out of a saved state what a file of weights holds bit for bit, and names the file.

    Args:
        state_file: A pickled `packed_state`; replaced.
        weights: A safetensors file with the names of the checkpoint format.
    """
    state: dict[str, Any] = pickle.loads(state_file.read_bytes())
    if _WEIGHTS_IN in state:  # of a sharded module
        taken = state[_WEIGHTS_IN]["names"]
    else:
        with safe_open(weights, framework="numpy") as file:
            taken = [
                name
                for name in file.keys()  # noqa: SIM118  a file, not a mapping
                if _same_bits(state.get(POLICY_PREFIX + name), file.get_tensor(name))
            ]
        for name in taken:
            del state[POLICY_PREFIX + name]
    state[_WEIGHTS_IN] = {"file": os.path.relpath(weights, state_file.parent), "names": taken}
    aside = state_file.with_suffix(".new")
    aside.write_bytes(pickle.dumps(state))
    aside.replace(state_file)


def with_weights(state: Mapping[str, Any], folder: Path | None) -> tuple[dict[str, Any], bool]:
    """A saved state with the tensors that `leave_out_weights` took out.

    Args:
        state: What was read from the state's file.
        folder: Where that file is; None where it is not known.

    Returns:
        The state, and whether it still lacks them: their file is not there, as on another machine
        than the checkpoint's.
    """
    own = {name: value for name, value in state.items() if name != _WEIGHTS_IN}
    taken: Mapping[str, Any] | None = state.get(_WEIGHTS_IN)
    if taken is None:
        return own, False
    file = None if folder is None or taken["file"] is None else folder / taken["file"]
    if file is None or not file.is_file():
        return own, bool(taken["names"])
    # As tensors they are views of the file: a sharded module reads its own part of each.
    with safe_open(file, framework="pt") as weights:
        filled = {POLICY_PREFIX + name: weights.get_tensor(name) for name in taken["names"]}
    return {**own, **filled}, False


def _same_bits(left: Any, right: np.ndarray) -> bool:
    if left is None or left.dtype != right.dtype or left.shape != right.shape:
        return False
    return bool((left.reshape(-1).view(np.uint8) == right.reshape(-1).view(np.uint8)).all())


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return own_part(tensor).data_ptr(), tuple(tensor.shape)
