"""What a teacher is told of one turn: how the world answered it, or how others fared (SERL)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from stepopsd_rllib.teachers.contexts import render_action, render_episode
from stepopsd_rllib.teachers.tried_actions import answered_actions, compared_actions

if TYPE_CHECKING:
    from stepopsd_rllib.episodes import AgentEpisode, Turn

FeedbackSource = Literal[
    "feedback",
    "next_observation",
    "future",
    "success",
    "success_or_feedback",
    "success_and_feedback",
    "success_and_next_observation",
    "success_and_future",
    "future_and_feedback",
    "future_and_next_observation",
    "anchor_feedback",
    "anchor_next_observation",
    "anchor_future",
]
SOURCES: tuple[FeedbackSource, ...] = get_args(FeedbackSource)
_ANCHOR = "anchor_"
CLOSING = "Now solve the task above."
"""What the told text ends with."""
_TITLES = {
    "feedback": "What the environment answered:",
    "next_observation": "What you are asked next:",
    "future": "What was done afterwards:",
    "success": "How another attempt solved this task:",
}


def turn_texts(
    episodes: Sequence[AgentEpisode],
    source: FeedbackSource,
    *,
    message_of: Callable[[Turn], str],
) -> list[list[str]]:
    """The text of every turn of a batch.

    - `feedback`: the observation that answered the turn;
    - `next_observation`: the student's message of the next turn;
    - `future`: the later actions of the episode;
    - `success`: the first other episode of the group that won, thoughts left out.

    - `anchor_feedback`, `anchor_next_observation`, `anchor_future`: what all episodes of the group
      did in the state of the turn, and what came of it (`teachers.tried_actions`).

    A combination with "and" needs all of its parts; with "or" the first part that there is.

    Args:
        episodes: The batch.
        source: Which of them.
        message_of: Text of a turn's last user message.

    Returns:
        For each episode a text a turn, parts under their titles; "" where there is none.
    """
    if needs_anchor(source):
        name = source.removeprefix(_ANCHOR)

        def part(episode: AgentEpisode, k: int) -> str:
            return _part(name, episode, k, "", message_of)

        if name == "feedback":
            return answered_actions(episodes, answer_of=part)
        return compared_actions(episodes, detail_of=part)
    found: list[list[str]] = []
    for n, episode in enumerate(episodes):
        peer = _rendered_peer(episodes, n) if "success" in source else ""

        def text(k: int, episode: AgentEpisode = episode, peer: str = peer) -> str:
            for names in (option.split("_and_") for option in source.split("_or_")):
                parts = {name: _part(name, episode, k, peer, message_of) for name in names}
                if all(parts.values()):
                    return "\n\n".join(f"{_TITLES[name]}\n{part}" for name, part in parts.items())
            return ""

        found.append([text(k) for k in range(len(episode.turns))])
    return found


def needs_anchor(source: FeedbackSource) -> bool:
    """Whether the environment has to name its states for it."""
    return source.startswith(_ANCHOR)


def _part(
    name: str, episode: AgentEpisode, k: int, peer: str, message_of: Callable[[Turn], str]
) -> str:
    later = episode.turns[k + 1 :]
    if name == "success":
        return peer
    if name == "future":
        return "\n".join(render_action(turn.action) for turn in later)
    if name == "next_observation":
        return message_of(later[0]).strip() if later else ""
    return (later[0].observation if later else episode.final_observation).strip()


def _rendered_peer(episodes: Sequence[AgentEpisode], n: int) -> str:
    """The first other won episode of the group; "" where there is none."""
    group = episodes[n].group
    for m, other in enumerate(episodes):
        if m != n and other.group == group and other.won:
            return render_episode([(turn.observation, turn.action) for turn in other.turns])
    return ""


def feedback_text(answer: str) -> str:
    """What `feedback` tells of a turn that was answered so, closing sentence included."""
    return f"{_TITLES['feedback']}\n{answer.strip()}\n\n{CLOSING}"


def with_told_text(message: str, *, step_skill: str) -> str:
    """A user message with the told text at its end, set off by a blank line."""
    return f"{message.rstrip()}\n\n{step_skill}"
