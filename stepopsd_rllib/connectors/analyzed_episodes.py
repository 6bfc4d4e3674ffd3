"""Skills of recorded episodes from an analyzer, and how it fared."""

from __future__ import annotations

from collections.abc import Sequence

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeAnalyzer, EpisodeRecord, EpisodeSkills


def skills_of(
    episodes: Sequence[AgentEpisode], analyzer: EpisodeAnalyzer, metrics: MetricsLogger | None
) -> list[EpisodeSkills | None]:
    """Skills of each episode, None where the analyzer failed.

    Logs the analyzer's counts of this update under `analyzer/`, failures by reason; they add up
    over learners.
    """
    before = analyzer.counts.metrics()
    skills = analyzer.analyze_many([EpisodeRecord.of(episode) for episode in episodes])
    if metrics is not None:
        for name, count in analyzer.counts.metrics().items():
            key = (DEFAULT_MODULE_ID, "analyzer", *name.split("/"))
            metrics.log_value(key, float(count - before[name]), reduce="sum")
    return skills
