"""An AlgorithmConfig whose keys are class attributes, declared with `config_keys.key`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.annotations import override
from ray.rllib.utils.from_config import NotProvided
from ray.tune.result import STDERR_FILE, STDOUT_FILE, TRIAL_INFO

from stepopsd_rllib.config_keys import Key, declared_here, described, nearest, refuse_number_as_text
from stepopsd_rllib.training.rllib_keys import IGNORED, RLLIB_DEFAULTS, changed, spelled

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

# Tune adds these to the dict of every trial.
_KEYS_OF_TUNE = {TRIAL_INFO, STDOUT_FILE, STDERR_FILE}
_SECTIONS = ("agent", "training")


class KeyedConfig(AlgorithmConfig):
    """Refuses what is no key, text where a number belongs, and RLlib's keys without an effect.

    A subclass declares keys as class attributes:

        class ShortFirstConfig(GRPOConfig):
            turn_power: float = key(0.5, number(0), "exponent of the number of turns")

    and gives inherited ones another default by naming them: `kl_coeff = 0.0`. Every config of the
    class starts with copies of the defaults.
    """

    declared: ClassVar[Mapping[str, Key]] = {}
    """The keys of the class by attribute, inherited ones first."""
    builds: ClassVar[tuple[type[Algorithm], ...]] = ()
    """What a config of the class builds: the first algorithm with this `config_class`. In a tuple:
    Ray follows classes that are attributes of classes, and would go round in a circle."""
    _declared_here: ClassVar[Mapping[str, Key]] = {}

    def __init_subclass__(cls, **kwargs: Any):
        """Collects the keys and describes the fluent methods that set them."""
        super().__init_subclass__(**kwargs)
        inherited: dict[str, Key] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited |= vars(base).get("_declared_here", {})
        cls._declared_here = declared_here(vars(cls), inherited)
        cls.declared = inherited | cls._declared_here
        for name, item in cls._declared_here.items():
            # So that a config that was pickled before the key came has its default.
            setattr(cls, name, item.default)
        for section in _SECTIONS:
            if section not in vars(cls):
                keys = [item for item in cls.declared.values() if item.section == section]
                setattr(cls, section, described(getattr(cls, section), keys))

    def __init__(self, algo_class: type | None = None):
        """Sets RLlib's defaults, then those of the declared keys."""
        super().__init__(algo_class=algo_class or next(iter(type(self).builds), None))
        for name, item in self.declared.items():
            setattr(self, name, copy.deepcopy(item.default))

    def agent(self, **keys: Any) -> Self:
        """Sets model, sampler, groups and budgets: what is ours and not a paper's."""
        return self._set("agent", keys)

    @override(AlgorithmConfig)
    def training(self, **keys: Any) -> Self:
        """Sets the keys of the method and of the optimizer."""
        return self._set("training", keys)

    def _set(self, section: str, arguments: Mapping[str, Any]) -> Self:
        """Sets declared keys of a section; what is left goes to RLlib's method of that name."""
        ours = {
            item.argument: name for name, item in self.declared.items() if item.section == section
        }
        rllib_method = getattr(AlgorithmConfig, section, None)
        theirs = inspect.signature(rllib_method).parameters if rllib_method else {}
        left = {}
        for argument, value in arguments.items():
            if value is NotProvided:
                continue
            if argument in ours:
                setattr(self, ours[argument], value)
            elif argument in theirs:
                left[argument] = value
            else:
                raise self.unknown_key(argument, {*ours, *theirs} - {"self"})
        return rllib_method(self, **left) if left and rllib_method else self

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: Mapping[str, Any]) -> Self:
        """Sets keys from a dict, as Tune and YAML do; refuses what no key of this config is called.

        Raises:
            ValueError: An unknown key (with the nearest known one), or a text where a number
                belongs.
        """
        # `from_state` of RLlib leaves the class among the attributes, and so in `to_dict`.
        config_dict = {name: value for name, value in config_dict.items() if name != "class"}
        for name, item in self.declared.items():
            # RLlib's own `model`, a dict, is what its `to_dict` gives.
            if item.argument != name and not isinstance(config_dict.get(item.argument, {}), dict):
                config_dict[name] = config_dict.pop(item.argument)
            if name in config_dict:
                config_dict[name] = item.read(config_dict[name])
        for key, value in config_dict.items():
            if key not in _KEYS_OF_TUNE:
                attribute = self._translate_special_keys(key, warn_deprecated=False)
                if not self._knows(attribute) and key not in RLLIB_DEFAULTS:
                    raise self.unknown_key(key)
                refuse_number_as_text(key, value, getattr(self, attribute, None))
        return super().update_from_dict(config_dict)

    def __setattr__(self, key: str, value: Any) -> None:
        """Sets an attribute; refuses a public one that is neither a declared key nor RLlib's.

        Raises:
            ValueError: With the nearest known name.
        """
        if not self._knows(key):
            raise self.unknown_key(key)
        super().__setattr__(key, value)

    @override(AlgorithmConfig)
    def __setitem__(self, key: str, value: Any) -> None:
        """Sets a key as an attribute is set; see `__setattr__`."""
        setattr(self, key, value)

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Checks every declared key, and RLlib's that have no effect here."""
        for name, item in self.declared.items():
            value = getattr(self, name)
            if not item.check.passes(value):
                self._value_error(f"config.{name}={value!r}: must be {item.check.requirement}.")
        # RLlib changes some of them itself in the copy that it keeps for evaluation.
        for name in () if self.in_evaluation else changed(vars(self)):
            value = getattr(self, name)
            self._value_error(f"config.{spelled(name)}={value!r} has no effect: {IGNORED[name]}")
        super().validate()

    def _knows(self, attribute: str) -> bool:
        return (
            attribute.startswith("_")
            or attribute in self.declared
            or attribute in RLLIB_DEFAULTS
            or hasattr(type(self), attribute)
        )

    def unknown_key(self, key: str, known: set[str] | None = None) -> ValueError:
        """The error of a name that this config does not have."""
        if known is None:
            ours = {item.argument for item in self.declared.values()}
            known = ours | {name for name in RLLIB_DEFAULTS if not name.startswith("_")}
        for item in self.declared.values():
            if key == item.argument:
                known_by = f"Set it with {item.section}({key}=...)"
                return ValueError(f"config.{key} does not belong here. {known_by}.")
        owners = [config.__name__ for config in methods() if key in config.declared]
        hint = (
            f" It belongs to {', '.join(sorted(set(owners)))}: a run has the keys of one method."
            if owners
            else nearest(key, known)
        )
        return ValueError(f"config.{key} is not a key of {type(self).__name__}.{hint}")


def methods() -> list[type[KeyedConfig]]:
    """The package's configs that an algorithm of their own goes with."""
    waiting, found = KeyedConfig.__subclasses__(), []
    while waiting:
        config = waiting.pop()
        waiting += config.__subclasses__()
        if "builds" in vars(config) and config.__module__.startswith("stepopsd_rllib."):
            found.append(config)
    return found
