"""Models whose weights are spread over the learners: FSDP2, after ZeRO-3 (arXiv:1910.02054).

Every learner holds a part of each tensor. A pass gathers the weights of one decoder layer at a
time, and the backward pass sums their gradients and leaves each learner its part. So every pass is
an exchange between all learners: all of them must make equally many, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from transformers import PreTrainedModel
    from typing_extensions import TypeIs

Item = TypeVar("Item")
Result = TypeVar("Result")


def learner_mesh(device: torch.device) -> DeviceMesh:
    """All learners in a row, each with its own device.

    Args:
        device: This learner's. Its number is this process's, whatever the learner's rank.
    """
    from torch.distributed.device_mesh import init_device_mesh

    if device.type == "cuda":
        torch.cuda.set_device(device)  # the mesh would choose one by rank
    return init_device_mesh(device.type, (torch.distributed.get_world_size(),))


def shard(
    model: PreTrainedModel,
    layers: Sequence[nn.Module],
    mesh: DeviceMesh,
    *,
    arithmetic: torch.dtype | None,
) -> None:
    """Spreads a model over the learners, in place; its weights move to the mesh's devices.

    Layers are gathered one by one; embedding, last norm and head with the whole model.

    Args:
        model: With the same weights on every learner, anywhere.
        layers: Its decoder layers.
        mesh: Of `learner_mesh`.
        arithmetic: Of the passes, where it is coarser than that of the weights: layers are gathered
            rounded to it, which halves what travels, and their gradients are summed in float32.
            Embedding, last norm and head are gathered as they are: a head rounds for itself (see
            `head_log_probs`), and adds its gradient up over chunks.
    """
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    # What enters a layer keeps its numbers: the residual stream has an arithmetic of its own.
    as_it_is = MixedPrecisionPolicy(cast_forward_inputs=False)
    rounded = MixedPrecisionPolicy(
        param_dtype=arithmetic, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=rounded if arithmetic else as_it_is)
    fully_shard(model, mesh=mesh, mp_policy=as_it_is)
    whole: Any = model
    whole.in_one_pass = _call
    register_fsdp_forward_method(model, "in_one_pass")


def _call(call: Callable[[], Result]) -> Result:
    return call()


def is_sharded(model: nn.Module) -> bool:
    """Whether a model is spread over the learners."""
    return hasattr(model, "in_one_pass")


def one_pass(model: nn.Module, call: Callable[[], Result]) -> Result:
    """Runs one pass; of a sharded model its embedding, last norm and head are whole meanwhile.

    Args:
        model: The model that the call forwards: all its layers, once.
        call: The pass, its head included.
    """
    if not is_sharded(model):
        return call()
    whole: Any = model
    try:
        return whole.in_one_pass(call)
    finally:
        if not torch.is_grad_enabled():
            # With gradient they stay whole until the backward pass, which needs them first. Without
            # there is none, and an optimizer step would leave them as they were.
            whole.reshard()


def in_step(items: Iterable[Item], device: torch.device) -> Iterator[Item | None]:
    """This learner's items, then None for as long as another learner has some.

    Every item is a pass, and every None an idle one. Whether somebody has one is asked before each:
    what is to be forwarded need not be known beforehand.

    Args:
        items: Of this learner; others may have more or fewer.
        device: Of the learner.
    """
    for item in items:
        _somebody_has_one(True, device)
        yield item
    while _somebody_has_one(False, device):
        yield None


def _somebody_has_one(have: bool, device: torch.device) -> bool:
    flag = torch.tensor(int(have), device=device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all learners, which must all ask; others as they are."""
    return tensor.full_tensor() if _is_shared_out(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this learner holds of a tensor."""
    return tensor.to_local() if _is_shared_out(tensor) else tensor


def spread_like(target: Tensor, tensor: Tensor) -> Tensor:
    """This learner's part of a whole tensor, laid out as the target is; nothing is exchanged."""
    if not _is_shared_out(target):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, target.device_mesh, target.placements, src_data_rank=None)


def _is_shared_out(tensor: Tensor) -> TypeIs[DTensor]:
    """Whether learners hold parts of it."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    # Half a second of imports, which whoever does not shard need not wait for.
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
