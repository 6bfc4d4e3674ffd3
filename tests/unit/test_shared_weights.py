"""Weights that a learner shares with runners on its GPU, where no GPU is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from stepopsd_rllib.sampling.sent_weights import SentWeights
from stepopsd_rllib.sampling.shared_weights import SharedWeights
from stepopsd_rllib.training.weight_sync import WeightSyncError, sync_weights
from tests.helpers.agents import build_learner, small_config

WEIGHTS = {"a": torch.arange(6.0).view(2, 3)}


class Runner:
    """What the sync sees of a runner, on a card of its own or none."""

    sampler_name = "s"

    def __init__(self, index: int):
        self.worker_index = index
        self.weights_version = -1
        self.loaded: dict[str, torch.Tensor] = {}

    def load_weights(self, weights: dict[str, torch.Tensor], version: int) -> int:
        self.loaded = {name: tensor.clone() for name, tensor in weights.items()}
        self.weights_version = version
        return version


class Runners:
    """RLlib's group of runners in this process; counts the calls."""

    local_env_runner: Runner

    def __init__(self, count: int):
        self.runners = {i: Runner(i) for i in range(1, count + 1)}
        self.asked: list[list[int]] = []

    def num_remote_env_runners(self) -> int:
        return len(self.runners)

    def healthy_env_runner_ids(self) -> list[int]:
        return list(self.runners)

    def foreach_env_runner(self, call: Any, *, remote_worker_ids: Any, **_: Any) -> list[Any]:
        ids = list(self.runners) if remote_worker_ids is None else remote_worker_ids
        self.asked.append(ids)
        return [call(self.runners[i]) for i in ids]


class Learners:
    """A learner that shares one handle and can send a copy."""

    config = SimpleNamespace(shards_learners=lambda: False)

    def __init__(self, handles: dict[str, Any] | None, *, is_local: bool = True):
        self.is_local = is_local
        self.num_sent = 0
        shared = handles and SharedWeights(gpu="GPU-0", addresses={}, handles=handles)

        def send(of: str, dtype: str) -> list[ray.ObjectRef]:
            self.num_sent += 1
            return [ray.put(SentWeights.of(WEIGHTS, dtype))]

        self._learner = SimpleNamespace(share_weights=lambda: shared, send_weights=send)

    def foreach_learner(self, call: Any, **_: Any) -> list[Any]:
        return [SimpleNamespace(ok=True, get=lambda: call(self._learner))]


def opened(storage_device: int, fails: bool = False) -> torch.Tensor:
    """What PyTorch's function does that opens a handle."""
    if fails:
        raise RuntimeError("the container forbids it")
    assert storage_device == 3, "the number of the card is this process's, not the learner's"
    return WEIGHTS["a"]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch):
    """Makes this process see a card, under number 3, or none."""

    def see(number: int | None) -> None:
        monkeypatch.setattr(SharedWeights, "_device", lambda _: number)

    return see


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("number", "handles", "sent", "asked"),
    [
        pytest.param(3, {"a": (opened, (0,))}, 0, [[1, 2]], id="on the learner's card"),
        pytest.param(None, {"a": (opened, (0,))}, 1, [[1, 2], [1, 2]], id="on another card"),
        pytest.param(3, {"a": (opened, (0, True))}, 1, [[1, 2], [1, 2]], id="forbidden"),
        pytest.param(3, None, 1, [[1, 2]], id="learner on the CPU"),
    ],
)
def test_a_runner_reads_what_its_learner_shares_or_gets_a_copy(cards, number, handles, sent, asked):
    cards(number)
    learners, runners = Learners(handles), Runners(2)
    names = sync_weights(learners, runners, version=7, timeout_s=1, shares_gpu=True)
    assert names == {1: "s", 2: "s"}
    assert learners.num_sent == sent and runners.asked == asked
    for runner in runners.runners.values():
        assert runner.weights_version == 7 and torch.equal(runner.loaded["a"], WEIGHTS["a"])


@pytest.mark.usefixtures("local_ray")
def test_what_a_runner_says_while_it_reads_ends_the_sync(cards):
    cards(3)
    runners = Runners(2)

    def refuse(weights: Any, version: int) -> int:
        raise RuntimeError("no such tensor")

    runners.runners[2].load_weights = refuse
    with pytest.raises(WeightSyncError, match="no such tensor"):
        sync_weights(
            Learners({"a": (opened, (0,))}), runners, version=7, timeout_s=1, shares_gpu=True
        )


@pytest.mark.usefixtures("local_ray")
def test_a_runner_in_this_process_gets_the_tensors_that_a_remote_learner_sent():
    runners = Runners(0)
    runners.local_env_runner = Runner(0)
    sync_weights(Learners(None, is_local=False), runners, version=2, timeout_s=1)
    assert torch.equal(runners.local_env_runner.loaded["a"], WEIGHTS["a"])


def test_tensors_that_are_not_on_one_gpu_are_not_shared():
    with pytest.raises(ValueError, match=r"tensors on \['cpu'\], not one GPU"):
        SharedWeights.of(WEIGHTS)


def test_handles_are_of_use_on_their_card_alone():
    shared = SharedWeights(gpu="GPU-of-another-machine", addresses={}, handles={})
    assert not shared.is_here
    with pytest.raises(RuntimeError, match="GPU-of-another-machine is not one of this process's"):
        shared.tensors()


def test_a_learner_on_the_cpu_shares_nothing():
    assert build_learner(small_config()).share_weights() is None
