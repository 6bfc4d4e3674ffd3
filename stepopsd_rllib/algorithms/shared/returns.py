"""The return of a perfect episode: what a key says, else the environment."""

from __future__ import annotations

from typing import Any


def largest_return(config: Any, needed_for: str) -> float:
    """`largest_return` with none resolved, in the unit of the return.

    Args:
        config: Config of a method with the key.
        needed_for: What the method does with it, as a clause.

    Raises:
        ValueError: Neither the key nor the environment says it.
    """
    if config.largest_return is not None:
        return config.largest_return
    env = config.env_class()
    if not env.says("largest_return"):
        config._value_error(
            f"config.largest_return=None: {needed_for}, and {env.__name__} does not say it. Define "
            f"{env.__name__}.largest_return(env_config), or set largest_return."
        )
    return env.largest_return(config.env_config)
