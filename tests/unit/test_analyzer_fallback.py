"""OPID and GRSD in training when their analyzer fails: the outcome advantage stays, counted."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib import ALGORITHMS
from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from tests.helpers.agents import largest_difference, small_config, weights_of
from tests.helpers.dense import dense
from tests.helpers.faulty_endpoint import GOOD, completion, hang, serving, status
from tests.helpers.houses import BARE
from tests.helpers.methods import SHARED

UPDATES = 2
EPISODES = 12  # of an update
# Episodes of four turns are rarely won; the penalty for invalid actions makes advantages differ.
LEARNS = {"entropy_coeff": 0.01}
ASKED_ONCE = {"model": "m", "max_retries": 0}
LIMITS = {
    "slow": {"request_timeout_seconds": 0.2},
    "too slow for all": {"deadline_seconds": 0.2},
}
BROKE = json.dumps({"error": {"message": "no money", "code": "insufficient_quota"}}).encode()
ENDPOINTS = {
    "down": ([], "unreachable"),
    "slow": ([hang], "timeout"),
    "too slow for all": ([hang], "deadline"),
    "failing": ([status(503)], "server_error"),
    "nonsense": ([completion("I would rather not.")], "unreadable"),
    "out of quota": ([status(429, BROKE)], "quota"),
}


class Record(ConnectorV2):
    """Keeps what the learner's pieces made of each batch."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.batches: list[tuple[dict[str, torch.Tensor], list[Any]]] = []

    def __call__(self, *, batch, shared_data=None, **kwargs):
        names = ("advantages", "episode_index", "response_mask")
        padded = dense(batch[DEFAULT_MODULE_ID])
        columns = {name: padded[name] for name in names}
        self.batches.append((columns, (shared_data or {}).get(EPISODE_SKILLS, [])))
        return batch


def trained(name: str, *, updates: int = UPDATES, sampler: str = "transformers", **keys: Any):
    """Weights after some updates, the results of each, and the batches."""
    config = ALGORITHMS[name].get_default_config()
    shared = small_config(training=LEARNS, sampler=sampler).to_dict()
    config.update_from_dict({k: v for k, v in shared.items() if k in SHARED} | keys)
    record = Record()
    config.learners(learner_connector=lambda *_: record)
    algorithm = config.build_algo()
    try:
        results = [algorithm.train()["learners"][DEFAULT_MODULE_ID] for _ in range(updates)]
        learner = algorithm.learner_group._learner  # None where learners are processes
        return learner and weights_of(learner), results, record.batches
    finally:
        algorithm.stop()


@pytest.fixture(scope="module")
def grpo(local_ray):
    return trained("GRPO")


def same_as(grpo, weights, batches) -> bool:
    return largest_difference(weights, grpo[0]) == 0.0 and all(
        torch.equal(ours["advantages"], theirs["advantages"])
        for (ours, _), (theirs, _) in zip(batches, grpo[2], strict=True)
    )


@pytest.mark.parametrize("state", ENDPOINTS)
def test_an_endpoint_that_fails_leaves_grpo_bit_for_bit(state, grpo):
    plan, reason = ENDPOINTS[state]
    with serving() as server:
        server.plan = plan
        address = server.url if plan else "http://127.0.0.1:9/v1"
        analyzer = {**ASKED_ONCE, **LIMITS.get(state, {}), "base_url": address}
        weights, results, batches = trained("OPID", analyzer=analyzer)
    assert same_as(grpo, weights, batches)
    for result in results:
        counts = result["analyzer"]
        assert counts["episodes"] == counts["failures"] == EPISODES, "of this update alone"
        assert counts["failure"][reason] == EPISODES and counts["successes"] == 0
        assert result["skill_available_share"] == 0.0


def test_the_comparison_with_grpo_can_fail(grpo):
    with serving() as server:
        weights, results, batches = trained(
            "OPID", updates=1, analyzer={**ASKED_ONCE, "base_url": server.url}
        )
    assert results[0]["analyzer"]["successes"] == EPISODES
    assert largest_difference(weights, grpo[0]) > 0.0
    assert not torch.equal(batches[0][0]["advantages"], grpo[2][0][0]["advantages"])


def test_an_endpoint_that_fails_on_some_episodes_costs_those_alone(grpo):
    with serving() as server:
        server.plan = [completion(GOOD) if i % 3 else status(401) for i in range(EPISODES)]
        analyzer = {**ASKED_ONCE, "base_url": server.url, "concurrency": 1}
        _, results, batches = trained("OPID", updates=1, analyzer=analyzer)
    counts = results[0]["analyzer"]
    assert (counts["successes"], counts["failure"]["refused"]) == (8, 4)
    (columns, skills), (plain, _) = batches[0], grpo[2][0]
    for row, index in enumerate(columns["episode_index"].tolist()):
        is_same = torch.equal(columns["advantages"][row], plain["advantages"][row])
        assert is_same == (skills[index] is None)


NONSENSE = {"engine": "policy", "max_completion_tokens": 16}


def all_unreadable(counts) -> bool:
    """Whether every episode that was asked about got two replies without an object."""
    failed = counts["failure"]["unreadable"]
    return counts["requests"] == 2 * failed > 0 and failed == counts["episodes"]


def test_a_policy_that_answers_nonsense_leaves_grpo_bit_for_bit(grpo):
    weights, results, batches = trained("OPID", analyzer=NONSENSE)
    assert same_as(grpo, weights, batches)
    for result in results:
        assert all_unreadable(result["analyzer"]) and result["analyzer"]["episodes"] == EPISODES
        assert 0 < result["analyzer"]["completion_tokens"] <= 16 * 2 * EPISODES
        assert result["skill_available_share"] == 0.0


def test_grsd_asks_about_a_success_and_a_failure_of_mixed_groups_alone(local_ray):
    longer = {"env_config": {**BARE, "max_turns": 12}}
    grpo = trained("GRPO", updates=1, **longer)
    weights, (result,), batches = trained("GRSD", updates=1, analyzer=NONSENSE, **longer)
    assert same_as(grpo, weights, batches)
    mixed_groups = result["mixed_group_share"] * 4
    assert all_unreadable(result["analyzer"])
    assert result["analyzer"]["episodes"] == 2 * mixed_groups
    assert result["guided_group_share"] == 0.0


def test_a_context_without_room_for_any_turn_is_refused_before_the_run(local_ray):
    with pytest.raises(ValueError, match="tokens before its first turn is shown") as refusal:
        trained("OPID", analyzer={**NONSENSE, "max_context_tokens": 500})
    assert "\n" not in str(refusal.value)


@pytest.mark.e2e
@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_nonsense_out_of_vllm_leaves_grpo_bit_for_bit(local_ray):
    grpo = trained("GRPO", updates=3, sampler="vllm")
    weights, results, batches = trained("OPID", updates=3, sampler="vllm", analyzer=NONSENSE)
    assert same_as(grpo, weights, batches)
    assert all(all_unreadable(result["analyzer"]) for result in results)
