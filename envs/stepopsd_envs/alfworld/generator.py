"""Generated games: a task id is all it takes to make one, anywhere, always the same.

An id reads `generated-v1/<size>/<split>/<task type>/<index>`; its text is the seed. The games
have the form of the official ones and every one was won on the fast engine when it was made.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from stepopsd_envs.alfworld.engine import FastEngine
from stepopsd_envs.alfworld.game import Game, TaskType, parse_game
from stepopsd_envs.alfworld.game_text import (
    display_names,
    game_data,
    goal_sentence,
    trajectory_data,
)
from stepopsd_envs.alfworld.household import (
    APPLIANCES,
    LAMP,
    Household,
    NoSuchHousehold,
    PlacedObject,
    Receptacle,
    draw_household,
)
from stepopsd_envs.alfworld.sizes import SIZES
from stepopsd_envs.alfworld.wheel_facts import wheel_facts
from stepopsd_envs.text_env import SPLITS, require_choice

TASK_TYPES: tuple[TaskType, ...] = get_args(TaskType)

GAMES_PER_TASK_TYPE = {"train": 1000, "valid_seen": 24, "valid_unseen": 24}
"""Games of one task type that make up a split; any index of up to six digits is a game, though."""

GENERATED_PREFIX = "generated-v1"
"""Changes when an id no longer gives the game that it gave before."""

_MAX_DRAWS = 200
_FIRST_TRIAL = datetime(2020, 1, 1)


class TaskIdError(ValueError):
    """A task id that names no task; the message says which part of it is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedGame:
    """One generated game.

    Attributes:
        task_id: The id that makes it.
        game: Parsed, ready to be played.
        data: Content of its `game.tw-pddl`.
        trajectory: Content of its `traj_data.json`.
        folder: Where the official layout puts it, relative to the data root.
    """

    task_id: str
    game: Game
    data: dict[str, Any]
    trajectory: dict[str, Any]
    folder: str


def generated_tasks(size: str, split: str) -> tuple[str, ...]:
    """Returns the ids of a split, sorted."""
    require_choice("size", size, SIZES)
    require_choice("split", split, SPLITS)
    return tuple(
        f"{GENERATED_PREFIX}/{size}/{split}/{task_type}/{index:06d}"
        for task_type in sorted(TASK_TYPES)
        for index in range(GAMES_PER_TASK_TYPE[split])
    )


def generate_game(task_id: str) -> GeneratedGame:
    """Makes the game of an id.

    train and valid_seen games play in the same rooms, valid_unseen games in rooms of their own.

    Raises:
        TaskIdError: The id names no game.
    """
    size, split, task_type, index = _split_task_id(task_id)
    rng = random.Random(task_id)
    for _ in range(_MAX_DRAWS):
        try:
            household = draw_household(rng, task_type, size, unseen=split == "valid_unseen")
        except NoSuchHousehold:
            continue
        trial = _trial_name(task_id, index)
        sentence = goal_sentence(household, rng)
        data = game_data(household, sentence, trial=trial)
        data["walkthrough"] = _walkthrough(household)
        game = parse_game(data, source=task_id)
        _require_win(game, data["walkthrough"])
        return GeneratedGame(
            task_id=task_id,
            game=game,
            data=data,
            trajectory=trajectory_data(household, sentence, trial=trial),
            folder=f"json_2.1.1/{split}/{_task_folder(household)}/{trial}",
        )
    raise RuntimeError(f"{task_id}: no household in {_MAX_DRAWS} draws can hold the task.")


def write_games(folder: str | Path, task_ids: Sequence[str]) -> list[Path]:
    """Writes games under a data root that unmodified alfworld reads ($ALFWORLD_DATA).

    Args:
        folder: The data root; made if it is missing.
        task_ids: Ids of generated games.

    Returns:
        The `game.tw-pddl` of each, in order.
    """
    root = Path(folder)
    facts = wheel_facts()
    _write(root / "logic" / "alfred.pddl", facts.domain)
    _write(root / "logic" / "alfred.twl2", facts.grammar)
    paths = []
    for task_id in task_ids:
        generated = generate_game(task_id)
        path = root / generated.folder / "game.tw-pddl"
        _write(path, json.dumps(generated.data))
        _write(path.with_name("traj_data.json"), json.dumps(generated.trajectory, indent=1))
        _write(path.with_name("initial_state.pddl"), generated.data["pddl_problem"])
        paths.append(path)
    return paths


