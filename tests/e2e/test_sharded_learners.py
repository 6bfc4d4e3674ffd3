"""Sharded learners (FSDP2) in a run: sampler, checkpoints and export have what they have."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file

from stepopsd_rllib.models.loading import load_causal_lm
from stepopsd_rllib.models.sharding import whole
from stepopsd_rllib.training import checkpoint_files
from tests.helpers.agents import largest_difference
from tests.helpers.methods import ACTIVE, method_config

pytestmark = pytest.mark.e2e

# KL and entropy have a gradient without a win.
LEARNS = {"kl_coeff": 0.1, "entropy_coeff": 0.01, "adam_eps": 1e-6}


def config_of(learners: int, sharding: str) -> Any:
    """StepOPSD whose teacher is older than its last update, and a reference."""
    keys = ACTIVE["StepOPSD"] | LEARNS | {"teacher_refresh_interval": 2, "groups_per_step": 6}
    keys |= {"num_learners": learners, "num_cpus_per_learner": 0.5, "sharding": sharding}
    config = method_config("StepOPSD", keys, "append")
    config.env_config["max_turns"] = 4
    return config


def weights_of(algo: Any) -> dict[str, np.ndarray]:
    """The first learner's weights; all learners are asked for their parts."""
    results = algo.learner_group.foreach_learner(
        lambda learner: {
            n: whole(w).detach().numpy().copy() for n, w in learner.whole_weights().items()
        }
    )
    return next(iter(results.ignore_errors())).get()


def is_synced(result: dict[str, Any]) -> bool:
    """Whether the sampler's log-probs were the learners'."""
    return result["learners"]["default_policy"]["sampler_log_prob_difference_max"] < 1e-4


def test_a_killed_run_goes_on_with_other_numbers_of_learners_sharded_or_not(build, tmp_path):
    algo = build(config_of(2, "fsdp2"))
    for _ in range(3):
        assert is_synced(algo.train())
    folder = Path(algo.save_to_path(str(tmp_path / "checkpoint")))
    saved = weights_of(algo)
    algo.export_hf(str(tmp_path / "exported"))
    assert is_synced(algo.train())
    expected = weights_of(algo)
    assert largest_difference(saved, expected) > 1e-5
    for learner in algo.learner_group._workers:
        ray.kill(learner)
    with contextlib.suppress(Exception):
        algo.stop()

    files = json.loads((folder / checkpoint_files.MANIFEST).read_text())["files"]
    parts = [name for name in files if name.endswith(".distcp")]
    assert len(parts) == 2 and checkpoint_files.damage(folder) is None
    # Weights once, in the model's folder; moments and teacher in parts of equal size.
    model = load_file(folder / "model" / "model.safetensors")
    assert largest_difference(model, saved) == 0.0
    numbers = sum(array.nbytes for array in model.values())
    sizes = [files[name]["bytes"] for name in parts]
    assert 3 * numbers < sum(sizes) < 3.2 * numbers and max(sizes) < 1.1 * min(sizes)
    others = [f["bytes"] for n, f in files.items() if not n.startswith(("shards/", "model/"))]
    assert sum(others) < 0.2 * numbers
    exported = dict(load_causal_lm(str(tmp_path / "exported")).state_dict())
    assert largest_difference({n: exported[n] for n in saved}, saved) == 0.0

    for learners, sharding in ((3, "fsdp2"), (0, "off")):
        restored = build(config_of(learners, sharding))
        restored.restore_from_path(str(folder))
        assert largest_difference(weights_of(restored), saved) == 0.0
        assert is_synced(restored.train())
        assert largest_difference(weights_of(restored), expected) < 1e-5
        restored.stop()


def test_learners_on_other_machines_send_their_parts_and_get_them_back(build, tmp_path):
    def blind(learner: Any) -> None:
        learner.shares_folders = learner.number != 1

    algo = build(config_of(2, "fsdp2"))
    algo.learner_group.foreach_learner(blind)
    for _ in range(3):
        algo.train()
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    assert len(list(Path(path, "shards").glob("*.distcp"))) == 2
    algo.train()
    expected = weights_of(algo)
    algo.stop()
    restored = build(config_of(2, "fsdp2"))
    restored.learner_group.foreach_learner(blind)
    restored.restore_from_path(path)
    restored.train()
    assert largest_difference(weights_of(restored), expected) == 0.0
