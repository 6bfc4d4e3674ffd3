"""A key is declared once; default, check, fluent methods, errors and documentation follow."""

from __future__ import annotations

import copy
import dis
import inspect
import io
import pickle
import subprocess
import sys
from typing import Any

import cloudpickle
import pytest
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.search.variant_generator import generate_variants

from stepopsd_rllib import ALGORITHMS, GRPO, GRPOConfig, StepOPSDConfig
from stepopsd_rllib.config_keys import Key, key, number, whole
from stepopsd_rllib.training.agent_config import AgentConfig
from stepopsd_rllib.training.rllib_keys import HONOURED, IGNORED, INTERNAL, RLLIB_DEFAULTS
from tests.helpers.agents import SMALL, small_config


class ShortFirstConfig(GRPOConfig):
    turn_power: float = key(0.5, number(0), "exponent of the number of turns", symbol="p")
    notes: dict[str, int] = key({}, whole(0), "never valid", section="agent")
    kl_coeff = 0.25


class ShortFirst(GRPO):
    config_class = ShortFirstConfig


def refusal(action) -> str:
    with pytest.raises(ValueError) as raised:
        action()
    return str(raised.value).splitlines()[0]


def test_a_declared_key_has_default_check_and_fluent_method():
    config = ShortFirstConfig()
    assert (config.turn_power, config.kl_coeff, GRPOConfig().kl_coeff) == (0.5, 0.25, 0.01)
    assert config.training(turn_power=0.2, clip_low=0.1, lr=1.0) is config
    assert (config.turn_power, config.clip_low, config.lr) == (0.2, 0.1, 1.0)
    config.turn_power = -1
    assert refusal(config.validate) == "config.turn_power=-1: must be a number, at least 0."


def test_an_algorithm_and_its_config_find_each_other():
    assert ShortFirstConfig().algo_class is ShortFirst
    default = ShortFirst.get_default_config()
    assert type(default) is ShortFirstConfig and default.algo_class is ShortFirst
    for algorithm in ALGORITHMS.values():
        default: Any = algorithm.get_default_config()
        assert default.algo_class is type(default)().algo_class is algorithm

    class Variant(ShortFirst):
        pass

    assert Variant.get_default_config().algo_class is Variant
    assert ShortFirstConfig().algo_class is ShortFirst


def test_defaults_are_not_shared_between_configs():
    first, second = ShortFirstConfig(), ShortFirstConfig()
    first.notes["a"] = 1
    assert second.notes == {} and ShortFirstConfig().notes == {}


@pytest.mark.parametrize("method", ["training", "agent"])
def test_help_shows_every_key_with_its_meaning(method):
    shown = getattr(ShortFirstConfig, method)
    parameters = inspect.signature(shown).parameters
    for item in ShortFirstConfig.declared.values():
        if item.section == method:
            assert parameters[item.argument].default == item.default
            assert parameters[item.argument].kind is inspect.Parameter.KEYWORD_ONLY
            assert f"\n    {item.argument}: " in shown.__doc__
    assert shown.__name__ == method
    assert "turn_power" not in inspect.signature(getattr(GRPOConfig, method)).parameters


def test_documentation_has_symbol_range_and_paper():
    text = " ".join((StepOPSDConfig.training.__doc__ or "").split())
    assert (
        "alpha_clip: α, half width of the trust region of the weights. In [0, 1), or the sign of "
        "the advantage could flip. Paper: 0.2; 0.05 in the reduced-clip runs." in text
    )


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda c: c.training(clip_lwo=1), "config.clip_lwo is not a key of GRPOConfig. Did you"),
        (lambda c: c.agent(grop_size=1), "config.grop_size is not a key of GRPOConfig. Did you"),
        (lambda c: setattr(c, "clip_lwo", 1), "config.clip_lwo is not a key of GRPOConfig. Did"),
        (lambda c: c.__setitem__("clip_lwo", 1), "config.clip_lwo is not a key of GRPOConfig."),
        (lambda c: c.update_from_dict({"clip_lwo": 1}), "config.clip_lwo is not a key of GRPO"),
        (lambda c: c.training(alpha_clip=1), "It belongs to StepOPSDConfig"),
        (lambda c: c.agent(lr=1.0), "config.lr does not belong here. Set it with training(lr=...)"),
    ],
)
def test_a_name_that_is_no_key_is_refused_wherever_it_is_set(action, message):
    assert message in refusal(lambda: action(GRPOConfig()))


def test_copies_pickles_and_dicts_keep_the_keys():
    for config in (small_config(), ShortFirstConfig().training(turn_power=0.1)):
        config.validate() if type(config) is GRPOConfig else None
        for other in (
            config.copy(),
            copy.deepcopy(config),
            pickle.loads(pickle.dumps(config)),
            type(config)().update_from_dict(config.to_dict()),
            type(config).from_state(config.get_state()),
        ):
            assert other.to_dict() | {"class": None} == config.to_dict() | {"class": None}
            assert type(config)().update_from_dict(other.to_dict()).to_dict() == config.to_dict()


