"""The policy as analyzer of its own episodes: reads what it wrote when the env runner asked it.

The question is put where the engine is, in the env runner, between rollout and update
(`rollout.policy_analysis`); the reply travels with its episode. This side only reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepopsd_rllib.config_keys import number, or_none, require, whole
from stepopsd_rllib.teachers.analysis.analyzer import (
    AnalyzerCounts,
    AnalyzerFailure,
    EpisodeRecord,
    EpisodeSkills,
)
from stepopsd_rllib.teachers.analysis.analyzer_reply import usable_skills

LONGEST_DEFAULT_CONTEXT = 8192
"""Tokens; about what 30 turns of ALFWorld with reasoning, and a reply, take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySettings:
    """How the policy is asked about its own episodes.

    Attributes:
        max_step_skills: K, step skills an episode (authors' scripts: 5 ALFWorld, 2 Search-QA).
        max_completion_tokens: Length limit of a reply, tokens (authors' code: 1024; their scripts:
            4096).
        max_context_tokens: Longest question plus reply, tokens; the sampler's context grows to it.
            None: as many as the model has positions, at most 8192.
        temperature: Temperature of the reply; 0 is greedy (0.4, as in the papers' evaluation).
        parse_attempts: Replies asked for; from the second on the error is shown (authors' code: 2).
    """

    max_step_skills: int = 5
    max_completion_tokens: int = 1024
    max_context_tokens: int | None = None
    temperature: float = 0.4
    parse_attempts: int = 2

    def __post_init__(self) -> None:
        """Refuses settings that no question could be put with."""
        require(self, _CHECKS, section="config.analyzer")


_CHECKS = {
    "max_step_skills": whole(0),
    "max_completion_tokens": whole(1, "tokens"),
    "max_context_tokens": or_none(whole(2, "tokens")),
    "temperature": number(0),
    "parse_attempts": whole(1),
}


class PolicyAnalyzer:
    """Reads skills out of the replies that came with the episodes.

    Args:
        settings: How the policy was asked.
    """

    def __init__(self, settings: PolicySettings) -> None:
        self.settings = settings
        self.counts = AnalyzerCounts()

    def analyze(self, record: EpisodeRecord) -> EpisodeSkills | None:
        """Skills of one episode; None, counted, where its reply has none."""
        self.counts.episodes += 1
        found = self._read(record)
        if isinstance(found, AnalyzerFailure):
            self.counts.failures[found] += 1
            return None
        self.counts.successes += 1
        return found

    def analyze_many(self, records: Sequence[EpisodeRecord]) -> list[EpisodeSkills | None]:
        """Skills of several episodes, in order."""
        return [self.analyze(record) for record in records]

    def _read(self, record: EpisodeRecord) -> EpisodeSkills | AnalyzerFailure:
        reply = record.reply
        if reply is None:
            return AnalyzerFailure.NOTHING_RECORDED
        self.counts.requests += reply.requests
        self.counts.prompt_tokens += reply.prompt_tokens
        self.counts.completion_tokens += reply.completion_tokens
        if reply.failure:
            return AnalyzerFailure(reply.failure)
        self.counts.records_cut += len(reply.shown_turns) < len(record.turns)
        found = usable_skills(reply.text)
        if isinstance(found, AnalyzerFailure):
            return found
        return found.limited_to(reply.shown_turns, max_step_skills=self.settings.max_step_skills)
