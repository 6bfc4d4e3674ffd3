"""What the fluent methods of every config do with their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.from_config import NotProvided

UNSET: Any = NotProvided
"""RLlib's default of a fluent argument, typed so that the argument can have a type of its own."""

_NOT_KEYS = ("self", "kwargs", "__class__")


def set_given(config: AlgorithmConfig, arguments: Mapping[str, Any]) -> None:
    """Sets the arguments of a fluent method that were given; pass its `locals()`."""
    for name, value in arguments.items():
        if name not in _NOT_KEYS and value is not NotProvided:
            setattr(config, name, value)
