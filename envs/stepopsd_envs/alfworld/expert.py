"""Two experts for demonstrations: one that knows the solution, one that must explore.

`ExploringExpert` sees what an agent sees, the observation text and the admissible commands, and
does not know what a closed receptacle holds. It looks into one receptacle after the other until
it has met what the task names, and remembers what it saw on the way.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stepopsd_envs.alfworld.protocol import task_sentence
from stepopsd_envs.alfworld.wheel_facts import wheel_facts

_CLOSED_TYPES = frozenset({"cabinet", "drawer", "fridge", "microwave", "safe"})
_COMMON = 4
"""From so many on, receptacles of one type are searched after the rarer types: each of them is less
likely to hold the object."""
_APPLIANCES = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}

_THING = re.compile(r"\b(?:a|the) ([a-z]+ \d+)")
_SEEN_INSIDE = re.compile(r"(?:On the ([a-z]+ \d+)|is open\. In it), you see (.*)\.$", re.MULTILINE)
_MOVED_TO = re.compile(r"^You arrive at ([a-z]+ \d+)\.")
_PICKED_UP = re.compile(r"^You pick up the ([a-z]+ \d+) from the ")
_PUT_DOWN = re.compile(r"^You move the ([a-z]+ \d+) to the ([a-z]+ \d+)\.")
_TREATED = re.compile(r"^You (heat|cool|clean) the ([a-z]+ \d+) using the ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What a task sentence asks for, in the game's lower-case type names.

    Attributes:
        object: Type of the object.
        receptacle: Type of the receptacle that it goes to, "" under a lamp.
        lamp: Type of the lamp to look at it with, or "".
        treatment: "clean", "heat", "cool" or "".
        count: How many objects.
    """

    object: str
    receptacle: str = ""
    lamp: str = ""
    treatment: str = ""
    count: int = 1


def read_goal(sentence: str) -> Goal:
    """Understands a task sentence, by the templates from which alfworld writes them."""
    for task_type, goal in wheel_facts().goals.items():
        for template in goal.sentences:
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[a-z]+)", re.escape(template))
            match = re.fullmatch(pattern, sentence.rstrip("."))
            if match and task_type in _TREATMENTS:
                found = match.groupdict()
                return Goal(
                    object=found["obj"],
                    receptacle=found.get("recep", ""),
                    lamp=found.get("toggle", ""),
                    treatment=_TREATMENTS[task_type],
                    count=2 if task_type == "pick_two_obj_and_place" else 1,
                )
    raise ValueError(
        f"The task {sentence!r} is in none of the forms that alfworld writes, so the expert cannot "
        "follow it. It knows the six task types without slices and human annotations."
    )


_TREATMENTS = {
    "pick_and_place_simple": "",
    "look_at_obj_in_light": "",
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
    "pick_two_obj_and_place": "",
}


class ScriptedExpert:
    """Gives the commands of a walkthrough in order, then "look"."""

    def __init__(self, walkthrough: Sequence[str]):
        """Takes the commands of `Game.walkthrough`."""
        self._commands = iter(walkthrough)

    def act(self, observation: str, admissible_commands: Sequence[str]) -> str:
        """Returns the next command; what is observed does not matter."""
        return next(self._commands, "look")


