"""Plays one game on two engines side by side, up to the first reply in which they differ."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stepopsd_envs.alfworld.engine import Engine, EngineReply
from stepopsd_envs.alfworld.game import Game

_TURNS_AN_EPISODE = 40
_VERBS = (
    *("clean ", "close ", "cool ", "examine ", "go ", "heat ", "inventory"),
    *("look", "move ", "open ", "slice ", "take ", "use "),
)
_WRONG_COMMAND_RATE = 0.08
"""Share of the turns in which a command is sent that is not admissible, or only nearly so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What was compared, and where it ended."""

    steps: int
    """Commands that both engines answered."""
    verbs: Counter[str]
    """How often each verb was executed; "" counts the commands that were not admissible."""
    wins: int
    """Episodes that were won."""
    difference: str | None
    """The first difference, after which the game is given up; None if there was none."""


def compare_engines(
    game: Game, first: Engine, second: Engine, *, steps: int, seed: int
) -> Comparison:
    """Plays seeded episodes until `steps` commands were answered alike, or one was not.

    Episodes take turns: the walkthrough with detours; errands that heat, cool, clean, slice, light
    and examine things; random commands. The first engine's admissible commands are chosen from.
    """
    rng = random.Random(seed)
    plans = rng.sample(_PLANS, k=len(_PLANS))
    verbs: Counter[str] = Counter()
    played = wins = episode = 0
    difference: str | None = None
    while played < steps and difference is None:
        reply = first.reset()
        history = ["(reset)"]
        difference = _difference(reply, second.reset(), history)
        plan = plans[episode % len(plans)](game, rng)
        for _ in range(min(_TURNS_AN_EPISODE, steps - played)):
            if difference:
                break
            command = _next_command(reply.admissible_commands, plan, rng)
            verbs[command.split()[0] if command in reply.admissible_commands else ""] += 1
            reply = first.step(command)
            history.append(command)
            difference = _difference(reply, second.step(command), history)
            played += 1
        wins += reply.won
        episode += 1
    return Comparison(
        steps=played,
        verbs=verbs,
        wins=wins,
        difference=difference and f"{game.source}: {difference}",
    )


def _difference(first: EngineReply, second: EngineReply, history: Sequence[str]) -> str | None:
    for field, one, other in zip(EngineReply._fields, first, second, strict=True):
        if one != other:
            return f"{field} after {', '.join(history)}: {one!r} against {other!r}"
    return None


def _next_command(admissible: Sequence[str], plan: Iterator[str], rng: random.Random) -> str:
    """The next step of the plan that is possible (a step is the beginning of a command)."""
    if rng.random() < _WRONG_COMMAND_RATE:
        return _nearly(rng.choice(admissible), rng)
    for beginning in plan:
        possible = [command for command in admissible if command.startswith(beginning)]
        if possible:
            return rng.choice(possible)
    return rng.choice(admissible)


def _nearly(command: str, rng: random.Random) -> str:
    return rng.choice(
        [
            f"  {command}\t",
            command.upper(),
            command.replace(" ", "  ", 1),
            command[:-1],
            f"{command}.",
            "go to fridge 1",
            "take apple 1 from countertop 1",
            "examine countertop 1",
            "put apple 1 in/on countertop 1",
            "",
        ]
    )


def _walkthrough_with_detours(game: Game, rng: random.Random) -> Iterator[str]:
    for command in game.walkthrough or ():
        while rng.random() < 0.2:
            yield ""
        yield command


def _errands(game: Game, rng: random.Random) -> Iterator[str]:
    """Fetches things, does to them whatever can be done, and puts them down."""
    while True:
        if game.knives and game.sliceable and rng.random() < 0.3:
            yield from _fetch(game, rng.choice(sorted(game.knives)))
            victim = rng.choice(sorted(game.sliceable))
            yield from (*_visit(game, victim), "slice ", "inventory", "examine ", "go to ", "move ")
        else:
            victim = rng.randrange(len(game.object_names))
        yield from _fetch(game, victim)
        appliances = [*game.microwaves, *game.fridges, *game.sinks]
        for appliance in rng.sample(appliances, k=rng.randint(0, len(appliances))):
            yield from (f"go to {game.receptacle_names[appliance]}", "heat ", "cool ", "clean ")
            yield f"examine {game.object_names[victim]}"
        for lamp in sorted(game.toggleable):
            yield from (*_visit(game, lamp), "use ")
        yield from ("go to ", "open ", "move ", "look", "close ")


def _visit(game: Game, item: int) -> Iterator[str]:
    for receptacle, contents in enumerate(game.start_contents):
        if item in contents:
            yield f"go to {game.receptacle_names[receptacle]}"


def _fetch(game: Game, item: int) -> Iterator[str]:
    yield from (*_visit(game, item), "open ", f"take {game.object_names[item]} from ")
    yield f"examine {game.object_names[item]}"


def _anything(game: Game, rng: random.Random) -> Iterator[str]:
    """Half of the time every verb is equally likely, else every command."""
    while True:
        yield rng.choice(_VERBS) if rng.random() < 0.5 else ""


_PLANS = (_walkthrough_with_detours, _errands, _anything)
