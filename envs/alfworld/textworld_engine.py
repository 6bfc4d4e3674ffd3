"""The real ALFWorld engine (TextWorld on Fast Downward) behind the interface of the fast one.

Slow (about 1 s to load and reset a published game, 50 ms a command) and **not thread-safe**: step
all copies from one thread, or use processes. It is here as the reference that the fast engine is
compared with, and for games whose rules the fast engine does not know.
"""

import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envs.alfworld.engine import EngineReply
from envs.alfworld.game import read_game_file


class TextWorldEngine:
    """Plays one game file in a private copy (33 MB) of the planner library, until closed."""

    def __init__(self, path: str | Path):
        """Loads a `game.tw-pddl`, whose rules and texts may be any that TextWorld can read."""
        data = read_game_file(path)
        with _process_kept_as_it_is():
            planner, self._environment = _new_environment()
            self._environment.load(data)
        self._unload = weakref.finalize(self, *planner)

    def reset(self) -> EngineReply:
        """Starts the game afresh."""
        with _process_kept_as_it_is():
            return _reply(self._environment.reset())

    def step(self, command: str) -> EngineReply:
        """Executes one command, blanks around it ignored."""
        state, _, _ = self._environment.step(command)
        return _reply(state)

    def close(self) -> None:
        """Unloads the planner library; the engine cannot be used afterwards."""
        self._unload()


def _new_environment() -> tuple[tuple[Any, ...], Any]:
    """Returns what unloads the planner library, a function and its argument; the environment."""
    try:
        import fast_downward
        import mementos.core
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld import EnvInfos
        from textworld.envs.pddl import PddlEnv
    except ImportError as error:
        raise ImportError(
            f'engine="textworld": {error}. The real engine is an extra: '
            "pip install 'stepopsd-rllib[textworld]' (needs a C++ compiler and cmake), "
            'or use engine="fast".'
        ) from None
    # TextWorld keeps every proposition of every game that the process ever loaded, 1.1 MB a game.
    # They are compared by value, so that a running engine does not notice.
    mementos.core._memento_cache.clear()
    environment = PddlEnv(EnvInfos(admissible_commands=True, won=True))
    planner = (fast_downward.close_lib, environment.downward_lib)
    return planner, AlfredDemangler(environment)


@contextmanager
def _process_kept_as_it_is() -> Iterator[None]:
    """Restores sys.argv, which Fast Downward replaces, and ALFWORLD_DATA, which alfworld sets."""
    arguments, data_folder = sys.argv, os.environ.get("ALFWORLD_DATA")
    try:
        yield
    finally:
        sys.argv = arguments
        if data_folder is None:
            os.environ.pop("ALFWORLD_DATA", None)


def _reply(state: Any) -> EngineReply:
    return EngineReply(state["feedback"], tuple(state["admissible_commands"]), bool(state["won"]))
