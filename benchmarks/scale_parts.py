"""Stand-ins for runners and learners on GPUs: true sizes, stated times, many in a few processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from stepopsd_rllib.connectors.group_advantages import GroupAdvantages
from stepopsd_rllib.connectors.token_batch import TokenBatch
from stepopsd_rllib.episodes import AgentEpisode, Status, Turn, to_rllib
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from stepopsd_rllib.sampling.sent_weights import SentWeights

TURNS, PROMPT_TOKENS, RESPONSE_TOKENS = 50, 300, 100  # an episode of 20,000 tokens
EPISODE_TOKENS = TURNS * (PROMPT_TOKENS + RESPONSE_TOKENS)
CHARACTERS_PER_TOKEN = 4
METRICS = 80  # of a learner's update

# A model of 1.5 billion parameters on H100s. Small on purpose: the shorter the step, the larger
# the driver's share of it.
PARAMETERS = 1.5e9
LEARNER_FLOPS = 4e14  # of 990 in bfloat16
RUNNER_TOKENS_PER_S = 10_000.0  # sampled, with a full batch
SECONDS_PER_TOKEN = 0.008  # of one episode, however few there are


def sampling_seconds(episodes: int) -> float:
    """Of one runner: throughput, or what one episode takes from its first turn to its last."""
    tokens = TURNS * RESPONSE_TOKENS
    return max(episodes * tokens / RUNNER_TOKENS_PER_S, tokens * SECONDS_PER_TOKEN)


def update_seconds(episodes: int) -> float:
    """Of one learner: 6 operations a parameter and a token."""
    return 6 * PARAMETERS * episodes * EPISODE_TOKENS / LEARNER_FLOPS


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How the stand-ins keep time.

    Attributes:
        speed: By how much faster than the stated GPUs they are.
        slow_runner: Number of the runner that is slower; 0 for none.
        slowness: By how much.
        numbers: Weights that runners are handed.
    """

    speed: float
    slow_runner: int = 0
    slowness: float = 4.0
    numbers: int = 16 * 2**20


class StandInRunner:
    """Answers as `TextEnvRunner` does, with episodes of true size after the stated time."""

    def __init__(self, index: int, pace: Pace):
        self.worker_index, self.pace = index, pace
        self.weights_version, self.sampler_name = -1, f"stand-in {index}"
        self._held: dict[int, list[Any]] = {}

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function with this stand-in, as RLlib's actors do."""
        return func(self, *args, **kwargs)

    def ping(self) -> str:
        """Is there."""
        return "pong"

    def load_weights(self, weights: Any, version: int) -> int:
        """Takes weights that it has fetched."""
        assert weights is not None
        self.weights_version = version
        return version

    def sample(self, *, requests: Sequence[EpisodeRequest], explore: bool) -> list[Any]:
        """Episodes of the requests, after the stated time."""
        assert explore
        is_slow = self.worker_index == self.pace.slow_runner
        seconds = sampling_seconds(len(requests)) * (self.pace.slowness if is_slow else 1.0)
        began = time.perf_counter()
        episodes = [to_rllib(_episode(request, self.weights_version)) for request in requests]
        time.sleep(max(0.0, seconds / self.pace.speed - (time.perf_counter() - began)))
        return episodes

    def hold(self, groups: dict[int, list[Any]]) -> None:
        """As `TextEnvRunner.hold`."""
        self._held = dict(groups)

    def hand_over(self, number: int) -> tuple[list[Any], int]:
        """As `TextEnvRunner.hand_over`."""
        return self._held.pop(number), number

    def callback_metrics(self) -> None:
        """None: no callback listens."""


