"""Updates of sharded learners (FSDP2) are those of whole ones.

In a module without Ray: processes that are forked beside it would ask it, and never get an answer.
"""

from __future__ import annotations

import pytest

from tests.helpers.learner_processes import in_processes
from tests.helpers.methods import ACTIVE, method_config
from tests.helpers.sharded_learners import METHODS, OF_TWO, SMALL_PASSES, both_ways, same_training

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(("name", "keys"), METHODS.values(), ids=METHODS)
def test_five_updates_of_sharded_learners_are_those_of_whole_ones(name, keys):
    same_training(name, OF_TWO | SMALL_PASSES | keys, updates=5)


@pytest.mark.parametrize("name", ["OPID", "UCOB", "StepOPSD-prefix"])
def test_learners_of_which_one_has_nothing_to_be_taught_do_not_wait(name):
    name, keys = METHODS[name]
    same_training(name, OF_TWO | SMALL_PASSES | keys, updates=1, is_lost=True)


def test_in_bfloat16_sharded_learners_differ_from_whole_ones_by_rounding():
    """Norms of layers are gathered rounded; embedding, last norm and head are not.

    One update: what rounding does to it, Adam makes as large as a step where a gradient is noise.
    """
    name, keys = METHODS["StepOPSD-suffix"]
    config = method_config(
        name, ACTIVE[name] | OF_TWO | keys | {"autocast_dtype": "bfloat16"}, "append"
    )
    for of_whole, of_sharded in in_processes(2, both_ways, config, range(1), False):
        (expected,), (actual,) = of_whole[0], of_sharded[0]
        for metric in ("gradient_norm", "policy_loss", "entropy"):
            assert actual[metric] == pytest.approx(expected[metric], rel=1e-2), metric
