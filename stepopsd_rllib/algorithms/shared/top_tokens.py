"""Losses over a teacher's most likely tokens: what OPSD and UCOB share.

The teacher's K most likely tokens are kept for the taught tokens alone, P of them, so that nothing
is as large as [B, T, K].
"""

from __future__ import annotations

from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.algorithms.shared.distillation import DistillationLearner
from stepopsd_rllib.connectors.columns import (
    RESPONSE_MASK,
    TAUGHT_COLUMNS,
    TAUGHT_TOKEN,
    TAUGHT_TOP_IDS,
)


class TopTokenLearner(DistillationLearner):
    """Gives `token_loss` the columns of the taught tokens of a micro-batch, in row order.

    Requires `taught_token`, `taught_top_log_probs` and `taught_top_ids`.
    """

    @override(DistillationLearner)
    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, dict[str, Tensor], Any]:
        """Keeps the columns over taught tokens apart: the others have one entry a row."""
        columns = dict(batch[DEFAULT_MODULE_ID])
        self._taught = {name: columns.pop(name) for name in TAUGHT_COLUMNS if name in columns}
        return super()._update({DEFAULT_MODULE_ID: columns}, **kwargs)

    @override(DistillationLearner)
    def _micro_batch(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Adds what the rows are taught, and the teacher's top tokens as candidates to score."""
        micro_batch = super()._micro_batch(*args, **kwargs)
        if self._taught:
            token_N = micro_batch[TAUGHT_TOKEN][micro_batch[RESPONSE_MASK]]
            is_taught_N = token_N >= 0
            taught = {
                name: column[token_N[is_taught_N].to(column.device)].to(self._device)
                for name, column in self._taught.items()
            }
            ids_PK = taught[TAUGHT_TOP_IDS]
            candidates_NK = ids_PK.new_zeros(len(token_N), ids_PK.shape[1])
            candidates_NK[is_taught_N] = ids_PK
            micro_batch |= taught | {"candidate_ids": candidates_NK}
        return micro_batch


def require_tokens(config: Any) -> None:
    """Refuses more top tokens than the model has."""
    vocabulary = config.model_vocabulary()
    if vocabulary is not None and config.teacher_top_tokens > vocabulary:
        config._value_error(
            f"config.teacher_top_tokens={config.teacher_top_tokens}: the model has {vocabulary} "
            f"tokens. Set {vocabulary} for all of them."
        )
