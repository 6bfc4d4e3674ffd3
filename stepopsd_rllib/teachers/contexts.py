"""What the teacher is told that the policy was not: outcome, successful sibling, golden rollout.

StepOPSD puts this text right after the causal prefix of the step that is judged; without any part
it is empty, and the teacher's context is the student's.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

InfoMode = Literal["none", "peer_traj", "golden_rollout"]


def hindsight_text(
    *, is_correct: bool | None = None, peer: str | None = None, golden: str | None = None
) -> str:
    """Renders what is known, in the authors' form.

    Args:
        is_correct: How the judged episode ended; None leaves the line out.
        peer: Text of a successful sibling; None or "" leaves it out.
        golden: Text of a golden rollout; None or "" leaves it out.

    Returns:
        A block between `<hindsight>` tags, with a newline before and after; "" if there is no part.
    """
    parts: list[str] = []
    if is_correct is not None:
        parts.append(f"final_correctness: {'correct' if is_correct else 'incorrect'}")
    for name, text in (("peer_correct_trajectory", peer), ("golden_rollout", golden)):
        if text:
            parts += [f"{name}:", f"<{name}>", text.rstrip(), f"</{name}>"]
    return "\n".join(["", "<hindsight>", *parts, "</hindsight>", ""]) if parts else ""


def choose_peers(is_correct: Sequence[bool], groups: Sequence[Hashable]) -> list[int | None]:
    """The sibling that each episode learns from: the first correct one of its group.

    Args:
        is_correct: How each episode ended.
        groups: Group of each episode.

    Returns:
        Index of the sibling, first in batch order; None for correct episodes, and where no sibling
        is correct.
    """
    first_correct: dict[Hashable, int] = {}
    for index, (correct, group) in enumerate(zip(is_correct, groups, strict=True)):
        if correct:
            first_correct.setdefault(group, index)
    return [
        None if correct else first_correct.get(group)
        for correct, group in zip(is_correct, groups, strict=True)
    ]


def hindsight_texts(
    texts: Sequence[str],
    is_correct: Sequence[bool],
    groups: Sequence[Hashable],
    *,
    mode: InfoMode,
    include_outcome: bool = False,
    include_peer: bool = True,
    golden: Sequence[str | None] | None = None,
) -> list[str]:
    """Hindsight text of every episode of a batch.

    Args:
        texts: What is shown of each episode when it is a peer: its response, or `render_episode`.
        is_correct: How each episode ended.
        groups: Group of each episode.
        mode: "peer_traj" tells failed episodes of a mixed group about a successful sibling;
            "golden_rollout" tells every episode its golden text; "none" neither.
        include_outcome: Tell every episode how it ended.
        include_peer: The authors' second switch for peers: without it "peer_traj" does nothing.
        golden: Golden text of each episode, None where there is none.

    Returns:
        One text an episode, "" where nothing is known.
    """
    nobody: list[int | None] = [None] * len(texts)
    uses_peers = mode == "peer_traj" and include_peer
    peers = choose_peers(is_correct, groups) if uses_peers else nobody
    golden = golden if golden is not None and mode == "golden_rollout" else [None] * len(texts)
    return [
        hindsight_text(
            is_correct=correct if include_outcome else None,
            peer=None if peer is None else texts[peer],
            golden=golden_text,
        )
        for correct, peer, golden_text in zip(is_correct, peers, golden, strict=True)
    ]


def render_episode(turns: Sequence[tuple[str, str]]) -> str:
    """An episode as text for a sibling's teacher: what was done, and what was seen after it.

        > go to desk 1
        You arrive at desk 1. On the desk 1, you see a pen 2.
        > take pen 2 from desk 1

    The first observation is left out: the sibling had the same task and the same start.

    Args:
        turns: (observation, action) of every turn, in order.

    Returns:
        Two lines a turn but for the first; the caller caps the number of tokens.
    """
    lines = []
    for k, (observation, action) in enumerate(turns):
        if k > 0:
            lines.append(observation.strip())
        lines.append(render_action(action))
    return "\n".join(lines)


def render_action(action: str) -> str:
    """The line of an action in `render_episode`."""
    return f"> {action.strip()}"
