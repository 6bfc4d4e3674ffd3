"""Do/avoid guidance that the successes and failures of a group teach together (GRSD)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ray.rllib.utils.annotations import override

from stepopsd_rllib.connectors.analyzed_episodes import skills_of
from stepopsd_rllib.connectors.columns import EPISODE_INDEX, HAS_GUIDANCE
from stepopsd_rllib.connectors.hindsight import HINDSIGHT, Hindsight, capped, control_texts
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeAnalyzer, EpisodeSkills
from stepopsd_rllib.teachers.text_control import TextControl

GUIDANCE_HEADER = "Guidance from other attempts at this task."


class GroupGuidance(LearnerConnector):
    """Puts the guidance of each mixed group into `shared_data[HINDSIGHT]`; writes `has_guidance`.

    `has_guidance` is bool [B]. An analyzer reads the shortest success and the longest failure of
    every group that has both: the first says what to do, the second what to avoid. Groups without
    one of them, and groups that the analyzer failed on, have no guidance and are counted. Text
    beyond `max_tokens` is cut from its own end, and counted.
    """

    def __init__(
        self,
        *,
        analyzer: EpisodeAnalyzer,
        max_tokens: int,
        encode: Callable[[str], list[int]],
        control: TextControl | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.analyzer = analyzer
        self.max_tokens = max_tokens
        self.encode = encode
        self.control = control

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Contrasts, encodes and caps."""
        columns = batch.columns
        episodes = batch.episodes
        pairs = contrasted(episodes)
        read = [episode for pair in pairs.values() for episode in pair]
        skills = skills_of(read, self.analyzer, batch.metrics)
        by_group: dict[int, Hindsight] = {}
        own = [guidance_text(skills[2 * i], skills[2 * i + 1]) for i in range(len(pairs))]
        tasks = [success.task_id for success, _ in pairs.values()]
        texts = control_texts(batch, self.control, own, tasks)
        for group, text in zip(pairs, texts, strict=True):
            if text:
                by_group[group] = capped(self.encode(text), self.max_tokens)
        batch.shared[HINDSIGHT] = told = [by_group.get(e.group, Hindsight()) for e in episodes]
        has_guidance_N = torch.tensor([bool(guidance.ids) for guidance in told])
        columns[HAS_GUIDANCE] = has_guidance_N[columns[EPISODE_INDEX]]
        num_groups = len({episode.group for episode in episodes})
        values = {
            "mixed_group_share": len(pairs) / max(1, num_groups),
            "guided_group_share": len(by_group) / max(1, num_groups),
            "guidance_cut_share": sum(g.was_cut for g in by_group.values()) / max(1, len(by_group)),
        }
        batch.log(values)


def contrasted(episodes: Sequence[AgentEpisode]) -> dict[int, tuple[AgentEpisode, AgentEpisode]]:
    """Group -> its shortest success and longest failure, for groups that have both."""
    pairs = {}
    for group in sorted({episode.group for episode in episodes}):
        members = [episode for episode in episodes if episode.group == group]
        won = [episode for episode in members if episode.won]
        lost = [episode for episode in members if not episode.won]
        if won and lost:
            pairs[group] = (
                min(won, key=lambda episode: len(episode.turns)),
                max(lost, key=lambda episode: len(episode.turns)),
            )
    return pairs


def guidance_text(success: EpisodeSkills | None, failure: EpisodeSkills | None) -> str:
    """What to do and what to avoid; "" where the analyzer found neither."""
    lines = [
        f"{word}: {skills.episode_skill.strip()}"
        for word, skills in (("Do", success), ("Avoid", failure))
        if skills is not None and skills.episode_skill.strip()
    ]
    return "\n".join([GUIDANCE_HEADER, *lines, "", ""]) if lines else ""
