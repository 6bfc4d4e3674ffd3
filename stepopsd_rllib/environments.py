"""The environment that `env:` names: an id, a class, or a name of RLlib's `register_env`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import stepopsd_envs  # noqa: F401  (registers the ids of the package's environments)
from gymnasium.envs.registration import load_env_creator
from ray.cloudpickle.cloudpickle import dumps
from ray.rllib.env.env_context import EnvContext
from ray.tune.registry import ENV_CREATOR, _global_registry
from stepopsd_envs.text_env import TextEnv, nearest

DEFAULT_ENV = "stepopsd/ALFWorld-v0"
OLD_PREFIX = "envs:stepopsd/"

# The class that a function of `register_env` makes is known once it has made one: function and
# arguments, pickled -> class.
_CLASSES_MADE: dict[bytes, type[TextEnv]] = {}


def text_env_class(env: Any, env_config: Mapping[str, Any] | None = None) -> type[TextEnv]:
    """The class of a text environment.

    Args:
        env: A Gymnasium id ("namespace/Name-v0"), with the module that registers it in front
            where importing this package does not ("module:namespace/Name-v0"); a class, or where
            it is found ("package.module:Name"); or a name given to `ray.tune.register_env`.
        env_config: Arguments, for a function of `register_env`, which has to be called to tell.

    Raises:
        ValueError: No such environment, or one that does not keep the text contract.
    """
    if isinstance(env, type):
        return _text_class(env, env)
    if not isinstance(env, str):
        raise ValueError(f"config.env={env!r}: must be an id, a class, or where a class is found.")
    if env.startswith(OLD_PREFIX):
        raise ValueError(
            f"config.env={env!r} is the spelling of an earlier version. Write "
            f"{env.removeprefix('envs:')!r}."
        )
    creator = _registered_creator(env)
    if creator is not None:
        return _class_made_by(env, creator, dict(env_config or {}))
    return _text_class(env, _found(env))


def make_text_env(env: Any, env_config: Mapping[str, Any]) -> TextEnv:
    """Makes a text environment; see `text_env_class`.

    Raises:
        ValueError: No such environment, or an argument that it does not take.
    """
    creator = _registered_creator(env)
    if creator is not None:
        return _made_by(env, creator, env_config)
    loaded = text_env_class(env, env_config)
    # An id may bring arguments of its own.
    spec = gym.registry.get(env.rpartition(":")[2]) if isinstance(env, str) else None
    try:
        made = loaded(**(spec.kwargs if spec else {}) | dict(env_config))
    except TypeError as error:
        raise ValueError(f"config.env_config={dict(env_config)}: {error}") from error
    made.spec = spec
    return made


def env_name(env: Any) -> str:
    """What messages and reports call an environment: its id, or where its class is found."""
    return f"{env.__module__}:{env.__qualname__}" if isinstance(env, type) else str(env)


def _found(env: str) -> Any:
    """What a string stands for that names a class or an id."""
    module, _, name = env.rpartition(":")
    try:
        loaded = importlib.import_module(module) if module else None
        if loaded is not None and isinstance(getattr(loaded, name, None), type):
            return getattr(loaded, name)
        entry_point = gym.spec(name).entry_point
    except (gym.error.Error, ImportError) as error:
        ours = [known for known in gym.registry if known.startswith("stepopsd/")]
        raise ValueError(
            f"config.env={env!r}: {error}{nearest(env, ours)} The package brings "
            f"{', '.join(map(repr, sorted(ours)))}; an own environment is written "
            "'package.module:Class' or 'module:namespace/Name-v0'."
        ) from error
    return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


def _text_class(env: Any, loaded: Any) -> type[TextEnv]:
    if not (isinstance(loaded, type) and issubclass(loaded, TextEnv)):
        raise ValueError(
            f"config.env={env_name(env)!r} is {loaded!r}, not a text environment: it has no task "
            "list and no messages. Derive it from stepopsd_envs.TextEnv."
        )
    return loaded


def _registered_creator(env: Any) -> Callable[[EnvContext], Any] | None:
    if not isinstance(env, str) or not _global_registry.contains(ENV_CREATOR, env):
        return None
    return _global_registry.get(ENV_CREATOR, env)


def _class_made_by(
    env: str, creator: Callable[[EnvContext], Any], env_config: dict[str, Any]
) -> type[TextEnv]:
    if isinstance(creator, type):
        return _text_class(env, creator)
    key = dumps((creator, sorted(env_config.items(), key=lambda item: item[0])))
    if key not in _CLASSES_MADE:
        made = _made_by(env, creator, env_config)
        _CLASSES_MADE[key] = type(made)
        made.close()
    return _CLASSES_MADE[key]


def _made_by(
    env: str, creator: Callable[[EnvContext], Any], env_config: Mapping[str, Any]
) -> TextEnv:
    if isinstance(creator, type):
        made = _text_class(env, creator)(**env_config)
    else:
        made = getattr(creator(EnvContext(dict(env_config), worker_index=0)), "unwrapped", None)
    _text_class(env, type(made))
    return made  # type: ignore[return-value]