class StandInLearner:
    """Fetches its groups, makes their rows and advantages, and takes the stated time."""

    def __init__(self, index: int, pace: Pace):
        self.index, self.pace = index, pace
        self.num_updates = 0
        self.metrics = MetricsLogger()

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function with this stand-in, as RLlib's actors do."""
        return func(self, *args, **kwargs)

    def ping(self) -> str:
        """Is there."""
        return "pong"

    def update(self, *, training_data: Any, **kwargs: Any) -> Any:
        """Fetches the groups, makes their columns, and takes the stated time."""
        began = time.perf_counter()
        training_data.solve_refs()
        batch: dict[str, Any] = {}
        shared: dict[str, Any] = {}
        for piece in (
            TokenBatch(),
            GroupAdvantages(statistics="episodes", normalize=True, eps=1e-6, penalty=0.1),
        ):
            piece(rl_module=None, batch=batch, episodes=training_data.episodes, shared_data=shared)
        assert bool((batch[DEFAULT_MODULE_ID]["advantages"] != 0).any())
        seconds = update_seconds(len(training_data.episodes)) / self.pace.speed
        time.sleep(max(0.0, seconds - (time.perf_counter() - began)))
        self.num_updates += 1
        for number in range(METRICS):
            self.metrics.log_value((DEFAULT_MODULE_ID, f"metric_{number}"), 0.5, window=1)
        return self.metrics.reduce()

    def send_weights(self, of: str, dtype: str) -> list[ray.ObjectRef]:
        """Puts what runners are handed into the store, as `TokenLearner.send_weights`."""
        del of
        return [ray.put(SentWeights.of({"weights": torch.zeros(self.pace.numbers)}, dtype))]

    def take_credit_records(self) -> list[Any]:
        """None: nothing is traced."""
        return []


@ray.remote(num_cpus=0)
class Host:
    """A process with many stand-ins, each called in a thread."""

    def __init__(self, make: Callable[[int], Any], indices: Sequence[int]):
        torch.set_num_threads(1)
        self.parts = {index: make(index) for index in indices}

    def call(self, index: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a method of a stand-in."""
        return getattr(self.parts[index], name)(*args, **kwargs)


class Hosted:
    """One stand-in of a host, called as an actor of its own is: `handle.method.remote(...)`."""

    def __init__(self, host: Any, index: int):
        self._host, self._index = host, index

    def __getattr__(self, name: str) -> _Method:
        """A method of the stand-in."""
        return _Method(self._host.call, self._index, name)


class _Method:
    def __init__(self, call: Any, index: int, name: str):
        self._call, self._index, self._name = call, index, name

    def options(self, **options: Any) -> _Method:
        """As of an actor's method."""
        return _Method(self._call.options(**options), self._index, self._name)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """As of an actor's method."""
        return self._call.remote(self._index, self._name, args, kwargs)


def hosted(make: Callable[[int], Any], indices: Sequence[int], *, processes: int) -> dict[int, Any]:
    """Stand-ins by number, spread over processes."""
    handles: dict[int, Any] = {}
    for i in range(min(processes, len(indices))):
        mine = list(indices)[i::processes]
        host = Host.options(max_concurrency=len(mine) + 1).remote(make, mine)
        handles |= {index: Hosted(host, index) for index in mine}
    return dict(sorted(handles.items()))


def _episode(request: EpisodeRequest, version: int) -> AgentEpisode:
    rng = np.random.default_rng(request.seed)
    ids = rng.integers(0, 150_000, (TURNS, PROMPT_TOKENS + RESPONSE_TOKENS), dtype=np.int32)
    log_probs = -rng.random((TURNS, RESPONSE_TOKENS), dtype=np.float32)
    turns = tuple(
        Turn(
            prompt_ids=ids[k, :PROMPT_TOKENS].copy(),
            response_ids=ids[k, PROMPT_TOKENS:].copy(),
            behaviour_log_probs=log_probs[k].copy(),
            observation=f"{k:06}" + "o" * (CHARACTERS_PER_TOKEN * PROMPT_TOKENS),
            response=f"{k:06}" + "r" * (CHARACTERS_PER_TOKEN * RESPONSE_TOKENS),
            action="go to shelf 1",
            is_action_valid=True,
            reward=float(k == TURNS - 1 and request.rollout % 2),
            finish_reason="stop",
            weights_version=version,
        )
        for k in range(TURNS)
    )
    return AgentEpisode(
        task_id=request.task_id,
        task_type="pick",
        group=request.group,
        rollout=request.rollout,
        seed=request.seed,
        context="append",
        status=Status.SUCCESS if request.rollout % 2 else Status.FAILURE,
        won=bool(request.rollout % 2),
        turns=turns,
    )
