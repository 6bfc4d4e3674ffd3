"""Tells a user's mistake from a fault of the program, by the end of a traceback.

A trial runs in a Ray actor, so its error arrives as text. What counts as a mistake of the user is a
ValueError (or a missing file or module) that code of this repository raises itself: each such
`raise` carries a message for the user. The same types out of other code are faults.
"""

from __future__ import annotations

import pydoc
import re
import traceback
from pathlib import Path

import stepopsd_envs

REFUSALS = {"ValueError", "FileNotFoundError", "ModuleNotFoundError", "RetrievalError"}
OUR_FOLDERS = {
    "stepopsd_rllib": Path(__file__).resolve().parents[1],
    "stepopsd_envs": Path(str(stepopsd_envs.__file__)).resolve().parent,
}
OUR_MODULES = tuple(f"{name}." for name in OUR_FOLDERS)
# RLlib's configs raise their refusals through this method.
RLLIB_REFUSAL = "_value_error"
RLLIB_CONFIG = "/ray/rllib/algorithms/algorithm_config.py"
# Gymnasium's refusals of an unknown id name the nearest known one.
GYMNASIUM_REFUSALS = {"NameNotFound", "NamespaceNotFound", "VersionNotFound"}
# RLlib ends each refusal with advice to switch validation off.
VALIDATION_ADVICE = "To suppress all validation errors"

_FRAME = re.compile(
    r'^[ ]*File "(?P<file>[^"\n]+)", line \d+, in (?P<function>[^\n]+)\n(?P<source>[^\n]*)', re.M
)
_RAISED = re.compile(r"^(?P<type>[A-Za-z_][\w.]*): (?P<message>.+)", re.M | re.S)
# No space left, read-only, over quota: nothing that a traceback would explain.
_STORAGE_ENDS = re.compile(r"\[Errno (28|30|122)\]")
UNWRITTEN = "a file cannot be written: "
"""How the message begins of a storage that is full or locked."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def users_mistake(error: BaseException | str) -> str | None:
    """The message, on one line, of an error that is a refusal of bad input; else None.

    Args:
        error: Raised in this process, or a Ray error, whose text ends in the remote traceback; or
            the text that Tune keeps of one, which has no traceback where a process died.
    """
    remote = _COLOURS.sub("", str(error))
    if isinstance(error, BaseException) and _FRAME.search(remote) is None:
        remote = "".join(traceback.format_exception(error))
    return refusal(remote)


def refusal(text: str) -> str | None:
    """`users_mistake` of the text of a traceback."""
    frames = list(_FRAME.finditer(text))
    raised = _RAISED.search(text, frames[-1].end()) if frames else None
    if raised is None:
        return None
    name, last = raised["type"].rpartition(".")[2], frames[-1]
    is_raised_here = "raise" in last["source"] and is_ours(last["file"])
    is_of_config = last["function"] == RLLIB_REFUSAL and last["file"].endswith(RLLIB_CONFIG)
    is_refusal = name in REFUSALS or _is_own_refusal(raised["type"])
    if is_refusal and (is_raised_here or is_of_config):
        return one_line(raised["message"])
    if name == "OSError" and _STORAGE_ENDS.match(raised["message"]):
        return UNWRITTEN + one_line(raised["message"])
    return one_line(raised["message"]) if name in GYMNASIUM_REFUSALS else None


def is_ours(file: str) -> bool:
    """Whether a frame's file belongs to this package, here or where another node has it.

    A folder of the package's name is not enough: an environment inside a clone of the same name
    holds every library.
    """
    parts = Path(file).parts
    for name, folder in OUR_FOLDERS.items():
        if Path(file).is_relative_to(folder):
            return True
        if name in parts:
            last = len(parts) - 1 - parts[::-1].index(name)
            if folder.joinpath(*parts[last + 1 :]).is_file():
                return True
    return False


def _is_own_refusal(qualified_name: str) -> bool:
    """Whether an error class of ours, named with its module, is a kind of ValueError."""
    if not qualified_name.startswith(OUR_MODULES):
        return False
    kind = pydoc.locate(qualified_name)
    return isinstance(kind, type) and issubclass(kind, ValueError)


def one_line(message: str) -> str:
    """A message without line breaks and without RLlib's advice."""
    return " ".join(message.split(VALIDATION_ADVICE)[0].split())


def last_lines(error: BaseException | str, count: int) -> str:
    """The end of an error's text, without terminal colours."""
    return "\n".join(_COLOURS.sub("", str(error)).rstrip().splitlines()[-count:])
