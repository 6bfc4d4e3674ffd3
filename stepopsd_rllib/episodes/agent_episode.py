"""An agent's episode as turns, and as RLlib's `SingleAgentEpisode`, lossless both ways.

One environment step of the RLlib episode is one turn: observation and action are texts, token ids
and log-probs are extra model outputs, everything else is custom data (which survives pickling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from stepopsd_rllib.episodes.policy_reply import PolicyReply
from stepopsd_rllib.episodes.status import Status
from stepopsd_rllib.episodes.turn import Turn

ContextPolicy = Literal["append", "window"]

_TOKEN_COLUMNS = ("prompt_ids", "response_ids", "behaviour_log_probs")
_TURN_FIELDS = ("action", "is_action_valid", "finish_reason", "weights_version", "anchor")
_EPISODE_FIELDS = (
    "task_id",
    "task_type",
    "group",
    "rollout",
    "seed",
    "context",
    "won",
    "task_score",
    "golden",
    "preamble",
    "final_anchor",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentEpisode:
    """A finished episode of one task.

    Attributes:
        task_id: What was reset; the episodes of a group share it.
        task_type: Kind of the task, for reports by type.
        group: Group of the episode, unique within a training run.
        rollout: Index of the episode inside its group.
        seed: Seed of the episode's sampling and environment.
        context: "append" (one growing chat, one row an episode) or "window" (rebuilt prompts, one
            row a turn).
        status: Why the episode ended.
        won: Whether the task was solved.
        task_score: How well it was done, 0 to 1; None where the environment does not grade.
        turns: The turns, in order.
        final_observation: Environment text after the last response.
        final_anchor: Text that identifies the state after it; "" where the environment names none.
        golden: Text of a golden rollout of the task, where the environment has one.
        preamble: Text that stood in front of the environment's own in the prompts, such as skills;
            "" for none.
        error: What went wrong, for an episode whose status is an error.
        reply: What the policy wrote about the episode; None where it was not asked.
    """

    task_id: str
    task_type: str
    group: int
    rollout: int
    seed: int
    context: ContextPolicy
    status: Status
    won: bool
    turns: tuple[Turn, ...]
    task_score: float | None = None
    final_observation: str = ""
    final_anchor: str = ""
    golden: str = ""
    preamble: str = ""
    error: str = ""
    reply: PolicyReply | None = None

    @property
    def is_trainable(self) -> bool:
        """Whether an update may learn from it: the policy acted, and answers for the end."""
        return self.status.is_outcome and len(self.turns) > 0

    @property
    def return_(self) -> float:
        """Undiscounted sum of the turns' rewards."""
        return float(sum(turn.reward for turn in self.turns))

    @property
    def num_invalid_actions(self) -> int:
        """Number of turns whose response did not follow the action format."""
        return sum(not turn.is_action_valid for turn in self.turns)

    @property
    def num_response_tokens(self) -> int:
        """Number of tokens that the policy sampled."""
        return sum(len(turn.response_ids) for turn in self.turns)


def to_rllib(
    episode: AgentEpisode, *, infos: Sequence[dict[str, Any]] | None = None
) -> SingleAgentEpisode:
    """The RLlib view of an episode: one environment step a turn.

    Args:
        episode: A finished episode.
        infos: What the environment said beside each observation; left out by default.
    """
    turns = episode.turns
    ended_by_task = episode.status in (Status.SUCCESS, Status.FAILURE)
    rllib_episode = SingleAgentEpisode(
        observations=[*(turn.observation for turn in turns), episode.final_observation],
        actions=[turn.response for turn in turns],
        rewards=[turn.reward for turn in turns],
        infos=None if infos is None else list(infos),
        terminated=ended_by_task,
        truncated=not ended_by_task,
        extra_model_outputs={
            column: [getattr(turn, column) for turn in turns] for column in _TOKEN_COLUMNS
        },
        len_lookback_buffer=0,
    )
    rllib_episode.custom_data.update(
        {
            **{field: getattr(episode, field) for field in _EPISODE_FIELDS},
            "status": str(episode.status),
            "error": episode.error,
            "reply": None if episode.reply is None else asdict(episode.reply),
            "turns": [{field: getattr(turn, field) for field in _TURN_FIELDS} for turn in turns],
        }
    )
    return rllib_episode


def from_rllib(rllib_episode: SingleAgentEpisode) -> AgentEpisode:
    """The inverse of `to_rllib`.

    Raises:
        ValueError: The episode was not made by this package's env runner, or was cut on the way.
    """
    data: dict[str, Any] = rllib_episode.custom_data
    if "turns" not in data or len(data["turns"]) != len(rllib_episode):
        raise ValueError(
            f"Episode {rllib_episode.id_}: {len(rllib_episode)} steps but "
            f"{len(data.get('turns', []))} turn records. It was cut on the way to the learner, or "
            "sampled by another env runner. Send whole groups with episodes_refs."
        )
    observations = list(rllib_episode.get_observations())
    responses = list(rllib_episode.get_actions())
    rewards = rllib_episode.get_rewards()
    tokens = {
        column: list(rllib_episode.get_extra_model_outputs(column)) for column in _TOKEN_COLUMNS
    }
    turns = tuple(
        Turn(
            observation=observations[i],
            response=responses[i],
            reward=float(rewards[i]),
            **{column: np.asarray(tokens[column][i]) for column in _TOKEN_COLUMNS},
            **data["turns"][i],
        )
        for i in range(len(rllib_episode))
    )
    return AgentEpisode(
        turns=turns,
        status=Status(data["status"]),
        error=data["error"],
        reply=None if data["reply"] is None else PolicyReply(**data["reply"]),
        final_observation=observations[-1],
        **{field: data[field] for field in _EPISODE_FIELDS},
    )
