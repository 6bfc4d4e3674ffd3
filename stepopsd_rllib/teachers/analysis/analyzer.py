"""What an analyzer of finished episodes reads and writes (OPID): records in, skills out.

An analyzer that cannot do its work returns None for that episode, which then keeps its outcome
advantage; the failure is counted by reason. It never makes a skill up.

Analyzers: rules (`rule_analyzer`), a model behind an endpoint (`endpoint_analyzer`), the policy
itself (`policy_analyzer`, which reads what the env runner had its sampler write).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

from stepopsd_envs.skill_rules import EpisodeSkills, RecordedTurn

if TYPE_CHECKING:
    from stepopsd_rllib.episodes import AgentEpisode, PolicyReply

Outcome = Literal["success", "failure", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeRecord:
    """A finished episode, as an analyzer sees it.

    Attributes:
        task: Description of the task, in the environment's words.
        outcome: How it ended.
        turns: Turns in order; each is a candidate for a step skill, numbered from 0.
        reply: What the policy wrote about the episode; None where it was not asked.
    """

    task: str
    outcome: Outcome
    turns: Sequence[RecordedTurn]
    reply: PolicyReply | None = None

    @classmethod
    def of(cls, episode: AgentEpisode) -> EpisodeRecord:
        """A finished episode of at least one turn as an analyzer reads it."""
        return cls(
            task=episode.turns[0].observation,
            outcome="success" if episode.won else "failure",
            turns=episode.turns,
            reply=episode.reply,
        )


class AnalyzerFailure(StrEnum):
    """Why an episode got no skills.

    `TOO_LONG`: not even one turn of the record fits into the policy's context.
    """

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    QUOTA = "quota"
    SERVER_ERROR = "server_error"
    REFUSED = "refused"
    UNREADABLE = "unreadable"
    EMPTY_SKILL = "empty_skill"
    DEADLINE = "deadline"
    TOO_LONG = "too_long"
    NOTHING_RECORDED = "nothing_recorded"
    RULES_FAILED = "rules_failed"


@dataclass(kw_only=True, slots=True)
class AnalyzerCounts:
    """What an analyzer did since it was made.

    Attributes:
        episodes: Episodes it was asked about.
        successes: Episodes it wrote skills for.
        failures: Episodes it did not, by reason.
        records_cut: Episodes of which the model was shown some turns only, for want of room.
        requests: Requests sent to a model, repeated ones included.
        retries: Requests that repeated a failed one.
        prompt_tokens: Read by the model; as billed by an endpoint.
        completion_tokens: Written by the model; as billed by an endpoint.
        cost: Cost in the currency of the configured prices.
    """

    episodes: int = 0
    successes: int = 0
    failures: Counter[AnalyzerFailure] = field(default_factory=Counter)
    records_cut: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def metrics(self) -> dict[str, float]:
        """The counts as flat metrics, every reason of failure included."""
        return {
            "episodes": self.episodes,
            "successes": self.successes,
            "failures": self.failures.total(),
            "records_cut": self.records_cut,
            "requests": self.requests,
            "retries": self.retries,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": self.cost,
            **{f"failure/{reason}": self.failures[reason] for reason in AnalyzerFailure},
        }


class EpisodeAnalyzer(Protocol):
    """Writes skills from finished episodes."""

    counts: AnalyzerCounts

    def analyze(self, record: EpisodeRecord) -> EpisodeSkills | None:
        """Skills of one episode; None, counted, where there are none."""
        ...

    def analyze_many(self, records: Sequence[EpisodeRecord]) -> list[EpisodeSkills | None]:
        """Skills of several episodes, in order."""
        ...
