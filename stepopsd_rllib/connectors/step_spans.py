"""Which sampled tokens of each turn take part in turn credit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.connectors.token_batch import episodes_of
from stepopsd_rllib.episodes import AgentEpisode, Turn

SpanMode = Literal["action_only", "clean_step_no_observation", "answer_only", "final_answer_only"]
SPAN_MODES: tuple[SpanMode, ...] = (
    "action_only",
    "clean_step_no_observation",
    "answer_only",
    "final_answer_only",
)

_ACTION = re.compile(r"<(action|search|answer)>.*?</\1>", re.DOTALL)


class StepSpans(ConnectorV2):
    """Writes `step_index` int64 [B, T]: the turn of every token of a turn's span, -1 elsewhere.

    Requires the columns of `TokenBatch`. Spans come from the recorded turns: `clean_step_no_observation` is all
    that the policy wrote in the turn, `action_only` the tags and content of its action, `answer_only` the same
    for turns that answer, `final_answer_only` for the last of them. A turn without such an action has no span.
    """

    def __init__(self, *, mode: SpanMode, decode: Callable[[Sequence[int]], str], **kwargs: Any):
        """Keeps the span mode, and how response ids become the text that the environment saw."""
        super().__init__(**kwargs)
        self.mode: SpanMode = mode
        self.decode = decode

    @override(ConnectorV2)
    def __call__(
        self, *, batch: dict[str, Any], shared_data: dict, **kwargs: Any
    ) -> dict[str, Any]:
        """Finds the span of every turn."""
        columns = batch[DEFAULT_MODULE_ID]
        if self.mode == "clean_step_no_observation":
            columns["step_index"] = columns["turn_index"].clone()
            return batch
        turn_BT: Tensor = columns["turn_index"]
        step_BT = torch.full_like(turn_BT, -1)
        row = 0
        for episode in episodes_of(shared_data):
            spans = episode_spans(episode, self.mode, self.decode)
            for k, span in enumerate(spans):
                b = row + k if episode.context == "window" else row
                if span is not None:
                    positions = (turn_BT[b] == k).nonzero()[:, 0]
                    step_BT[b, positions[span[0] : span[1]]] = k
            row += len(spans) if episode.context == "window" else 1
        columns["step_index"] = step_BT
        return batch


def episode_spans(
    episode: AgentEpisode, mode: SpanMode, decode: Callable[[Sequence[int]], str]
) -> list[tuple[int, int] | None]:
    """Half-open token range of each turn's span, in tokens of its response; None where it has none."""
    spans = [
        _action_span(turn, decode, answers_only=mode != "action_only") for turn in episode.turns
    ]
    if mode == "final_answer_only":
        last = max((k for k, span in enumerate(spans) if span is not None), default=-1)
        spans = [span if k == last else None for k, span in enumerate(spans)]
    return spans


def _action_span(
    turn: Turn, decode: Callable[[Sequence[int]], str], *, answers_only: bool
) -> tuple[int, int] | None:
    match = _ACTION.search(turn.response)
    if match is None or (answers_only and match.group(1) != "answer"):
        return None
    ids = turn.response_ids.tolist()
    first = _token_at(ids, match.start(), decode)
    last = _token_at(ids, match.end() - 1, decode)
    return first, last + 1


def _token_at(ids: Sequence[int], position: int, decode: Callable[[Sequence[int]], str]) -> int:
    """Index of the token that holds a character: the smallest k with more than `position` characters in ids[: k + 1].

    Decoded prefixes grow in length, so a binary search needs only a few of them.
    """
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high) // 2
        if len(decode(ids[: middle + 1])) > position:
            high = middle
        else:
            low = middle + 1
    return low
