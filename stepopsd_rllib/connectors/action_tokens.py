"""Which sampled tokens spell the action of their turn (SERL)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ray.rllib.utils.annotations import override

from stepopsd_rllib.connectors.columns import STEP_INDEX, TURN_INDEX
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.episodes.action_spans import action_spans
from stepopsd_rllib.episodes.segmentation import token_span


class ActionTokens(LearnerConnector):
    """Writes `step_index` int64 [R]: the turn of every action token, -1 elsewhere.

    Requires the columns of `TokenBatch`. A token that overlaps a span of `action_spans` is an
    action token, by the sampled tokens' own offsets; nothing is encoded again. A turn may have
    several spans, or none.
    """

    def __init__(
        self,
        *,
        decode: Callable[[Sequence[int]], str],
        action_tags: Sequence[str],
        action_calls: Sequence[str] = (),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.decode = decode
        self.action_tags = action_tags
        self.action_calls = action_calls

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Finds the tokens of every turn's action; logs how many there are."""
        step_R = torch.full_like(batch.columns[TURN_INDEX], -1)
        # The turns of a batch lie end to end; `first` is of this turn's tokens.
        first = num_turns = num_acting = 0
        for episode in batch.episodes:
            for k, turn in enumerate(episode.turns):
                ids = turn.response_ids.tolist()
                spans = action_spans(self.decode(ids), self.action_tags, calls=self.action_calls)
                for span in spans:
                    start, stop = token_span(self.decode, ids, span)
                    step_R[first + start : first + stop] = k
                num_turns += 1
                num_acting += bool(spans)
                first += len(ids)
        batch.columns[STEP_INDEX] = step_R
        batch.log(
            {
                "action_token_share": (step_R >= 0).sum() / max(1, len(step_R)),
                "action_turn_share": num_acting / max(1, num_turns),
            }
        )
