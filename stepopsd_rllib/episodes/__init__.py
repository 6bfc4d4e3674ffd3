"""The record of what an agent did, and its views: RLlib episodes and token rows."""

from stepopsd_rllib.episodes.agent_episode import AgentEpisode, from_rllib, to_rllib
from stepopsd_rllib.episodes.packing import TokenRows, pack_episodes
from stepopsd_rllib.episodes.policy_reply import PolicyReply
from stepopsd_rllib.episodes.row_layout import RowLayout
from stepopsd_rllib.episodes.status import Status
from stepopsd_rllib.episodes.summary import EpisodeSummary
from stepopsd_rllib.episodes.turn import Turn

__all__ = [
    "AgentEpisode",
    "EpisodeSummary",
    "PolicyReply",
    "RowLayout",
    "Status",
    "TokenRows",
    "Turn",
    "from_rllib",
    "pack_episodes",
    "to_rllib",
]
