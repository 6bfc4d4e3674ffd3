"""The fast ALFWorld engine: published rules and texts as a small state machine.

It answers every command with the text, the admissible commands and the verdict of the TextWorld
engine, its oddities included:

- From a receptacle there is no "go to" another one at the same location.
- An object can be in several receptacles at once, and stays in the others while it is held.
- An object can be examined only while it is held, and sliced inside a closed receptacle.
- Nothing need be open to heat, cool or clean in it, or to use a lamp in it. No lamp goes off.
- What was taken from one receptacle and moved to another at the same location is said to be "next
  to" them, since it is there but not in the one that it was taken from.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from stepopsd_envs.alfworld.game import Game, enumerated

NOTHING_HAPPENS = "Nothing happens."
"""Answer to a command that is not admissible."""
HELP_TEXT = """\
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
    """Plays a Game, which many engines may share; each has a small state of its own.

    Not for two threads at once, but engines do not disturb one another. Needs no clean-up.
    """

    def __init__(self, game: Game):
        self.game = game
        self._objects = game.object_names
        self._receptacles = game.receptacle_names
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
        # What was ever taken from where, and not moved back: TextWorld knows a fact "not in it" of
        # these, whereas it knows nothing of an object that never was in a receptacle.
        self._taken: set[tuple[int, int]] = set()
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
            del actions[f"go to {self._receptacles[receptacle]}"]
            self._add_actions_at(receptacle, actions)
        if self._held is not None:
            self._add_actions_with(self._held, here, actions)
        return actions

    def _add_actions_at(self, receptacle: int, actions: dict[str, "_Action"]) -> None:
        game, objects, name = self.game, self._objects, self._receptacles[receptacle]
        contents, held = self._contents[receptacle], self._held
        actions[f"examine {name}"] = (FastEngine._examine_receptacle, receptacle)
        is_openable = receptacle in game.openable
        is_accessible = not is_openable or receptacle in self._opened
        if is_openable:
            if is_accessible:
                actions[f"close {name}"] = (FastEngine._close, receptacle)
            else:
                actions[f"open {name}"] = (FastEngine._open, receptacle)
        if is_accessible:
            if held is None:
                for item in contents:
                    if item in game.pickupable:
                        take = (FastEngine._take, item, receptacle)
                        actions[f"take {objects[item]} from {name}"] = take
            elif held in game.accepted_objects[receptacle]:
                move = (FastEngine._move, held, receptacle)
                actions[f"move {objects[held]} to {name}"] = move
        for item in game.toggleable.intersection(contents):
            actions[f"use {objects[item]}"] = (FastEngine._use, item)

    def _add_actions_with(
        self, held: int, here: tuple[int, ...], actions: dict[str, "_Action"]
    ) -> None:
        game, name = self.game, self._objects[held]
        actions[f"examine {name}"] = (FastEngine._examine_object, held)
        for verb, ability, appliances, perform in (
            ("clean", game.cleanable, game.sinks, FastEngine._make_clean),
            ("heat", game.heatable, game.microwaves, FastEngine._make_hot),
            ("cool", game.coolable, game.fridges, FastEngine._make_cool),
        ):
            if held in ability:
                for appliance in appliances.intersection(here):
                    command = f"{verb} {name} with {self._receptacles[appliance]}"
                    actions[command] = (perform, held, appliance)
        if held in game.knives:
            for item in game.sliceable:
                if self._location in self._object_locations[item]:
                    slice_ = (FastEngine._slice, item, held)
                    actions[f"slice {self._objects[item]} with {name}"] = slice_

    def _is_won(self) -> bool:
        goal, contents = self.game.goal, self._contents
        match self.game.task_type:
            case "look_at_obj_in_light":
                lit = goal.lamps & self._toggled
                return self._held in goal.objects and any(
                    not lit.isdisjoint(contents[receptacle])
                    for receptacle in self.game.receptacles_at[self._location]
                )
            case "pick_two_obj_and_place":
                return any(
                    len(goal.objects.intersection(contents[receptacle])) >= 2
                    for receptacle in goal.receptacles
                )
            case "pick_and_place_simple":
                wanted = goal.objects
            case "pick_clean_then_place_in_recep":
                wanted = goal.objects & self._clean
            case "pick_heat_then_place_in_recep":
                wanted = goal.objects & self._hot
            case "pick_cool_then_place_in_recep":
                wanted = goal.objects & self._cool
        return any(not wanted.isdisjoint(contents[receptacle]) for receptacle in goal.receptacles)

    # What happens

    def _look(self) -> str:
        here = self.game.receptacles_at[self._location]
        if not here:
            return "You are in the middle of a room. Looking quickly around you, you see nothing."
        facing = enumerated([self._receptacles[receptacle] for receptacle in here])
        beside = [
            f"a {self._objects[item]}"
            for item, receptacle in sorted(self._taken)
            if receptacle in here and self._location in self._object_locations[item]
        ]
        return f"You are facing the {facing}. Next to it, you see {enumerated(beside)}."

    def _inventory(self) -> str:
        if self._held is None:
            return "You are not carrying anything."
        return f"You are carrying: a {self._objects[self._held]}."

    def _help(self) -> str:
        return HELP_TEXT

    def _go_to(self, receptacle: int) -> str:
        self._location = self.game.receptacle_locations[receptacle]
        view = self._examine_receptacle(receptacle)
        return f"You arrive at {self._receptacles[receptacle]}. {view}"

    def _open(self, receptacle: int) -> str:
        self._opened.add(receptacle)
        view = self._examine_receptacle(receptacle)
        return f"You open the {self._receptacles[receptacle]}. {view}"

    def _close(self, receptacle: int) -> str:
        self._opened.remove(receptacle)
        return f"You close the {self._receptacles[receptacle]}."

    def _take(self, item: int, receptacle: int) -> str:
        self._held = item
        self._contents[receptacle] = tuple(i for i in self._contents[receptacle] if i != item)
        self._object_locations[item] -= {self._location}
        self._taken.add((item, receptacle))
        return f"You pick up the {self._objects[item]} from the {self._receptacles[receptacle]}."

    def _move(self, item: int, receptacle: int) -> str:
        self._held = None
        self._contents[receptacle] = tuple(sorted({*self._contents[receptacle], item}))
        self._object_locations[item] |= {self._location}
        self._taken.discard((item, receptacle))
        return f"You move the {self._objects[item]} to the {self._receptacles[receptacle]}."

    def _make_clean(self, item: int, sink: int) -> str:
        self._clean.add(item)
        return f"You clean the {self._objects[item]} using the {self._receptacles[sink]}."

    def _make_hot(self, item: int, microwave: int) -> str:
        self._hot.add(item)
        self._cool.discard(item)
        return f"You heat the {self._objects[item]} using the {self._receptacles[microwave]}."

    def _make_cool(self, item: int, fridge: int) -> str:
        self._cool.add(item)
        self._hot.discard(item)
        return f"You cool the {self._objects[item]} using the {self._receptacles[fridge]}."

    def _use(self, lamp: int) -> str:
        self._toggled.add(lamp)
        return f"You turn on the {self._objects[lamp]}."

    def _slice(self, item: int, knife: int) -> str:
        self._sliced.add(item)
        return f"You sliced the {self._objects[item]} with the {self._objects[knife]}."

    def _examine_receptacle(self, receptacle: int) -> str:
        name, is_openable = self._receptacles[receptacle], receptacle in self.game.openable
        if is_openable and receptacle not in self._opened:
            return f"The {name} is closed."
        contents = enumerated([f"a {self._objects[item]}" for item in self._contents[receptacle]])
        if is_openable:
            return f"The {name} is open. In it, you see {contents}."
        return f"On the {name}, you see {contents}."

    def _examine_object(self, item: int) -> str:
        name, inner = self._objects[item], self.game.inner_objects[item]
        if inner is not None:
            contents = enumerated([f"a {self._objects[other]}" for other in inner])
            return f"This is a normal {name}. In it, you see {contents}."
        states = ["hot"] if item in self._hot else ["cool"] if item in self._cool else []
        if item in self._clean:
            states.append("clean")
        is_sliced = item in self._sliced
        if states and is_sliced:
            return f"This is a {' and '.join(states)} sliced {name}."
        if states:
            state = "cold" if states == ["cool"] else " and ".join(states)
            return f"This is a {state} {name}."
        if item in self.game.toggleable and item in self._toggled:
            return f"This {name} is on."
        if is_sliced and item in self.game.sliceable:
            return f"This is a sliced {name}."
        return f"There's nothing special about {name}."


_Action: TypeAlias = tuple[Callable[..., str], *tuple[int, ...]]
"""What an admissible command does: a method of FastEngine, and its arguments."""
