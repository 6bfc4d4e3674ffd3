"""What the teacher is told of each episode, as token ids with a cap."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray.rllib.utils.annotations import override

from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.teachers.contexts import InfoMode, hindsight_texts, render_episode
from stepopsd_rllib.teachers.text_control import TextControl

HINDSIGHT = "hindsight"
"""Key of `shared_data` under which `TeacherGap` finds a `Hindsight` for every episode."""

HindsightSource = Literal["peer", "golden", "none"]
_MODES: dict[HindsightSource, InfoMode] = {
    "peer": "peer_traj",
    "golden": "golden_rollout",
    "none": "none",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Hindsight:
    """Token ids that the teacher reads beside an episode.

    Attributes:
        ids: Empty where the teacher is told no more than the policy.
        was_cut: Whether the cap took tokens from the end.
    """

    ids: tuple[int, ...] = ()
    was_cut: bool = False


class HindsightContext(LearnerConnector):
    """Puts one `Hindsight` an episode into `shared_data[HINDSIGHT]`.

    `peer` tells the failed episodes of a mixed group about a successful sibling (the paper),
    `golden` tells every episode its recorded golden rollout; `include_outcome` adds the line that
    says how the episode ended. Text beyond `max_tokens` is cut from its own end, and counted.

    Hindsight that should be there and is not raises: the teacher would be a mere stale policy, and
    the numbers would look like a run of the method.
    """

    def __init__(
        self,
        *,
        source: HindsightSource,
        include_outcome: bool,
        max_tokens: int,
        encode: Callable[[str], list[int]],
        control: TextControl | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.source: HindsightSource = source
        self.include_outcome = include_outcome
        self.max_tokens = max_tokens
        self.encode = encode
        self.control = control

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Renders, encodes and caps the texts."""
        episodes = batch.episodes
        own = self._texts(episodes)
        hindsights = self._encoded(own)
        arrived = self._arrived(episodes, hindsights)
        if arrived and not any(arrived):
            raise ValueError(self._nothing_arrived(len(arrived)))
        texts = control_texts(batch, self.control, own, [e.task_id for e in episodes])
        if texts != own:
            hindsights = self._encoded(texts)
        batch.shared[HINDSIGHT] = hindsights
        num_told = sum(bool(h.ids) for h in hindsights)
        counted = {
            "hindsight_share": num_told / max(1, len(hindsights)),
            "hindsight_due_share": len(arrived) / max(1, len(hindsights)),
            "hindsight_arrived_share": sum(arrived) / len(arrived) if arrived else 1.0,
            "hindsight_cut_share": sum(h.was_cut for h in hindsights) / max(1, num_told),
            "hindsight_tokens_mean": sum(len(h.ids) for h in hindsights) / max(1, num_told),
        }
        batch.log(counted)

    def _encoded(self, texts: list[str]) -> list[Hindsight]:
        # All failures of a group read the same sibling: encode it once.
        by_text = {
            text: capped(self.encode(text), self.max_tokens) if text else Hindsight()
            for text in dict.fromkeys(texts)
        }
        return [by_text[text] for text in texts]

    def _texts(self, episodes: list[AgentEpisode]) -> list[str]:
        uses_peers = self.source == "peer"
        return hindsight_texts(
            [_rendered(episode) if uses_peers and episode.won else "" for episode in episodes],
            [episode.won for episode in episodes],
            [episode.group for episode in episodes],
            mode=_MODES[self.source],
            include_outcome=self.include_outcome,
            golden=[episode.golden or None for episode in episodes],
        )

    def _arrived(self, episodes: list[AgentEpisode], hindsights: list[Hindsight]) -> list[bool]:
        """Whether the hindsight came, for every episode that the source promises some to."""
        if self.source == "golden":
            return [bool(episode.golden) for episode in episodes]
        if self.source == "none":
            return []
        won_groups = {episode.group for episode in episodes if episode.won}
        return [
            bool(hindsight.ids)
            for episode, hindsight in zip(episodes, hindsights, strict=True)
            if not episode.won and episode.group in won_groups
        ]

    def _nothing_arrived(self, num_due: int) -> str:
        if self.source == "golden":
            return (
                "config.hindsight='golden': the environment gives no golden rollout (no "
                f"info['golden_rollout'] at reset) for any of {num_due} episodes. Use "
                "hindsight='peer', or data that has golden rollouts."
            )
        return (
            f"config.hindsight='peer': {num_due} failed episodes have a successful sibling, but no "
            "sibling's text arrived: its turns are empty. The environment must give observations "
            "and info['action']."
        )


def control_texts(
    batch: LearnerBatch,
    control: TextControl | None,
    texts: Sequence[str],
    tasks: Sequence[Hashable],
) -> list[str]:
    """What the teacher is told in the place of its own texts; drawn by the update's number.

    Logs `teacher_text_replaced_share`, of the texts that there were, where there is a control.
    """
    if control is None or control.is_off:
        return list(texts)
    replaced = control.replaced(texts, tasks, seed=batch.update)
    num_own = sum(bool(text.strip()) for text in texts)
    num_replaced = sum(bool(text.strip()) for text in replaced)
    batch.log({"teacher_text_replaced_share": num_replaced / max(1, num_own)})
    return replaced


def capped(ids: list[int], max_tokens: int) -> Hindsight:
    """Ids without what exceeds the cap at their end."""
    return Hindsight(ids=tuple(ids[:max_tokens]), was_cut=len(ids) > max_tokens)


def _rendered(episode: AgentEpisode) -> str:
    return render_episode([(turn.observation, turn.action) for turn in episode.turns])
