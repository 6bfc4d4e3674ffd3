"""The fast ALFWorld engine: the published domain and text grammar as a small Python state machine.

It answers every command with the text, the admissible commands and the verdict of the TextWorld engine,
its oddities included:

- From a receptacle there is no "go to" another one at the same location.
- An object can be in several receptacles at once, and stays in the others while it is held.
- An object can be examined only while it is held, and sliced inside a closed receptacle.
- Heating, cooling and cleaning need no open appliance, using a lamp no open container; no lamp goes off.
- An object taken from one of two receptacles at a location and moved to the other is "next to" the first.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from envs.alfworld.game import Game, enumerated

NOTHING_HAPPENS = "Nothing happens."
"""Answer to a command that is not admissible."""
HELP_TEXT = """
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""


class EngineReply(NamedTuple):
    """What the environment says after a reset or a command."""

    text: str
    admissible_commands: tuple[str, ...]
    """Sorted. Every other command is answered with "Nothing happens."."""
    won: bool


class Engine(Protocol):
    """One game that is played. A game that is won can be played on."""

    def reset(self) -> EngineReply:
        """Starts the game afresh."""
        ...

    def step(self, command: str) -> EngineReply:
        """Executes one command, blanks around it ignored."""
        ...


class FastEngine:
    """Plays a Game. Copies share it; each has only a small state of its own, and needs no clean-up."""

    def __init__(self, game: Game):
        self.game = game
        self._anywhere: dict[str, _Action] = {
            "look": (FastEngine._look,),
            "inventory": (FastEngine._inventory,),
            "help": (FastEngine._help,),
        }
        for receptacle, name in enumerate(game.receptacle_names):
            self._anywhere[f"go to {name}"] = (FastEngine._go_to, receptacle)
        self.reset()

    def reset(self) -> EngineReply:
        """Starts the game afresh."""
        game = self.game
        self._location = game.start_location
        self._held: int | None = None
        self._contents = list(game.start_contents)
        self._object_locations = list(game.start_object_locations)
        self._opened = set(game.start_opened)
        self._clean = set(game.start_clean)
        self._hot = set(game.start_hot)
        self._cool = set(game.start_cool)
        self._toggled = set(game.start_toggled)
        self._sliced = set(game.start_sliced)
        self._taken: set[tuple[int, int]] = (
            set()
        )  # (object, receptacle it was taken from and not moved back to)
        return self._reply(game.intro)

    def step(self, command: str) -> EngineReply:
        """Executes one command, blanks around it ignored."""
        action = self._actions.get(command.strip())
        if action is None:
            return EngineReply(NOTHING_HAPPENS, self._admissible_commands, self._won)
        perform, *arguments = action
        return self._reply(perform(self, *arguments))

    def _reply(self, text: str) -> EngineReply:
        self._actions = self._applicable_actions()
        self._admissible_commands = tuple(sorted(self._actions))
        self._won = self._is_won()
        return EngineReply(text, self._admissible_commands, self._won)

    # What is possible

    def _applicable_actions(self) -> dict[str, "_Action"]:
        actions = self._anywhere.copy()
        here = self.game.receptacles_at[self._location]
        for receptacle in here:
            del actions[f"go to {self.game.receptacle_names[receptacle]}"]
            self._add_actions_on(receptacle, actions)
        if self._held is not None:
            self._add_actions_with(self._held, here, actions)
        return actions

    def _add_actions_on(self, receptacle: int, actions: dict[str, "_Action"]) -> None:
        game = self.game
        objects, name = game.object_names, game.receptacle_names[receptacle]
        contents, held = self._contents[receptacle], self._held
        actions[f"examine {name}"] = (FastEngine._examine_receptacle, receptacle)
        is_closed = False
        if receptacle in game.openable:
            is_closed = receptacle not in self._opened
            if is_closed:
                actions[f"open {name}"] = (FastEngine._open, receptacle)
            else:
                actions[f"close {name}"] = (FastEngine._close, receptacle)
        if is_closed:
            pass
        elif held is None:
            for object_ in contents:
                if object_ in game.pickupable:
                    actions[f"take {objects[object_]} from {name}"] = (
                        FastEngine._take,
                        object_,
                        receptacle,
                    )
        elif held in game.accepted_objects[receptacle]:
            actions[f"move {objects[held]} to {name}"] = (FastEngine._move, held, receptacle)
        for object_ in game.toggleable.intersection(contents):
            actions[f"use {objects[object_]}"] = (FastEngine._use, object_)

    def _add_actions_with(
        self, held: int, here: tuple[int, ...], actions: dict[str, "_Action"]
    ) -> None:
        game = self.game
        name = game.object_names[held]
        actions[f"examine {name}"] = (FastEngine._examine_object, held)
        for verb, ability, appliances, perform in (
            ("clean", game.cleanable, game.sinks, FastEngine._make_clean),
            ("heat", game.heatable, game.microwaves, FastEngine._make_hot),
            ("cool", game.coolable, game.fridges, FastEngine._make_cool),
        ):
            if held in ability:
                for receptacle in appliances.intersection(here):
                    actions[f"{verb} {name} with {game.receptacle_names[receptacle]}"] = (
                        perform,
                        held,
                        receptacle,
                    )
        if held in game.knives:
            for object_ in game.sliceable:
                if self._location in self._object_locations[object_]:
                    actions[f"slice {game.object_names[object_]} with {name}"] = (
                        FastEngine._slice,
                        object_,
                        held,
                    )

    def _is_won(self) -> bool:
        game, goal = self.game, self.game.goal
        match game.task_type:
            case "look_at_obj_in_light":
                lit = goal.lamps & self._toggled
                here = game.receptacles_at[self._location]
                return self._held in goal.objects and any(
                    not lit.isdisjoint(self._contents[r]) for r in here
                )
            case "pick_two_obj_and_place":
                return any(
                    len(goal.objects.intersection(self._contents[r])) >= 2 for r in goal.receptacles
                )
            case "pick_clean_then_place_in_recep":
                wanted = goal.objects & self._clean
            case "pick_heat_then_place_in_recep":
                wanted = goal.objects & self._hot
            case "pick_cool_then_place_in_recep":
                wanted = goal.objects & self._cool
            case "pick_and_place_simple":
                wanted = goal.objects
        return bool(wanted) and any(
            not wanted.isdisjoint(self._contents[r]) for r in goal.receptacles
        )

    # What happens

    def _look(self) -> str:
        here = self.game.receptacles_at[self._location]
        if not here:
            return "You are in the middle of a room. Looking quickly around you, you see nothing."
        facing = enumerated([self.game.receptacle_names[receptacle] for receptacle in here])
        floor = [
            f"a {self.game.object_names[object_]}"
            for object_, receptacle in sorted(self._taken)
            if receptacle in here and self._location in self._object_locations[object_]
        ]
        return f"You are facing the {facing}. Next to it, you see {enumerated(floor)}."

    def _inventory(self) -> str:
        if self._held is None:
            return "You are not carrying anything."
        return f"You are carrying: a {self.game.object_names[self._held]}."

    def _help(self) -> str:
        return HELP_TEXT

    def _go_to(self, receptacle: int) -> str:
        self._location = self.game.receptacle_locations[receptacle]
        return f"You arrive at {self.game.receptacle_names[receptacle]}. {self._examine_receptacle(receptacle)}"

    def _open(self, receptacle: int) -> str:
        self._opened.add(receptacle)
        return f"You open the {self.game.receptacle_names[receptacle]}. {self._examine_receptacle(receptacle)}"

    def _close(self, receptacle: int) -> str:
        self._opened.remove(receptacle)
        return f"You close the {self.game.receptacle_names[receptacle]}."

    def _take(self, object_: int, receptacle: int) -> str:
        self._held = object_
        self._contents[receptacle] = tuple(
            other for other in self._contents[receptacle] if other != object_
        )
        self._object_locations[object_] -= {self._location}
        self._taken.add((object_, receptacle))
        game = self.game
        return f"You pick up the {game.object_names[object_]} from the {game.receptacle_names[receptacle]}."

    def _move(self, object_: int, receptacle: int) -> str:
        self._held = None
        self._contents[receptacle] = tuple(sorted({*self._contents[receptacle], object_}))
        self._object_locations[object_] |= {self._location}
        self._taken.discard((object_, receptacle))
        return f"You move the {self.game.object_names[object_]} to the {self.game.receptacle_names[receptacle]}."

    def _make_clean(self, object_: int, receptacle: int) -> str:
        self._clean.add(object_)
        return f"You clean the {self.game.object_names[object_]} using the {self.game.receptacle_names[receptacle]}."

    def _make_hot(self, object_: int, receptacle: int) -> str:
        self._hot.add(object_)
        self._cool.discard(object_)
        return f"You heat the {self.game.object_names[object_]} using the {self.game.receptacle_names[receptacle]}."

    def _make_cool(self, object_: int, receptacle: int) -> str:
        self._cool.add(object_)
        self._hot.discard(object_)
        return f"You cool the {self.game.object_names[object_]} using the {self.game.receptacle_names[receptacle]}."

    def _use(self, object_: int) -> str:
        self._toggled.add(object_)
        return f"You turn on the {self.game.object_names[object_]}."

    def _slice(self, object_: int, knife: int) -> str:
        self._sliced.add(object_)
        return f"You sliced the {self.game.object_names[object_]} with the {self.game.object_names[knife]}."

    def _examine_receptacle(self, receptacle: int) -> str:
        game = self.game
        name = game.receptacle_names[receptacle]
        if receptacle in game.openable and receptacle not in self._opened:
            return f"The {name} is closed."
        contents = enumerated(
            [f"a {game.object_names[object_]}" for object_ in self._contents[receptacle]]
        )
        if receptacle in game.openable:
            return f"The {name} is open. In it, you see {contents}."
        return f"On the {name}, you see {contents}."

    def _examine_object(self, object_: int) -> str:
        game = self.game
        name = game.object_names[object_]
        inner = game.inner_objects[object_]
        if inner is not None:
            contents = enumerated([f"a {game.object_names[other]}" for other in inner])
            return f"This is a normal {name}. In it, you see {contents}."
        temperature = "hot" if object_ in self._hot else "cool" if object_ in self._cool else ""
        state = " and ".join(filter(None, (temperature, "clean" if object_ in self._clean else "")))
        if state and object_ in self._sliced:
            return f"This is a {state} sliced {name}."
        if state:
            return f"This is a {'cold' if state == 'cool' else state} {name}."
        if object_ in game.toggleable and object_ in self._toggled:
            return f"This {name} is on."
        if object_ in game.sliceable and object_ in self._sliced:
            return f"This is a sliced {name}."
        return f"There's nothing special about {name}."


_Action: TypeAlias = tuple[Callable[..., str], *tuple[int, ...]]
"""What an admissible command does: a method of FastEngine and its arguments."""