def _split_task_id(task_id: str) -> tuple[str, str, TaskType, int]:
    fields = task_id.split("/") if isinstance(task_id, str) else []
    if len(fields) != 5 or fields[0] != GENERATED_PREFIX:
        raise TaskIdError(
            f"task={task_id!r} is no generated task. One reads "
            f"'{GENERATED_PREFIX}/tiny/train/{TASK_TYPES[0]}/000000'."
        )
    _, size, split, task_type, index = fields
    for key, value, known in (
        ("size", size, SIZES),
        ("split", split, SPLITS),
        ("task type", task_type, TASK_TYPES),
    ):
        try:
            require_choice(key, value, known)
        except ValueError as error:
            raise TaskIdError(f"task={task_id!r}: {error}") from None
    if len(index) != 6 or not (index.isascii() and index.isdigit()):
        raise TaskIdError(f"task={task_id!r}: the index {index!r} must be six digits.")
    return size, split, next(name for name in TASK_TYPES if name == task_type), int(index)


def _walkthrough(household: Household) -> list[str]:
    """Returns commands that win, planned with full knowledge of the household."""
    names = display_names(household)
    commands: list[str] = []
    here: Receptacle | None = None
    opened: set[str] = set()

    def go_to(receptacle: Receptacle, *, to_open: bool = True) -> None:
        nonlocal here
        if here != receptacle:
            commands.append(f"go to {names[receptacle.id]}")
            here = receptacle
        if to_open and receptacle.type in wheel_facts().openable and receptacle.id not in opened:
            commands.append(f"open {names[receptacle.id]}")
            opened.add(receptacle.id)

    def take(placed: PlacedObject) -> None:
        go_to(placed.receptacle)
        commands.append(f"take {names[placed.id]} from {names[placed.receptacle.id]}")

    targets = _easiest_targets(household)
    if household.task_type == "look_at_obj_in_light":
        take(targets[0])
        lamp = next(placed for placed in household.objects if placed.type == LAMP)
        go_to(lamp.receptacle)
        return [*commands, f"use {names[lamp.id]}"]
    goal = _first_of_type(household, household.goal_receptacle)
    for target in targets:
        take(target)
        if household.task_type in APPLIANCES:
            appliance = _first_of_type(household, APPLIANCES[household.task_type][1])
            go_to(appliance, to_open=False)
            verb = household.task_type.split("_")[1]
            commands.append(f"{verb} {names[target.id]} with {names[appliance.id]}")
        go_to(goal)
        commands.append(f"move {names[target.id]} to {names[goal.id]}")
    return commands


def _easiest_targets(household: Household) -> list[PlacedObject]:
    """Returns the goal's objects that lie open first, as many as the task needs."""
    openable = wheel_facts().openable
    targets = [placed for placed in household.objects if placed.type == household.goal_object]
    targets.sort(key=lambda placed: placed.receptacle.type in openable)
    return targets[: 2 if household.task_type == "pick_two_obj_and_place" else 1]


def _first_of_type(household: Household, kind: str) -> Receptacle:
    return next(receptacle for receptacle in household.receptacles if receptacle.type == kind)


def _require_win(game: Game, walkthrough: Sequence[str]) -> None:
    """Plays the walkthrough; one that does not win is a fault of the generator, not of the draw."""
    engine = FastEngine(game)
    reply = engine.reset()
    for command in walkthrough:
        reply = engine.step(command)
    if not reply.won:
        raise RuntimeError(f"{game.source}: its walkthrough {list(walkthrough)} does not win.")


def _task_folder(household: Household) -> str:
    receptacle = household.goal_receptacle or LAMP
    goal = f"{household.goal_object}-None-{receptacle}"
    return f"{household.task_type}-{goal}-{household.scene}"


def _trial_name(task_id: str, index: int) -> str:
    """Returns a trial name in ALFRED's form; the clock in it only tells the games apart."""
    size, split = task_id.split("/")[1:3]
    hours = 24 * (SIZES.index(size) * len(SPLITS) + SPLITS.index(split))
    moment = _FIRST_TRIAL + timedelta(hours=hours, microseconds=index)
    return f"trial_T{moment:%Y%m%d_%H%M%S_%f}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
