"""Sharded learners (FSDP2) against whole ones (DDP), as processes with a gloo group."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from stepopsd_rllib.algorithms.grpo import GRPOConfig
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.models.sharding import in_step, own_part
from stepopsd_rllib.sampling.sent_weights import SentWeights, add_own_parts
from tests.helpers.agents import build_learner, largest_difference, random_groups, small_config
from tests.helpers.learner_processes import in_processes
from tests.helpers.methods import ACTIVE, method_config
from tests.helpers.sharded_learners import (
    METHODS,
    OF_TWO,
    SMALL_PASSES,
    TOLERANCE,
    arrays,
    same_training,
    updated,
)


def test_updates_of_sharded_learners_are_those_of_whole_ones_with_unequal_numbers_of_passes():
    """Policy, reference and teacher, histories and branches, a refresh between the updates."""
    name, keys = METHODS["StepOPSD-suffix"]
    few = OF_TWO | SMALL_PASSES | keys | {"teacher_refresh_interval": 1}
    same_training(name, few, updates=2)


def test_a_learner_with_nothing_to_be_taught_waits_for_nobody():
    name, keys = METHODS["StepOPSD-suffix"]
    same_training(name, OF_TWO | SMALL_PASSES | keys, updates=1, is_lost=True)


def shares(groups: list[list[AgentEpisode]], count: int) -> list[list[list[AgentEpisode]]]:
    """The groups of each of several learners, in order."""
    ends = [len(groups) * (i + 1) // count for i in range(count)]
    return [groups[end - len(groups) // count : end] for end in ends]


def saved(rank: int, config: GRPOConfig, folder: str, count: int) -> Any:
    """Two updates, a checkpoint of the learner, and the weights after a third."""
    learner = build_learner(config)
    for version in range(2):
        updated(learner, shares(random_groups((3, 2, 4, 2, 3, 2), version=version), count)[rank])
    state, weights = pickle.dumps(learner.get_state()), arrays(learner)
    if config.shards_learners():
        learner.write_shards(folder)
    updated(learner, shares(random_groups((3, 2, 4, 2, 3, 2), version=2), count)[rank])
    return state, weights, arrays(learner)


def went_on(rank: int, config: GRPOConfig, folder: str | None, first: Any, count: int) -> Any:
    """The weights after the third update of what was saved."""
    state, weights, _ = first
    learner = build_learner(config)
    learner.set_state(pickle.loads(state))
    if folder is not None:
        learner.read_shards(folder)
        assert learner.language_module.awaits_weights
        learner.language_module.set_policy_weights(
            {name: torch.from_numpy(array) for name, array in weights.items()}
        )
    assert largest_difference(arrays(learner), weights) == 0.0
    updated(learner, shares(random_groups((3, 2, 4, 2, 3, 2), version=2), count)[rank])
    return arrays(learner)


def config_of(count: int, sharding: str) -> GRPOConfig:
    keys = OF_TWO | {"num_learners": count, "sharding": sharding, "groups_per_step": 6}
    keys |= {"teacher_refresh_interval": 1000, "credit_trace_interval": 0}
    return method_config("StepOPSD", ACTIVE["StepOPSD"] | keys, "append")


def test_what_sharded_learners_saved_goes_on_in_one_whole_learner(tmp_path):
    """The teacher is the first one's, so that it is in no file but the shards."""
    folder = str(tmp_path / "shards")
    first = in_processes(2, saved, config_of(2, "fsdp2"), folder, 2)[0]
    weights = went_on(0, config_of(0, "off"), folder, first, 1)
    assert largest_difference(weights, first[2]) < TOLERANCE


def test_what_a_whole_learner_saved_goes_on_sharded():
    first = saved(0, config_of(0, "off"), "", 1)
    for weights in in_processes(2, went_on, config_of(2, "fsdp2"), None, first, 2):
        assert largest_difference(weights, first[2]) < TOLERANCE


def sent(rank: int, config: GRPOConfig) -> Any:
    """What reaches samplers of one learner's call, and how much the learner holds."""
    learner = build_learner(config)
    module = learner.language_module
    weights = module.whole_weights()
    held = sum(own_part(weight).numel() for weight in weights.values())
    # As `send_weights` does, without Ray's store.
    if not learner.is_first:
        add_own_parts(weights, "bfloat16")
        return held, None
    return held, {
        n: w.float().numpy() for n, w in SentWeights.of(weights, "bfloat16").tensors().items()
    }


def test_each_learner_holds_its_part_and_samplers_get_the_whole():
    config = config_of(2, "fsdp2")
    (first, weights), (second, nothing) = in_processes(2, sent, config)
    expected = build_learner(config_of(0, "off")).whole_weights()
    assert nothing is None and weights.keys() == expected.keys()
    for name, weight in expected.items():
        assert np.array_equal(weights[name], weight.detach().bfloat16().float().numpy())
    assert first + second == sum(weight.numel() for weight in expected.values())
    assert abs(first - second) < 0.02 * (first + second)


def in_turn(rank: int, numbers: list[int]) -> list[int | None]:
    return list(in_step(range(numbers[rank]), torch.device("cpu")))


@pytest.mark.parametrize("numbers", [[3, 1], [0, 2], [0, 0], [2, 2]])
def test_learners_with_fewer_passes_make_idle_ones(numbers):
    for own, made in zip(numbers, in_processes(2, in_turn, numbers), strict=True):
        assert made == [*range(own)] + [None] * (max(numbers) - own)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_learners": 2, "lora": {"rank": 4}}, r"sharding='fsdp2' with lora\.rank=4: adapters"),
        ({"num_learners": 1}, r"sharding='fsdp2' with num_learners=1: one learner has nobody"),
        ({"num_learners": 0}, r"Set num_learners to 2 or more, with a GPU each, or sharding='off'"),
        ({"num_learners": 2, "compile_layers": True}, r"compile_layers=True with sharding='fsdp2'"),
        ({"sharding": "fsdp1"}, r"config\.sharding='fsdp1': must be "),
    ],
)
def test_what_cannot_be_sharded_is_refused(keys, message):
    config = small_config().update_from_dict({"sharding": "fsdp2"} | keys)
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_one_learner_holds_everything_where_the_placement_chose_it():
    config = small_config(placement="auto").update_from_dict({"sharding": "fsdp2"})
    config.validate()
    assert config.num_learners == 0 and not config.shards_learners()
