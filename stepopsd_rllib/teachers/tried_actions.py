"""What the episodes of a group tried in one state, and how it ended (SERL's anchor contexts)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepopsd_rllib.episodes import AgentEpisode

    Render = Callable[[AgentEpisode, int], str]

TITLE = "What all attempts at this task tried in this very state:"
Place = tuple[int, int]
"""A turn: number of the episode, number of the turn in it."""


def answered_actions(episodes: Sequence[AgentEpisode], *, answer_of: Render) -> list[list[str]]:
    """For every turn, a line for each action that its state saw and each answer to it.

    Args:
        episodes: The batch.
        answer_of: How the environment answered a turn.

    Returns:
        For each episode a text a turn, equal for the turns of a group with the same anchor; ""
        where the environment names no state, or nothing was done in it.
    """

    def text(places: Sequence[Place]) -> str:
        lines = [
            f"- {action}: {_line(answer_of(episodes[n], k)) or 'no answer'}"
            for action, tries in _by_action(episodes, places).items()
            for n, k in tries
        ]
        return _under_title(list(dict.fromkeys(lines)))

    return _by_state(episodes, text)


def compared_actions(episodes: Sequence[AgentEpisode], *, detail_of: Render) -> list[list[str]]:
    """For every turn, the actions that its state saw: how often, how they ended, best and worst.

    Args:
        episodes: The batch.
        detail_of: What came after a turn; a blank one is left out.

    Returns:
        As `answered_actions`, actions in the order of their first use.
    """

    def text(places: Sequence[Place]) -> str:
        lines: list[str] = []
        for action, tries in _by_action(episodes, places).items():
            outcomes = [episodes[n].return_ for n, _ in tries]
            num_won = sum(bool(episodes[n].won) for n, _ in tries)
            lines.append(
                f"- {action}: tried {len(tries)} times, {num_won} won, mean return "
                f"{sum(outcomes) / len(outcomes):.2f}"
            )
            best, worst = outcomes.index(max(outcomes)), outcomes.index(min(outcomes))
            for name, i in {"best": best, "worst": worst}.items():
                if name == "worst" and i == best:
                    continue
                n, k = tries[i]
                ended = "won" if episodes[n].won else "lost"
                detail = _line(detail_of(episodes[n], k))
                lines.append(f"  {name} ({ended}, return {outcomes[i]:g}){detail and ': '}{detail}")
        return _under_title(lines)

    return _by_state(episodes, text)


def _by_state(
    episodes: Sequence[AgentEpisode], text_of: Callable[[Sequence[Place]], str]
) -> list[list[str]]:
    """The text of each turn's state, made once a state."""
    places: dict[tuple[int, str], list[Place]] = defaultdict(list)
    for n, episode in enumerate(episodes):
        for k, turn in enumerate(episode.turns):
            places[episode.group, turn.anchor].append((n, k))
    texts = {state: text_of(tries) if state[1] else "" for state, tries in places.items()}
    return [[texts[e.group, turn.anchor] for turn in e.turns] for e in episodes]


def _by_action(episodes: Sequence[AgentEpisode], places: Sequence[Place]) -> dict[str, list[Place]]:
    """Turns by what they did, in the order of first use; case and blanks make no difference."""
    found: dict[str, list[Place]] = defaultdict(list)
    for n, k in places:
        action = " ".join(episodes[n].turns[k].action.lower().split())
        if action:
            found[action].append((n, k))
    return found


def _line(text: str) -> str:
    return " ".join(text.split())


def _under_title(lines: Sequence[str]) -> str:
    return "\n".join((TITLE, *lines)) if lines else ""
