"""Paths of a tuned example: `~` and variables expanded, relative ones made absolute, once.

A run's trials, its later continuation and `stepopsd evaluate` work in other folders, and on other
machines, than the one in which a person typed the command. What lies in the working directory of
a Ray job stays relative: every process of the job works there, a later job has it at another place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG_KEYS = ("model", "language_model", "skills")
ENV_KEYS = ("data", "retriever", "tokenizer")
"""Keys that can hold a path. In `env_config`, whatever begins like a path is taken for one too."""

WORDS = ("tiny", "smollm2", "generated", "official")
"""What these keys can say beside a path, whatever folders there are."""

_JOB_FOLDER = "/runtime_resources/working_dir_files/"
"""Part of every working directory that Ray unpacks for a job, and deletes after it."""

_NOT_PATHS = ("kind", "url", "urls")
_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_UNSET = re.compile(r"\$(\w+|\{[^}]*\})")


def with_absolute_paths(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A config whose paths no longer depend on the working directory, the home or variables.

    Args:
        config: Flat keys of a tuned example; values may be grids.
        source: The file; messages start with it.

    Raises:
        ValueError: A path names a variable that is not set.
    """
    changed = dict(config)
    for key in CONFIG_KEYS:
        if key in changed:
            changed[key] = _absolute(changed[key], f"{source}: config.{key}", is_path=True)
    env_config = changed.get("env_config")
    if isinstance(env_config, dict):
        changed["env_config"] = {
            key: _absolute(value, f"{source}: config.env_config.{key}", is_path=key in ENV_KEYS)
            for key, value in env_config.items()
        }
    return changed


def expanded(path: str, where: str) -> str:
    """A path with `~` and variables replaced.

    Raises:
        ValueError: A variable is not set, or there is no such user.
    """
    written = os.path.expanduser(os.path.expandvars(path))
    unset = _UNSET.search(written)
    if unset and _UNSET.search(path):
        raise ValueError(f"{where}={path!r}: the variable {unset[0]} is not set.")
    if written.startswith("~"):
        raise ValueError(f"{where}={path!r}: there is no such home folder.")
    return written


def is_of_a_job(path: str) -> bool:
    """Whether a path lies in the working directory of a Ray job."""
    return _JOB_FOLDER in f"{os.path.realpath(path)}/"


def _placed(path: str) -> str:
    """The path as it is written into a config."""
    here = os.getcwd()
    if not is_of_a_job(here):
        return os.path.abspath(path)
    relative = os.path.relpath(path, here)
    return os.path.abspath(path) if relative.startswith(os.pardir) else f"./{relative}"


def _absolute(value: Any, where: str, *, is_path: bool) -> Any:
    """`value` with every path in it made absolute; other values as they are."""
    if isinstance(value, dict):
        return {
            key: item if key in _NOT_PATHS else _absolute(item, where, is_path=is_path)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_absolute(item, where, is_path=is_path) for item in value]
    if not isinstance(value, str) or value in WORDS or _ADDRESS.match(value):
        return value
    if (is_path and "$" in value) or value.startswith(("~/", "$HOME", "${HOME}")) or value == "~":
        return _placed(expanded(value, where))
    looks_like_one = value.startswith(("./", "../"))
    # A name of the hub, a packaged library or a word names no file here, and stays.
    if looks_like_one or (is_path and value and _exists(value)):
        return _placed(value)
    return value


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a text that no file system takes for a name
        return False
