"""What of a learner's life is another where the weights are spread over learners.

RLlib wraps modules in DDP, and saves the state of its first learner. A sharded learner is not
wrapped, and has a part of everything: optimizer and teacher go into a checkpoint's `shards/`, which
all learners write together (`torch.distributed.checkpoint`), and which any number of learners
reads, sharded or not.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.models.loading import untied
from stepopsd_rllib.models.sharding import spread_like

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's, a tensor each for every parameter."""


class ShardedLearner(TorchLearner):
    """A `TorchLearner` of a `CausalLMModule` that FSDP2 may spread (`sharding: fsdp2`)."""

    config: Any
    shares_folders = True
    """Whether a folder that is on this learner's machine may be looked for there."""
    received_shards = ""
    """Where files of a checkpoint are that this learner's machine does not have."""

    @property
    def number(self) -> int:
        """Place among the learners, from 0."""
        return int(self._learner_index or 0)

    @property
    def is_sharded(self) -> bool:
        """Whether this learner has a part of the weights alone."""
        return self.config.shards_learners()

    @property
    def is_first(self) -> bool:
        """Whether it is the one that speaks for all."""
        return not self.distributed or torch.distributed.get_rank() == 0

    @property
    def language_module(self) -> CausalLMModule:
        """The RLModule, out of its DDP wrapper."""
        module: Any = self.module
        return module[DEFAULT_MODULE_ID].unwrapped()

    @override(TorchLearner)
    def _map_module_to_device(self, module: Any) -> None:
        """Spreads a module that is to be sharded, layer by layer; it never is whole on a device."""
        if self.is_sharded:
            module[DEFAULT_MODULE_ID].shard(self._device)
        else:
            super()._map_module_to_device(module)

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        """Nothing for sharded modules: they exchange gradients themselves."""
        if not self.is_sharded:
            super()._make_modules_ddp_if_necessary()

    @override(TorchLearner)
    def _get_optimizer_state(self) -> dict[str, Any]:
        """The optimizer's counts and settings; its moments too, unless they are in `shards`."""
        if not self.is_sharded:
            return super()._get_optimizer_state()
        return {
            name: {"module_id": DEFAULT_MODULE_ID, "state": _without_moments(optimizer)}
            for name, optimizer in self._named_optimizers.items()
        }

    @override(TorchLearner)
    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        """Restores the optimizer; moments that the state lacks are 0 until `read_shards`."""
        filled = {
            name: {**saved, "state": _with_moments(saved["state"], self._named_optimizers[name])}
            for name, saved in state.items()
        }
        super()._set_optimizer_state(filled)

    def shards(self) -> dict[str, Tensor]:
        """What is in `shards/`, by name: AdamW's moments, and the teacher's weights."""
        module = self.language_module
        found: dict[str, Tensor] = {}
        for optimizer in self._named_optimizers.values():
            for name, weight in module.language_model.named_parameters():
                moments = optimizer.state.get(weight, {})
                found |= {f"{moment}.{name}": moments[moment] for moment in MOMENTS if moments}
        if module.teacher is not None:
            teacher = untied(module.teacher, module.teacher.state_dict())
            found |= {f"teacher.{name}": weight for name, weight in teacher.items()}
        return found

    def write_shards(self, folder: str) -> None:
        """Writes this learner's part; all learners do so together."""
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        save(self.shards(), storage_writer=FileSystemWriter(folder))

    def read_shards(self, folder: str) -> None:
        """Reads this learner's part of what other learners wrote, however many they were.

        Raises:
            ValueError: There are other tensors than this learner has.
        """
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.state_dict_loader import load

        reader = FileSystemReader(folder)
        own, there = self.shards(), reader.read_metadata().state_dict_metadata.keys()
        missing = sorted(n for n in own.keys() - there if not n.startswith("teacher."))
        unknown = sorted(there - own.keys())
        if missing or unknown:
            raise ValueError(
                f"{Path(folder)}: lacks {len(missing)} tensors of this run "
                f"({', '.join(missing[:3])}), and has {len(unknown)} that it lacks "
                f"({', '.join(unknown[:3])}). Restore with the model and the keys it was trained "
                "with."
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            # Each reads for itself: what one needs is in the file names and offsets.
            load(
                {name: tensor for name, tensor in own.items() if name in there},
                storage_reader=reader,
                no_dist=True,
            )


def _without_moments(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = optimizer.state_dict()
    counts = {
        index: {n: v.cpu().numpy().copy() for n, v in of_one.items() if n not in MOMENTS}
        for index, of_one in state["state"].items()
    }
    return {**state, "state": counts}


def _with_moments(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A saved state with moments that are laid out as the parameters are."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    filled = {}
    for index, of_one in state["state"].items():
        weight = weights[index]
        filled[index] = of_one | {
            moment: spread_like(weight, torch.as_tensor(of_one[moment]))
            if moment in of_one
            else torch.zeros_like(weight)
            for moment in MOMENTS
        }
    return {**state, "state": filled}
