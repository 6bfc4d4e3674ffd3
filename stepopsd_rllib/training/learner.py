"""The Learner plumbing that every algorithm of the package shares.

RLlib's own minibatching slices rows without regard to tokens, and counts steps in environment
steps, so that learners with unequal shares deadlock. Here a minibatch is an equal part of the rows
on every learner, is split into micro-batches by token budget, and its loss is normalised by counts
over all learners: the update is the same whatever the number of learners and micro-batches.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from torch import Tensor

from stepopsd_rllib.connectors.columns import INPUT_IDS, LENGTHS, RESPONSE_MASK, WEIGHTS_VERSION
from stepopsd_rllib.connectors.credit_trace import CreditTrace
from stepopsd_rllib.connectors.row_batch import RowBatch
from stepopsd_rllib.episodes import RowLayout
from stepopsd_rllib.models.sharding import whole
from stepopsd_rllib.objectives.reduction import LossCounts, token_weights
from stepopsd_rllib.sampling.sent_weights import SentWeights, add_own_parts
from stepopsd_rllib.sampling.shared_weights import SharedWeights, addresses
from stepopsd_rllib.scoring.shared_rows import RowPass, row_micro_batches
from stepopsd_rllib.training.metric_sums import MetricSums
from stepopsd_rllib.training.sharded_learner import ShardedLearner

if TYPE_CHECKING:
    from stepopsd_rllib.algorithms.grpo import GRPOConfig


logger = logging.getLogger(__name__)


class TokenLearner(ShardedLearner):
    """Updates a `CausalLMModule` from token rows.

    Requires the columns of `TokenBatch` and `advantages`. A subclass implements
    `compute_loss_for_module`, which reads a micro-batch (with `loss_weights`, whose weighted sums
    add up to the minibatch loss) and adds its diagnostics to `self.sums`.
    """

    config: GRPOConfig

    @override(ShardedLearner)
    def build(self) -> None:
        """Builds module, optimizer and connectors."""
        super().build()
        self.sums = MetricSums()
        self.num_optimizer_steps = 0
        self.num_skipped_in_a_row = 0
        self._has_stepped = False
        self._shared: SharedWeights | None = None

    @override(ShardedLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """AdamW over the trainable parameters."""
        config = config or self.config
        modules: Any = self._module
        params = self.get_parameters(modules[module_id])
        optimizer = torch.optim.AdamW(
            params,
            lr=0.0,
            betas=config.adam_betas,
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
            # One kernel for all weights; the default there takes one more copy of them.
            fused=True if self._device.type == "cuda" else None,
        )
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=params, lr_or_lr_schedule=config.lr
        )

    @override(ShardedLearner)
    def get_parameters(self, module: Any) -> list[Tensor]:
        """Trainable parameters only; the frozen copies have no gradient to step on."""
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    @override(ShardedLearner)
    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, dict[str, Tensor], Any]:
        """All epochs and minibatches of one training step.

        A training step that takes no optimizer step is no update: weights, moments, warm-up,
        schedules, version and teacher stay as they are.
        """
        columns = dict(batch[DEFAULT_MODULE_ID])
        self._check_weights_version(columns)
        self.sums = MetricSums()
        loss = torch.zeros(())
        num_steps_before = self.num_optimizer_steps
        for step, rows in enumerate(self._minibatches(columns)):
            loss = self._optimizer_step(columns, rows, is_on_policy=step == 0)
        self._has_stepped = self.num_optimizer_steps > num_steps_before
        if not self._has_stepped:
            self._weights_seq_no -= 1
        sums = self.sums.reduce(self._all_reduce if self.distributed else None)
        metrics = self.derived_metrics(sums)
        for name, value in metrics.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, name), value, window=1)
        self._check_sampler_difference(metrics)
        self._check_skipped_steps()
        return {}, {DEFAULT_MODULE_ID: loss}, {}

    def derived_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics of all learners together, with those that are computed from others."""
        return metrics

    def sampler_weights(self) -> dict[str, Tensor]:
        """Weights for the samplers, by checkpoint name."""
        return self.language_module.sampler_weights()

    def whole_weights(self) -> dict[str, Tensor]:
        """All weights of the policy by checkpoint name, adapters merged."""
        return self.language_module.whole_weights()

    def adapter_weights(self) -> dict[str, Tensor]:
        """The policy's adapter by the names of peft's files."""
        return self.language_module.adapter_weights()

    def send_weights(self, of: str, dtype: str) -> list[ray.ObjectRef]:
        """Puts weights into the object store, so that they never pass through the driver.

        Args:
            of: Which weights: the method that gives them.
            dtype: What they are rounded to.

        Returns:
            Their reference; none of a learner that only added its part to those of the first.
        """
        weights = getattr(self, of)()
        if self.is_first or not self.is_sharded:
            return [ray.put(SentWeights.of(weights, dtype))]
        add_own_parts(weights, dtype)
        return []

    def share_weights(self) -> SharedWeights | None:
        """Handles of the samplers' weights, for runners on this learner's GPU.

        None where the weights are not whole on one GPU for good: sharded over learners, merged with
        an adapter for each sync, or on the CPU.
        """
        lora = self.language_module.lora
        is_merged = bool(lora.rank) and lora.sync != "adapter"
        if self._device.type != "cuda" or self.is_sharded or is_merged:
            return None
        weights = self.sampler_weights()
        if self._shared is None or self._shared.addresses != addresses(weights):
            self._shared = SharedWeights.of(weights)
        torch.cuda.synchronize(self._device)
        return self._shared

    @override(ShardedLearner)
    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Takes a new snapshot for the teacher after every `teacher_refresh_interval` updates."""
        schedules = self._optimizer_lr_schedules
        if not self._has_stepped:
            self._optimizer_lr_schedules = {}  # the rate is logged, and stays as it is
        super().after_gradient_based_update(timesteps=timesteps)
        self._optimizer_lr_schedules = schedules
        module = self.language_module
        if "teacher" not in module.views:
            return
        config: Any = self.config  # of an algorithm that has a teacher
        if self._has_stepped and self._weights_seq_no % config.teacher_refresh_interval == 0:
            module.refresh_teacher()
            module.teacher_version = self._weights_seq_no
        self.metrics.log_value(
            (DEFAULT_MODULE_ID, "teacher_version"), module.teacher_version, window=1
        )

    @property
    def num_updates(self) -> int:
        """Updates that moved the weights: the version of the weights."""
        return self._weights_seq_no

    def release_memory(self) -> None:
        """Gives GPU memory that is free in this process back to the card."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def take_credit_records(self) -> list[dict[str, Any]]:
        """Records of the last sample of `CreditTrace`, if they were not taken yet."""
        return [record for trace in self._credit_traces() for record in trace.take_records()]

    def _credit_traces(self) -> list[CreditTrace]:
        pipeline: Any = self._learner_connector
        return [piece for piece in pipeline.connectors if isinstance(piece, CreditTrace)]

    @override(Learner)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Adds the counters of optimizer steps and of the teacher's snapshot."""
        return {
            **super().get_state(*args, **kwargs),
            "num_optimizer_steps": self.num_optimizer_steps,
            "num_skipped_in_a_row": self.num_skipped_in_a_row,
            "teacher_version": self.language_module.teacher_version,
        }

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the counters too; the teacher's weights are part of the module."""
        if WEIGHTS_SEQ_NO in state:
            # RLlib would keep the current weights, in silence, where the state is of an earlier
            # update.
            self._weights_seq_no = -1
        super().set_state(state)
        self._weights_seq_no = state.get(WEIGHTS_SEQ_NO, self._weights_seq_no)
        module = self.language_module
        module.teacher_version = state.get("teacher_version", module.teacher_version)
        self.num_optimizer_steps = state.get("num_optimizer_steps", self.num_optimizer_steps)
        self.num_skipped_in_a_row = state.get("num_skipped_in_a_row", 0)

    def _minibatches(self, columns: dict[str, Tensor]) -> Iterator[Tensor]:
        """Row indices of every minibatch of every epoch: equally many on all learners."""
        num_rows = len(columns[LENGTHS])
        world = self._world_size
        parts = 1
        if self.config.minibatch_size is not None:
            rows_per_step = max(1, self.config.minibatch_size // world)
            parts = int(self._all_reduce(torch.tensor(math.ceil(num_rows / rows_per_step)), "max"))
        generator = torch.Generator().manual_seed(int(self.config.seed or 0) + self._weights_seq_no)
        for _ in range(self.config.num_epochs):
            order = (
                torch.randperm(num_rows, generator=generator)
                if parts > 1
                else torch.arange(num_rows)
            )
            yield from order.tensor_split(parts)

    def _optimizer_step(
        self, columns: dict[str, Tensor], rows: Tensor, *, is_on_policy: bool
    ) -> Tensor:
        """One optimizer step on a minibatch, if it has a signal; returns its loss."""
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID)
        # Of several whole learners, gradients are views of the buffers in which they are exchanged.
        is_whole = self.distributed and not self.is_sharded
        optimizer.zero_grad(set_to_none=not is_whole)
        modules: Any = self.module
        module = modules[DEFAULT_MODULE_ID]
        loss = torch.zeros((), device=self._device)
        batch = RowBatch(columns)
        counts = self._global_counts(batch.layout, rows)
        parts = self._passes(batch, rows)
        for i, part in enumerate(self.language_module.in_step(parts)):
            if part is None:
                self._idle_update()
                continue
            micro_batch = self._micro_batch(batch, part, counts, is_padding=len(rows) == 0)
            micro_batch["is_on_policy"] = is_on_policy
            # Gradients cross whole learners once a step, whatever each one's number of
            # micro-batches; those of sharded ones do after each, or they would not fit.
            is_last = i == len(parts) - 1
            with module.no_sync() if is_whole and not is_last else contextlib.nullcontext():
                fwd_out = module.forward_train(micro_batch)
                for trace in self._credit_traces():
                    trace.add_update(micro_batch, fwd_out)
                part_loss: Any = self.compute_loss_for_module(
                    module_id=DEFAULT_MODULE_ID,
                    config=self.config,
                    batch=micro_batch,
                    fwd_out=fwd_out,
                )
                # DDP and FSDP average over learners; the weights already divide by the counts of
                # all of them.
                (part_loss * self._world_size).backward()
            loss += part_loss.detach()
        loss = self._all_reduce(loss, "sum") if self.distributed else loss
        has_signal_B = torch.zeros(batch.layout.num_rows, dtype=torch.bool)
        has_signal_B[self.rows_with_signal(columns)] = True
        has_signal = self._all_reduce(has_signal_B[rows].any().int(), "max")
        self._clip_and_step(optimizer, loss, has_signal=bool(has_signal))
        self.sums.count_step()
        return loss

    def _idle_update(self) -> None:
        """A pass without a gradient, in step with learners that have another micro-batch."""
        module = self.language_module
        (module.idle_pass(module.language_model) * 0.0).backward()

    def _clip_and_step(
        self, optimizer: torch.optim.Optimizer, loss: Tensor, *, has_signal: bool
    ) -> None:
        """Steps, unless there is nothing to learn or what there is is not finite."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        limit = self.config.grad_clip if self.config.grad_clip is not None else math.inf
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        is_finite = bool(norm.isfinite() & loss.isfinite())
        # Adam's moments would move the weights even where the gradient is zero.
        has_signal = has_signal and bool(norm != 0)
        one = torch.ones_like(norm)
        self.sums.add("gradient_norm", norm, one)
        self.sums.add("skipped_update_fraction", one * (not is_finite), one)
        self.sums.add("no_signal_fraction", one * (is_finite and not has_signal), one)
        if not is_finite:
            self.num_skipped_in_a_row += 1
            logger.warning(
                "Optimizer step skipped: loss %s, gradient norm %s (%d in a row).",
                loss.item(),
                norm.item(),
                self.num_skipped_in_a_row,
            )
            return
        if not has_signal:
            logger.warning(
                "Optimizer step left out: no token has an advantage, a teacher or a regulariser "
                "that moves it. Weights and optimizer stay as they are."
            )
            return
        self.num_skipped_in_a_row = 0
        self.num_optimizer_steps += 1
        warm_up = min(1.0, self.num_optimizer_steps / max(1, self.config.lr_warmup_steps))
        scheduled = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] *= warm_up
        optimizer.step()
        for group, lr in zip(optimizer.param_groups, scheduled, strict=True):
            group["lr"] = lr

    def _passes(self, batch: RowBatch, rows: Tensor) -> list[RowPass]:
        """The passes over the rows of a minibatch that can have a gradient.

        Always at least one, so that every learner takes part in the exchange of gradients.
        """
        has_gradient_B = torch.zeros(batch.layout.num_rows, dtype=torch.bool)
        has_gradient_B[self.rows_with_gradient(batch.columns)] = True
        kept = rows[has_gradient_B[rows]]
        kept = kept if len(kept) else (rows if len(rows) else torch.zeros(1, dtype=torch.int64))[:1]
        passes = row_micro_batches(
            batch.ids(kept),
            max_tokens=self.config.micro_batch_tokens,
            share=self.language_module.shares_prefixes,
        )
        return [replace(part, rows=kept[part.rows]) for part in passes]

    def _micro_batch(
        self, batch: RowBatch, part: RowPass, counts: LossCounts, *, is_padding: bool
    ) -> dict[str, Any]:
        """The rows of a pass on the device, cut to the longest, with their share of the weights."""
        micro_batch: dict[str, Any] = batch.padded(part.rows, self._device)
        lengths_b = batch.layout.lengths_B[part.rows]
        shared = part.shared(micro_batch[INPUT_IDS], lengths_b)
        weights_bT = token_weights(micro_batch[RESPONSE_MASK], self.config.loss_aggregation, counts)
        micro_batch["loss_weights"] = weights_bT * (not is_padding)
        micro_batch["shared_rows"] = shared
        forwarded = lengths_b.sum() if shared is None else shared.ids.numel()
        # Summed over micro-batches and learners, as a loss is.
        self.sums.add_loss(
            "update_tokens_forwarded", torch.as_tensor(float(forwarded), device=self._device)
        )
        return micro_batch

    def rows_with_gradient(self, columns: dict[str, Tensor]) -> Tensor:
        """Rows that can have a gradient; the others are not forwarded.

        Args:
            columns: Columns of the batch.

        Returns:
            Int64 indices. All rows by default; a loss with advantages alone needs only rows that
            have some.
        """
        return torch.arange(len(columns[LENGTHS]))

    def rows_with_signal(self, columns: dict[str, Tensor]) -> Tensor:
        """Rows that have a gradient at all; a subclass knows terms that are off.

        Args:
            columns: Columns of the batch.
        """
        return self.rows_with_gradient(columns)

    def _global_counts(self, layout: RowLayout, rows: Tensor) -> LossCounts:
        num_sampled_b = layout.num_sampled_B[rows]
        counts = LossCounts(
            num_tokens=int(num_sampled_b.sum()),
            num_rows=int((num_sampled_b > 0).sum()),
            constant_divisor=float(self.config.max_context_tokens),
        )
        if not self.distributed:
            return counts
        tokens, rows = self._all_reduce(
            torch.tensor([counts.num_tokens, counts.num_rows]), "sum"
        ).tolist()
        return replace(counts, num_tokens=tokens, num_rows=rows)

    @property
    def _world_size(self) -> int:
        return max(1, self.config.num_learners or 0)

    def _all_reduce(self, tensor: Tensor, operation: str) -> Tensor:
        if not self.distributed:
            return tensor
        tensor = tensor.detach().clone().to(self._device)
        operations = {"sum": torch.distributed.ReduceOp.SUM, "max": torch.distributed.ReduceOp.MAX}
        torch.distributed.all_reduce(tensor, op=operations[operation])
        return tensor

    def _check_weights_version(self, columns: dict[str, Tensor]) -> None:
        """Refuses episodes sampled with other weights than the ones about to be updated."""
        expected = self._weights_seq_no - 1
        oldest = max(0, expected - self.config.off_policy_steps)
        versions = columns[WEIGHTS_VERSION].unique().tolist()
        if not {*range(oldest, expected + 1)}.issuperset(versions):
            raise RuntimeError(
                f"Episodes were sampled with weights of versions {versions}, the learner is at "
                f"{expected}: a sampler missed a weight update."
            )

    def _check_skipped_steps(self) -> None:
        """Ends a run whose losses or gradients stay NaN or infinite."""
        if self.num_skipped_in_a_row > self.config.max_skipped_updates:
            raise FloatingPointError(
                f"config.max_skipped_updates={self.config.max_skipped_updates}: loss or gradient "
                f"was NaN or infinite in {self.num_skipped_in_a_row} optimizer steps in a row, "
                "so none was taken. Lower the learning rate, or look for what overflows."
            )

    def _check_sampler_difference(self, metrics: dict[str, float]) -> None:
        difference = metrics.get("sampler_log_prob_difference_mean", 0.0)
        limit = self.config.sampler_difference_limit()
        if self.config.off_policy_steps:
            return  # an update lies between them; the versions were checked
        if limit is not None and self.config.top_p == 1.0 and difference > limit:
            raise RuntimeError(
                f"config.max_sampler_difference={limit}: sampler and learner disagree by "
                f"{difference:.3g} nats a token on the first micro-batches, before any update. The "
                "sampler does not run the learner's weights, or runs them in another precision. "
                "Compare sampler_config['dtype'] with the learner's."
            )
