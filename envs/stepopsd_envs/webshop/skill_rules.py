"""Skills read off a WebShop episode: what was searched, opened, chosen and bought.

They quote actions that the policy took and options that the task names, and say only what the
record shows, never which product would have been right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from stepopsd_envs.skill_rules import EpisodeSkills, RecordedTurn
from stepopsd_envs.webshop import pages

_ACTION = re.compile(r"(search|click)\[(.+)\]")
_OPTION_ASKED = re.compile(r"(?:with|, and) [^:,]+: (.+?)(?=, and |$)")
_SUB_PAGES = tuple(name.lower() for name in pages.SUB_PAGES)
_BUY, _BACK = pages.BUY.lower(), pages.BACK.lower()
_MOVES = (pages.NEXT.lower(), pages.PREVIOUS.lower(), _BACK)


class ShopEffect(StrEnum):
    """What came of a turn, as an advice about its `{quote}`."""

    FOUND = "Search {quote} now: it finds products that fit."
    OPENED = "Open {quote} now: it is a product that fits."
    CHOSEN = "Choose {quote} now: it is part of the task."
    BOUGHT = "Buy now: everything asked for is chosen."
    TURNED = "Turn the page here: what fits comes further down."
    INVALID = "Write one search or click that the page offers here."
    REPEATED = "Do not do {quote} again: it shows the same page."
    DETOUR = "Do not open {quote} here: it costs two turns and decides nothing."
    LEFT = "Do not open {quote}: it was left again without a purchase."
    UNASKED = "Do not choose {quote}: the task does not ask for it."
    OVER = "Do not search {quote}: nothing was bought of what it finds."
    EARLY = "Do not buy yet: choose {missing} first."
    WRONG = "Do not buy this: compare title, price and options with the task first."

    @property
    def is_waste(self) -> bool:
        """Whether the turn is one to avoid."""
        return self not in _USEFUL


_USEFUL = (
    ShopEffect.FOUND,
    ShopEffect.OPENED,
    ShopEffect.CHOSEN,
    ShopEffect.BOUGHT,
    ShopEffect.TURNED,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShopTurn:
    """One turn as this analysis sees it."""

    action: str
    effect: ShopEffect
    missing: tuple[str, ...] = ()

    def advice(self) -> str:
        """One sentence for a step like this one."""
        missing = " and ".join(f"`{value}`" for value in self.missing)
        return self.effect.value.format(quote=f"`{self.action}`", missing=missing)


def options_asked(task: str) -> tuple[str, ...]:
    """Option values that a synthetic instruction, or an observation with one, names."""
    for piece in task.replace("\n", pages.SEPARATOR).split(pages.SEPARATOR):
        found = _OPTION_ASKED.findall(piece.strip())
        if found:
            return tuple(found)
    return ()


def shop_turns(task: str, turns: Sequence[RecordedTurn], *, won: bool) -> list[ShopTurn]:
    """Judges every turn by the path that led to the purchase, and by what the task names."""
    asked = options_asked(task)
    parsed = [_parsed(turn.action) for turn in turns]
    path = _path_to_purchase(turns, parsed)
    judged: list[ShopTurn] = []
    seen: set[tuple[str, str]] = set()
    chosen: set[str] = set()
    for index, (turn, (kind, name)) in enumerate(zip(turns, parsed, strict=True)):
        missing: tuple[str, ...] = ()
        if not kind or not turn.is_action_valid:
            effect = ShopEffect.INVALID
        elif (turn.observation, turn.action) in seen:
            effect = ShopEffect.REPEATED
        elif name == _BUY:
            missing = tuple(value for value in asked if value not in chosen)
            effect = ShopEffect.BOUGHT
            if not won:
                effect = ShopEffect.EARLY if missing else ShopEffect.WRONG
        else:
            effect = _effect(kind, name, asked, is_on_path=index in path, won=won)
        seen.add((turn.observation, turn.action))
        if kind == "search" or name in _MOVES:
            chosen.clear()
        elif kind == "click":
            chosen.add(name)
        judged.append(ShopTurn(action=name or turn.action, effect=effect, missing=missing))
    return judged


def shopping_skills(
    task: str, turns: Sequence[RecordedTurn], *, won: bool, max_step_skills: int
) -> EpisodeSkills:
    """Writes the skills of a finished episode, the decisive turns first; see `TextEnv`."""
    judged = shop_turns(task, turns, won=won)
    if won:
        path = [index for index, turn in enumerate(judged) if not turn.effect.is_waste]
        steps = ", then ".join(f"`{turns[index].action}`" for index in path)
        return EpisodeSkills(
            episode_summary=f"Bought in {len(turns)} turns, {len(path)} of them needed.",
            episode_skill=f"Do these in order and leave out detours: {steps}.",
            step_skills={index: judged[index].advice() for index in path[::-1][:max_step_skills]},
        )
    wasted = [index for index, turn in enumerate(judged) if turn.effect.is_waste]
    # What was bought decided the episode, so its advice comes first.
    wasted.sort(key=lambda index: judged[index].action != _BUY)
    sentences = list(dict.fromkeys(judged[index].advice() for index in wasted))
    if all(turn.action != _BUY for turn in judged):
        sentences.insert(0, f"Buy before the turns run out: {len(turns)} turns bought nothing.")
    return EpisodeSkills(
        episode_summary=f"Not won in {len(turns)} turns, {len(wasted)} of them wasted.",
        episode_skill=" ".join(sentences),
        step_skills={index: judged[index].advice() for index in wasted[:max_step_skills]},
    )


def _effect(
    kind: str, name: str, asked: Sequence[str], *, is_on_path: bool, won: bool
) -> ShopEffect:
    if kind == "search":
        return ShopEffect.FOUND if is_on_path or not won else ShopEffect.OVER
    if name in _SUB_PAGES:
        return ShopEffect.DETOUR
    if name in asked:
        return ShopEffect.CHOSEN
    if name in _MOVES:
        return ShopEffect.TURNED if is_on_path else ShopEffect.DETOUR
    if _is_asin(name):
        return ShopEffect.OPENED if is_on_path else ShopEffect.LEFT
    return ShopEffect.CHOSEN if won and is_on_path else ShopEffect.UNASKED


def _path_to_purchase(turns: Sequence[RecordedTurn], parsed: Sequence[tuple[str, str]]) -> set[int]:
    """Turns that the purchase rests on: last search, pages turned, product opened, what follows."""
    search = max((i for i, (kind, _) in enumerate(parsed) if kind == "search"), default=0)
    opened = max((i for i, (_, name) in enumerate(parsed) if _is_asin(name)), default=search)
    turned = {
        index
        for index in range(search, opened)
        if parsed[index][1] == pages.NEXT.lower() and turns[index].is_action_valid
    }
    return {search, opened, *turned, *range(opened, len(turns))}


def _parsed(action: str) -> tuple[str, str]:
    match = _ACTION.match(action)
    return (match[1], match[2].strip().lower()) if match else ("", "")


def _is_asin(name: str) -> bool:
    return (
        name.isascii() and name.isalnum() and 6 <= len(name) <= 10 and any(map(str.isdigit, name))
    )
