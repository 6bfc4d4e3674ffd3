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

from stepopsd_envs.alfworld.engine import EngineReply
from stepopsd_envs.alfworld.game import read_game_file

FIRST_BROKEN_PYTHON = (3, 13)
"""First version of Python on which TextWorld cannot write a text."""

_idle_planners: list[Any] = []
"""Planner libraries of closed engines. One takes 33 MB and cannot be unloaded: the process would
crash when it ends. So they are used again."""


class TextWorldEngine:
    """Plays one game file on a planner library that is its own until it is closed or collected."""

    def __init__(self, path: str | Path):
        """Loads a `game.tw-pddl`, whose rules and texts may be any that TextWorld can read."""
        data = read_game_file(path)
        with _process_kept_as_it_is():
            environment, planner = _new_environment()
            self._environment: Any = environment
            self._release = weakref.finalize(self, _idle_planners.append, planner)
            self._release.atexit = False
            self._environment.load(data)

    def reset(self) -> EngineReply:
        """Starts the game afresh."""
        with _process_kept_as_it_is():
            return _reply(self._environment.reset())

    def step(self, command: str) -> EngineReply:
        """Executes one command, blanks around it ignored."""
        state, _, _ = self._environment.step(command)
        return _reply(state)

    def close(self) -> None:
        """Passes the planner library on to the next engine; this one cannot be used any more."""
        self._environment = None
        self._release()


def _new_environment() -> tuple[Any, Any]:
    """Returns the environment and its planner library."""
    if sys.version_info >= FIRST_BROKEN_PYTHON:
        raise ImportError(
            'engine="textworld": TextWorld 1.7.0 writes the texts of a game with local names that '
            "it sets at run time, which Python 3.13 ended (PEP 667). Use Python 3.12 or 3.11, or "
            'engine="fast".'
        )
    try:
        import fast_downward
        import mementos.core
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.envs.pddl import PddlEnv
    except ImportError as error:
        raise ImportError(
            f'engine="textworld": {error}. The real engine is an extra: '
            "pip install 'stepopsd-rllib[textworld]' (needs a C++ compiler and cmake), "
            'or use engine="fast".'
        ) from None

    class PddlEnvOnPlanner(PddlEnv):
        """PddlEnv, which would load a library of its own."""

        def __init__(self, planner: Any):
            infos = textworld.EnvInfos(admissible_commands=True, won=True)
            textworld.Environment.__init__(self, infos)
            self.downward_lib = planner

    # TextWorld keeps every proposition of every game that the process ever loaded, 1.1 MB a game.
    # They are compared by value, so that a running engine does not notice.
    mementos.core._memento_cache.clear()
    planner = _idle_planners.pop() if _idle_planners else fast_downward.load_lib()
    return AlfredDemangler(PddlEnvOnPlanner(planner)), planner


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