class ExploringExpert:
    """Plays one episode as an agent must: search, remember, then do what the task asks.

    It looks at open surfaces before it opens things, into rare types of receptacles before those
    of which the room has many, and last where the task wants the object to go; the order among
    types is drawn once an episode.
    """

    def __init__(self, *, seed: int, noise: float = 0.0):
        """Makes an expert for one episode.

        Args:
            seed: Seed of the search order and of the noise.
            noise: Probability, each turn, of a random admissible command in place of the
                expert's own, in [0, 1]. The expert goes on from wherever that leads.
        """
        if not 0 <= noise <= 1:
            raise ValueError(f"noise={noise!r} is no probability. Give a number from 0 to 1.")
        self._rng = random.Random(seed)
        self._noise = noise
        self._goal: Goal | None = None
        self._unsearched: list[str] = []
        self._receptacles: list[str] = []
        self._place_of: dict[str, str] = {}
        self._treated: set[str] = set()
        self._here = ""
        self._held = ""
        self._destination = ""

    def learn(self, places: Mapping[str, str]) -> None:
        """Takes over where objects are (object -> receptacle), but for those it has seen itself."""
        for thing, place in places.items():
            if thing != self._held:
                self._place_of.setdefault(thing, place)

    def act(self, observation: str, admissible_commands: Sequence[str]) -> str:
        """Returns the command for this turn.

        Args:
            observation: The environment's text; the first one states room and task.
            admissible_commands: What the game would understand now.
        """
        if self._goal is None:
            self._begin(observation)
        else:
            self._note(observation)
        if self._rng.random() < self._noise:
            return self._rng.choice([name for name in admissible_commands if name != "help"])
        command = self._plan(set(admissible_commands))
        return command if command in admissible_commands else self._detour(admissible_commands)

    def _begin(self, observation: str) -> None:
        room, _, _ = observation.partition("Your task is to: ")
        self._goal = read_goal(task_sentence(observation))
        self._receptacles = _THING.findall(room)
        number = Counter(map(_type, self._receptacles))
        draw = {kind: self._rng.random() for kind in sorted(number)}

        def order(name: str) -> tuple[bool, bool, bool, float, int]:
            kind = _type(name)
            is_goal = kind == self._goal.receptacle if self._goal else False
            is_common = number[kind] >= _COMMON
            return is_goal, kind in _CLOSED_TYPES, is_common, draw[kind], int(name.split()[1])

        self._unsearched = sorted(self._receptacles, key=order)

    def _note(self, observation: str) -> None:
        """Remembers what the last command did and what is to be seen."""
        if match := _MOVED_TO.match(observation):
            self._here = match[1]
        elif match := _PICKED_UP.match(observation):
            self._held = match[1]
            self._place_of.pop(self._held, None)
        elif match := _PUT_DOWN.match(observation):
            self._held = ""
            self._place_of[match[1]] = match[2]
        elif match := _TREATED.match(observation):
            self._note_treatment(*match.groups())
        for match in _SEEN_INSIDE.finditer(observation):
            place = match[1] or self._here
            if place in self._unsearched:
                self._unsearched.remove(place)
            for thing in [thing for thing, at in self._place_of.items() if at == place]:
                del self._place_of[thing]
            for thing in _THING.findall(match[2]):
                self._place_of[thing] = place

    def _note_treatment(self, verb: str, thing: str) -> None:
        wanted = self._goal.treatment if self._goal else ""
        if verb == wanted:
            self._treated.add(thing)
        elif {verb, wanted} == {"heat", "cool"}:
            self._treated.discard(thing)

    def _plan(self, admissible: set[str]) -> str:
        goal = self._goal
        assert goal is not None
        if self._held and _type(self._held) != goal.object:
            return self._put_away(admissible)
        if not self._held:
            return self._fetch(admissible)
        if goal.lamp:
            return self._use_lamp(goal.lamp, admissible)
        if goal.treatment and self._held not in self._treated:
            appliance = self._nearest_of_type(_APPLIANCES[goal.treatment])
            treat = f"{goal.treatment} {self._held} with {appliance}"
            return treat if treat in admissible else f"go to {appliance}"
        self._destination = self._destination or self._nearest_of_type(goal.receptacle)
        return self._at(self._destination, f"move {self._held} to {self._destination}", admissible)

    def _fetch(self, admissible: set[str]) -> str:
        goal = self._goal
        assert goal is not None
        wanted = [
            (place != self._here, self._receptacles.index(place), thing, place)
            for thing, place in self._place_of.items()
            if _type(thing) == goal.object and not self._is_done(thing, place)
        ]
        if not wanted:
            return self._search(admissible)
        *_, thing, place = min(wanted)
        return self._at(place, f"take {thing} from {place}", admissible)

    def _is_done(self, thing: str, place: str) -> bool:
        """Whether an object needs no more: it is where it belongs, in the state it needs."""
        goal = self._goal
        assert goal is not None
        if goal.treatment and thing not in self._treated:
            return False
        if goal.count == 1:
            return _type(place) == goal.receptacle
        if _type(place) == goal.receptacle and not self._destination:
            self._destination = place
        return place == self._destination

    def _use_lamp(self, lamp: str, admissible: set[str]) -> str:
        for thing, place in self._place_of.items():
            if _type(thing) == lamp:
                return self._at(place, f"use {thing}", admissible)
        return self._search(admissible)

    def _search(self, admissible: set[str]) -> str:
        for verb in ("open", "examine"):  # admissible for every receptacle at this spot
            for place in self._unsearched:
                if f"{verb} {place}" in admissible:
                    return f"{verb} {place}"
        if not self._unsearched:
            self._unsearched = list(self._receptacles)
        reachable = (place for place in self._unsearched if f"go to {place}" in admissible)
        return f"go to {next(reachable, self._unsearched[0])}"

    def _at(self, place: str, command: str, admissible: set[str]) -> str:
        """Returns `command` once it is possible: walk to the place and open it first."""
        if command in admissible:
            return command
        return f"open {place}" if f"open {place}" in admissible else f"go to {place}"

    def _put_away(self, admissible: set[str]) -> str:
        """Returns a command that brings free hands nearer."""
        for command in sorted(admissible):
            if command.startswith(f"move {self._held} to "):
                return command
        if f"open {self._here}" in admissible:
            return f"open {self._here}"
        return f"go to {self._rng.choice(self._receptacles)}"

    def _nearest_of_type(self, kind: str) -> str:
        """Returns the receptacle of a type where the expert stands, or else the first."""
        names = [name for name in self._receptacles if _type(name) == kind]
        if not names:
            raise ValueError(f"The task needs a {kind}, and the room shows none.")
        return self._here if self._here in names else min(names, key=lambda n: int(n.split()[1]))

    def _detour(self, admissible_commands: Sequence[str]) -> str:
        """Returns a walk elsewhere: receptacles that share a spot cannot be reached from it."""
        walks = [command for command in admissible_commands if command.startswith("go to ")]
        return self._rng.choice(walks) if walks else "look"


def first_places(observations: Iterable[str]) -> dict[str, str]:
    """Object -> receptacle in which an episode's observations first show it."""
    places: dict[str, str] = {}
    here = ""
    for observation in observations:
        if match := _MOVED_TO.match(observation):
            here = match[1]
        for match in _SEEN_INSIDE.finditer(observation):
            for thing in _THING.findall(match[2]):
                places.setdefault(thing, match[1] or here)
    return places


def _type(name: str) -> str:
    return name.split()[0]


def response_text(command: str, *, thought: str | None = None) -> str:
    """Writes a command as a response in the format of the protocol."""
    action = f"<action>{command}</action>"
    return action if thought is None else f"<think>{thought}</think>{action}"
