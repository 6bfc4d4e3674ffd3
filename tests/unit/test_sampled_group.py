"""Groups that the driver holds by reference: who trains on them, and what becomes of lost ones."""

from __future__ import annotations

import copy
import dataclasses
import sys

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.episodes import EpisodeSummary, Status, from_rllib, to_rllib
from stepopsd_rllib.training import sampled_group
from stepopsd_rllib.training.sampled_group import SampledGroup, dealt, hand_over, lost
from tests.helpers.agents import random_groups, same_records

# Actors in processes of their own cannot import a test module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


COPIES = 40  # of a group, so that it goes to the store: small objects do not


def never(index: int, error: Exception | None) -> None:
    raise AssertionError(f"{index}: {error}")


def group(number: int = 0) -> SampledGroup:
    return SampledGroup.of([to_rllib(episode) for episode in random_groups((3,), seed=number)[0]])


def of_tokens(*sizes: int) -> dict[int, SampledGroup]:
    """Groups of one episode each, with so many tokens."""
    summary = EpisodeSummary.of(random_groups((1,))[0][0])
    return {
        number: SampledGroup(
            summaries=(dataclasses.replace(summary, num_tokens=size, group=number),), episodes=[]
        )
        for number, size in enumerate(sizes)
    }


def test_a_summary_counts_what_the_turns_say():
    episode = random_groups((1,))[0][0]
    summary = EpisodeSummary.of(episode)
    assert summary.num_tokens == sum(len(t.prompt_ids) + len(t.response_ids) for t in episode.turns)
    assert summary.return_ == episode.return_ and summary.num_turns == len(episode.turns)
    assert summary.is_trainable == episode.is_trainable
    assert summary.num_valid_actions + episode.num_invalid_actions == summary.num_turns


def test_a_broken_episode_is_told_of_and_not_trained_on():
    episodes = random_groups((3,))[0]
    episodes[1] = dataclasses.replace(episodes[1], status=Status.ENVIRONMENT_ERROR, error="OSError")
    made = SampledGroup.of([to_rllib(episode) for episode in episodes])
    assert [summary.error for summary in made.summaries] == ["", "OSError", ""]
    assert [from_rllib(e).rollout for e in made.get()] == [0, 2]
    assert [summary.rollout for summary in made.trainable] == [0, 2]


def test_one_learner_gets_the_groups_in_their_order():
    groups = of_tokens(5, 9, 1)
    assert dealt(groups, 1) == list(groups.values())


@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=8), learners=st.integers(1, 4))
def test_every_learner_gets_as_many_groups_and_about_as_many_tokens(sizes, learners):
    sizes = sizes * learners
    shares = dealt(of_tokens(*sizes), learners)
    room = len(sizes) // learners
    assert sorted(g.num_tokens for g in shares) == sorted(sizes)
    tokens = [sum(g.num_tokens for g in shares[i * room :][:room]) for i in range(learners)]
    # As many copies of each size as learners: an even deal exists, and is found.
    assert max(tokens) == min(tokens)


def test_unequal_groups_are_dealt_out_evenly():
    shares = dealt(of_tokens(100, 90, 20, 10), 2)
    assert [g.num_tokens for g in shares] == [100, 10, 90, 20]


@ray.remote(num_cpus=0, max_restarts=-1)
class Holder:
    """A runner as far as handing over goes."""

    def __init__(self) -> None:
        self.held = {n: [copy.deepcopy(e) for e in group(n).get() * COPIES] for n in (0, 1)}
        self.held[2] = group(2).get()

    def hand_over(self, number: int):
        return self.held.pop(number), number

    def forget(self) -> None:
        self.held = {}


@pytest.fixture
def holder(local_ray):
    actor = Holder.remote()
    yield actor
    ray.kill(actor)


def test_a_runner_that_dies_after_it_handed_over_takes_nothing_with_it(holder):
    found = hand_over({1: holder}, {1: [0, 1]}, timeout_s=60, failed=never)
    assert sorted(found) == [0, 1]
    ray.kill(holder)
    groups = {n: dataclasses.replace(group(n), episodes=ref) for n, ref in found.items()}
    assert lost(groups) == []
    for number, kept in groups.items():
        pairs = zip(kept.get(), group(number).get() * COPIES, strict=True)
        assert all(same_records(from_rllib(one), from_rllib(other)) for one, other in pairs)


def test_a_runner_without_the_groups_is_told_of_once_by_its_number(holder):
    ray.get(holder.forget.remote())
    failures = []
    found = hand_over(
        {7: holder}, {7: [0, 1]}, timeout_s=60, failed=lambda *told: failures.append(told)
    )
    assert found == {} and [index for index, _ in failures] == [7]
    assert isinstance(failures[0][1], ray.exceptions.RayTaskError)


def test_groups_that_are_in_no_store_any_more_are_found(holder, monkeypatch):
    found = hand_over({1: holder}, {1: [0, 1]}, timeout_s=60, failed=never)
    groups = {n: dataclasses.replace(group(n), episodes=ref) for n, ref in found.items()}
    groups[2] = group(2)  # of this process
    assert lost(groups) == []
    # What Ray says when the machine is gone; tests/e2e/test_lost_machines.py takes one away.
    where = sampled_group.get_object_locations

    def without_one(references):
        gone = {"node_ids": [], "object_size": 8 * 2**20, "did_spill": False}
        return where(references) | {found[1]: gone}

    monkeypatch.setattr(sampled_group, "get_object_locations", without_one)
    assert lost(groups) == [1]


def test_a_small_group_comes_with_the_answer(holder):
    found = hand_over({1: holder}, {1: [2]}, timeout_s=60, failed=never)
    assert isinstance(found[2], list) and len(found[2]) == 3
