"""Which sampled tokens of each turn take part in turn credit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ray.rllib.utils.annotations import override
from stepopsd_envs import TextEnv
from torch import Tensor

from stepopsd_rllib.connectors.columns import STEP_INDEX, TURN_INDEX
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.episodes.segmentation import (
    SpanMode,
    token_span,
    turn_targets,
)


class StepSpans(LearnerConnector):
    """Writes `step_index` int64 [R]: the turn of every token of a turn's span, -1 elsewhere.

    Requires the columns of `TokenBatch`. Spans come from the recorded turns, never from searching
    the text of an episode: `clean_step_no_observation` is all that the policy wrote in the turn,
    its end-of-turn token included; `action_only` the tags and content of its action; `answer_only`
    the same for turns that answer, `final_answer_only` for the last of them.
    """

    def __init__(
        self,
        *,
        mode: SpanMode,
        decode: Callable[[Sequence[int]], str],
        action_tags: Sequence[str] = TextEnv.action_tags,
        answer_tags: Sequence[str] = TextEnv.answer_tags,
        **kwargs: Any,
    ) -> None:
        """Keeps the arguments.

        Args:
            mode: Which spans.
            decode: How response ids become the text that the environment saw.
            action_tags: Names of the tags between which a turn acts.
            answer_tags: Names among them that give the final answer.
            kwargs: Keywords of RLlib's connectors.
        """
        super().__init__(**kwargs)
        self.mode: SpanMode = mode
        self.action_tags = action_tags
        self.answer_tags = answer_tags
        self.decode = decode

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Finds the span of every turn."""
        turn_R = batch.columns[TURN_INDEX]
        if self.mode == "clean_step_no_observation":
            batch.columns[STEP_INDEX] = turn_R.clone()
        else:
            batch.columns[STEP_INDEX] = self._spans(turn_R, batch.episodes)

    def _spans(self, turn_R: Tensor, episodes: list[AgentEpisode]) -> Tensor:
        step_R = torch.full_like(turn_R, -1)
        first = 0  # of the turn's tokens: the turns of a batch lie end to end
        for episode in episodes:
            targets = turn_targets(
                [turn.response for turn in episode.turns],
                self.mode,
                action_tags=self.action_tags,
                answer_tags=self.answer_tags,
            )
            for k, (turn, target) in enumerate(zip(episode.turns, targets, strict=True)):
                if target is not None:
                    start, stop = token_span(self.decode, turn.response_ids.tolist(), target)
                    step_R[first + start : first + stop] = k
                first += len(turn.response_ids)
        return step_R
