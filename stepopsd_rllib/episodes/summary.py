"""What is told of an episode where its turns are not needed: results and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from stepopsd_rllib.episodes.agent_episode import AgentEpisode
from stepopsd_rllib.episodes.status import Status


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeSummary:
    """A finished episode in some hundred bytes; names as in `AgentEpisode`.

    Attributes:
        num_valid_actions: Turns whose response followed the action format.
        num_cut_responses: Turns whose response ran into its token limit.
        num_malformed_responses: Turns that ended by themselves, without a valid action.
        num_response_tokens: Tokens that the policy sampled.
        num_tokens: Tokens of the episode's rows.
        weights_versions: Versions of the weights that sampled, ascending.
    """

    task_id: str
    task_type: str
    group: int
    rollout: int
    status: Status
    won: bool
    task_score: float | None = None
    return_: float = 0.0
    error: str = ""
    num_turns: int = 0
    num_valid_actions: int = 0
    num_cut_responses: int = 0
    num_malformed_responses: int = 0
    num_response_tokens: int = 0
    num_tokens: int = 0
    weights_versions: tuple[int, ...] = ()

    @classmethod
    def of(cls, episode: AgentEpisode) -> Self:
        """The summary of an episode."""
        turns = episode.turns
        is_cut = [turn.finish_reason == "length" for turn in turns]
        num_prompt_tokens = sum(len(turn.prompt_ids) for turn in turns)
        return cls(
            task_id=episode.task_id,
            task_type=episode.task_type,
            group=episode.group,
            rollout=episode.rollout,
            status=episode.status,
            won=episode.won,
            task_score=episode.task_score,
            return_=episode.return_,
            error=episode.error,
            num_turns=len(turns),
            num_valid_actions=len(turns) - episode.num_invalid_actions,
            num_cut_responses=sum(is_cut),
            num_malformed_responses=sum(
                not turn.is_action_valid and not cut
                for turn, cut in zip(turns, is_cut, strict=True)
            ),
            num_response_tokens=episode.num_response_tokens,
            num_tokens=num_prompt_tokens + episode.num_response_tokens,
            weights_versions=tuple(sorted({turn.weights_version for turn in turns})),
        )

    @property
    def is_trainable(self) -> bool:
        """As that of the episode."""
        return self.status.is_outcome and self.num_turns > 0
