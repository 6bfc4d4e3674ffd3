"""Log-probs of all rows under the policy before the update, and under the KL anchor."""

from __future__ import annotations

from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override

from stepopsd_rllib.models.causal_lm import View
from stepopsd_rllib.scoring.scorer import Scorer


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
        scorer = Scorer(module, "policy", max_tokens=self.max_tokens)
        columns["old_log_probs"] = scorer.score_rows(columns)
        return batch


class ReferenceLogProbs(ConnectorV2):
    """Writes `reference_log_probs` [B, T]: the KL anchor's log-probs of the response tokens.

    The anchor is a view of the module: its reference, the frozen initial model, or its teacher.
    """

    def __init__(self, *, max_tokens: int, view: View = "reference", **kwargs: Any):
        """Keeps the budget of one forward pass, padded tokens, and which view is the anchor."""
        super().__init__(**kwargs)
        self.max_tokens = max_tokens
        self.view: View = view

    @override(ConnectorV2)
    def __call__(self, *, rl_module: Any, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Scores all rows."""
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        columns = batch[DEFAULT_MODULE_ID]
        scorer = Scorer(module, self.view, max_tokens=self.max_tokens)
        columns["reference_log_probs"] = scorer.score_rows(columns)
        return batch
