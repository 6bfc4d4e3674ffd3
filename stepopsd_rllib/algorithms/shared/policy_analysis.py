"""The policy as analyzer of its own episodes: what OPID's and GRSD's configs make of the key."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.rollout.policy_analysis import PolicyAnalysis
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeAnalyzer
from stepopsd_rllib.teachers.analysis.policy_analyzer import LONGEST_DEFAULT_CONTEXT, PolicyAnalyzer
from stepopsd_rllib.training.agent_config import AgentConfig


def analysis_by_policy(
    config: AgentConfig,
    analyzer: EpisodeAnalyzer,
    choose: Callable[[Sequence[AgentEpisode]], Sequence[AgentEpisode]],
) -> PolicyAnalysis | None:
    """What env runners ask the policy for an analyzer; None for one that asks elsewhere.

    Args:
        config: Of the run.
        analyzer: From `make_analyzer`.
        choose: The episodes that the method needs skills of.

    Raises:
        ValueError: The question does not fit the model.
    """
    if not isinstance(analyzer, PolicyAnalyzer):
        return None
    positions = config.model_positions()
    wanted = analyzer.settings.max_context_tokens
    if wanted is None:
        longest = min(positions or LONGEST_DEFAULT_CONTEXT, LONGEST_DEFAULT_CONTEXT)
        wanted = max(config.max_context_tokens, longest)
    if positions is not None and wanted > positions:
        raise ValueError(
            f"config.analyzer.max_context_tokens={wanted}: the model has {positions} positions. "
            f"Set it to {positions} or less."
        )
    return PolicyAnalysis(settings=analyzer.settings, max_context_tokens=wanted, choose=choose)
