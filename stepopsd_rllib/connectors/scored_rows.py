"""Log-probs of all rows under one of the module's models, by token budget, without gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.episodes.packing import micro_batches
from stepopsd_rllib.models.causal_lm import CausalLMModule

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def score_rows(
    module: CausalLMModule, model: PreTrainedModel, columns: dict[str, Tensor], *, max_tokens: int
) -> Tensor:
    """Log-probs of the response tokens under `model`.

    Args:
        module: Owner of the model; knows temperature and precision.
        model: One of the module's models.
        columns: `input_ids`, `response_mask` [B, T] and `lengths` [B].
        max_tokens: Padded tokens of one forward pass.

    Returns:
        Float32 [B, T] on the device of `columns`, 0 outside the response mask.
    """
    device = next(model.parameters()).device
    log_probs_BT = torch.zeros_like(columns["behaviour_log_probs"])
    with torch.no_grad():
        for rows in micro_batches(columns["lengths"], max_tokens=max_tokens):
            longest = int(columns["lengths"][rows].max())
            ids_BT = columns["input_ids"][rows, :longest].to(device)
            mask_BT = columns["response_mask"][rows, :longest].to(device)
            part_BT, _ = module.score(model, ids_BT, mask_BT)
            log_probs_BT[rows, :longest] = part_BT.to(log_probs_BT.device)
    return log_probs_BT


class OldLogProbs(ConnectorV2):
    """Writes `old_log_probs` [B, T]: the learner's log-probs before the first update of the step.

    Left out where one optimizer step is taken on the whole batch: there the old policy is the
    current one.
    """

    def __init__(self, *, max_tokens: int, **kwargs: Any):
        """Keeps the budget of one forward pass, padded tokens."""
        super().__init__(**kwargs)
        self.max_tokens = max_tokens

    @override(ConnectorV2)
    def __call__(self, *, rl_module: Any, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Scores all rows."""
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        columns = batch[DEFAULT_MODULE_ID]
        columns["old_log_probs"] = score_rows(
            module, module.language_model, columns, max_tokens=self.max_tokens
        )
        return batch


class ReferenceLogProbs(ConnectorV2):
    """Writes `reference_log_probs` [B, T]: the KL anchor's log-probs of the response tokens.

    The anchor is the module's `reference`, the frozen initial model, or its `teacher`.
    """

    def __init__(
        self,
        *,
        max_tokens: int,
        model: Literal["reference", "teacher"] = "reference",
        **kwargs: Any,
    ):
        """Keeps the budget of one forward pass, padded tokens, and which model is the anchor."""
        super().__init__(**kwargs)
        self.max_tokens = max_tokens
        self.model = model

    @override(ConnectorV2)
    def __call__(self, *, rl_module: Any, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Scores all rows."""
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        columns = batch[DEFAULT_MODULE_ID]
        anchor = module.reference if self.model == "reference" else module.teacher
        columns["reference_log_probs"] = score_rows(
            module, anchor, columns, max_tokens=self.max_tokens
        )
        return batch
