"""What the teacher is told of each episode, as token ids with a cap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from stepopsd_rllib.connectors.token_batch import episodes_of
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.hindsight.contexts import hindsight_texts, render_episode

HINDSIGHT = "hindsight"
"""Key of `shared_data` under which `TeacherGap` finds a `Hindsight` for every episode."""

HindsightSource = Literal["peer", "golden", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hindsight:
    """Token ids that the teacher reads beside an episode; empty where it knows no more than the policy."""

    ids: tuple[int, ...] = ()
    was_cut: bool = False


class HindsightContext(ConnectorV2):
    """Puts one `Hindsight` an episode into `shared_data[HINDSIGHT]`.

    `peer` tells the failed episodes of a mixed group about a successful sibling (the paper), `golden` tells every
    episode its recorded golden rollout; `include_outcome` adds the line that says how the episode ended. Text
    beyond `max_tokens` is cut from its own end, and counted.
    """

    def __init__(
        self,
        *,
        source: HindsightSource,
        include_outcome: bool,
        max_tokens: int,
        encode: Callable[[str], list[int]],
        **kwargs: Any,
    ):
        """Keeps the settings and the tokenizer's encoding without special tokens."""
        super().__init__(**kwargs)
        self.source: HindsightSource = source
        self.include_outcome = include_outcome
        self.max_tokens = max_tokens
        self.encode = encode

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        batch: dict[str, Any],
        shared_data: dict,
        metrics: MetricsLogger | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Renders, encodes and caps the texts."""
        episodes = episodes_of(shared_data)
        shared_data[HINDSIGHT] = hindsights = [
            capped(self.encode(text), self.max_tokens) if text else Hindsight()
            for text in self._texts(episodes)
        ]
        if metrics is not None:
            counted = {
                "hindsight_share": sum(bool(h.ids) for h in hindsights) / max(1, len(hindsights)),
                "hindsight_cut_share": sum(h.was_cut for h in hindsights) / max(1, len(hindsights)),
                "hindsight_tokens_mean": sum(len(h.ids) for h in hindsights)
                / max(1, sum(bool(h.ids) for h in hindsights)),
            }
            for name, value in counted.items():
                metrics.log_value((DEFAULT_MODULE_ID, name), value, window=1)
        return batch

    def _texts(self, episodes: list[AgentEpisode]) -> list[str]:
        uses_peers = self.source == "peer"
        return hindsight_texts(
            [_rendered(episode) if uses_peers and episode.won else "" for episode in episodes],
            [episode.won for episode in episodes],
            [episode.group for episode in episodes],
            mode={"peer": "peer_traj", "golden": "golden_rollout", "none": "none"}[self.source],
            include_outcome=self.include_outcome,
            golden=[episode.golden or None for episode in episodes],
        )


def capped(ids: list[int], max_tokens: int) -> Hindsight:
    """Ids without what exceeds the cap at their end."""
    return Hindsight(ids=tuple(ids[:max_tokens]), was_cut=len(ids) > max_tokens)


def _rendered(episode: AgentEpisode) -> str:
    return render_episode([(turn.observation, turn.action) for turn in episode.turns])