def test_a_config_class_from_a_notebook_travels_by_value():
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "from stepopsd_rllib import GRPO, GRPOConfig\n"
        "from stepopsd_rllib.config_keys import key, number\n"
        "class OwnConfig(GRPOConfig):\n"
        "    own: float = key(0.5, number(0), 'own')\n"
        "class Own(GRPO):\n"
        "    config_class = OwnConfig\n",
        namespace,
    )
    script = (
        "import pickle, sys\n"
        "config = pickle.loads(sys.stdin.buffer.read())\n"
        "assert (config.own, type(config)().own, config.algo_class.__name__) == (0.2, 0.5, 'Own')\n"
        "config.training(own=-1.0)\n"
        "try:\n"
        "    config.validate()\n"
        "except ValueError as error:\n"
        "    print(str(error).splitlines()[0])\n"
    )
    sent = cloudpickle.dumps(namespace["OwnConfig"]().training(own=0.2))
    done = subprocess.run([sys.executable, "-c", script], input=sent, capture_output=True)
    assert done.stdout.decode().strip() == "config.own=-1.0: must be a number, at least 0.", done


def test_tunes_grid_search_reaches_a_key():
    config = GRPOConfig().training(clip_low=tune.grid_search([0.1, 0.3]))
    variants = [variant for _, variant in generate_variants(config.to_dict())]
    assert [variant["clip_low"] for variant in variants] == [0.1, 0.3]
    assert GRPOConfig().update_from_dict(variants[1]).clip_low == 0.3


def test_every_key_says_what_it_is_and_its_default_passes_its_check():
    configs = [AgentConfig, *(type(a.get_default_config()) for a in ALGORITHMS.values())]
    for config in configs:
        for item in config.declared.values():  # type: ignore[attr-defined]
            assert item.check.passes(item.default), item
            assert item.meaning and not item.meaning.endswith("."), item
            assert not item.meaning.startswith(("Of ", "of ", "Whether")), item
            assert not isinstance(getattr(config, item.name), Key)


def test_every_attribute_of_rllibs_config_is_honoured_or_refused_or_no_setting():
    honoured = {name for names in HONOURED.values() for name in names}
    internal = {name for names in INTERNAL.values() for name in names}
    groups = (honoured, internal, set(IGNORED))
    assert sum(map(len, groups)) == len(set.union(*groups)), "a key stands twice"
    assert set.union(*groups) == set(vars(AlgorithmConfig()))


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_an_rllib_key_without_effect_is_refused_when_it_is_changed(name):
    config = GRPOConfig().update_from_dict(SMALL)
    config.__dict__[name] = "another value"
    text = refusal(config.validate)
    assert f"{name.strip('_').removesuffix('_str')}='another value' has no effect: " in text
    assert text.count(". ") >= 1 and text.endswith("."), "a reason, and what to do"


def test_rllibs_defaults_pass_and_stay_as_they_are():
    config = small_config().evaluation(evaluation_interval=2).learners(num_learners=2)
    config.validate()
    config.validate()  # RLlib changes some of its own keys in the first
    assert {name: RLLIB_DEFAULTS[name] for name in IGNORED if name != "policies"} == {
        name: vars(config)[name] for name in IGNORED if name != "policies"
    }
    evaluation = config.get_evaluation_config_object()
    assert evaluation is not None
    evaluation.validate()


@pytest.mark.parametrize(
    ("lr", "is_good"),
    [
        (1e-6, True),
        ([[0, 1e-4], [10, 1e-6]], True),
        ([[1, 1e-4], [10, 1e-6]], False),
        ([[0, 1e-4], [0, 1e-6]], False),
        ([[0, 1e-4]], False),
        ([0.1, 0.2], False),
        (-1.0, False),
    ],
)
def test_a_learning_rate_is_a_number_or_a_schedule_over_updates(lr, is_good):
    config = small_config(training={"lr": lr})
    if is_good:
        config.validate()
    else:
        assert "a schedule [[update, lr], ...]" in refusal(config.validate)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_ray_can_make_an_actor_of_every_algorithm(name):
    # What Ray does with a class first; a circle among class attributes would never end.
    dis.dis(ALGORITHMS[name], file=io.StringIO(), depth=2)


def test_off_without_quotes_is_off_where_a_key_takes_it():
    assert GRPOConfig().update_from_dict({"share_prefixes": False}).share_prefixes == "off"
    assert GRPOConfig().update_from_dict({"dynamic_sampling": False}).dynamic_sampling is False
