"""Learner weights to samplers: blocking, versioned, and checked.

RLlib's own `sync_weights` may drop an update while an earlier one is in flight, without an error.
Here every sampler answers with the version it has loaded, and an answer that is missing or wrong is
an error.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from torch import Tensor

from stepopsd_rllib.rollout.runner_failure import RunnerFailure
from stepopsd_rllib.sampling.shared_weights import SharedWeights
from stepopsd_rllib.training.learner_calls import ask_learners

logger = logging.getLogger(__name__)


class WeightSyncError(RuntimeError):
    """A sampler does not have the weights it should have."""


def sync_weights(
    learner_group: Any,
    env_runner_group: Any,
    *,
    version: int,
    runner_ids: Sequence[int] | None = None,
    timeout_s: float,
    dtype: str = "float32",
    shares_gpu: bool = False,
) -> dict[int, str]:
    """Loads the learners' weights into samplers and waits for all of them.

    Args:
        learner_group: RLlib's `LearnerGroup`, the source; all learners hold the same weights, the
            first one gives them.
        env_runner_group: RLlib's `EnvRunnerGroup`, the targets: its remote runners, or the local
            one where there are no remote ones.
        version: Number of the weights, checked in every answer.
        runner_ids: Only these remote runners; all healthy ones by default.
        timeout_s: Seconds to wait for the slowest runner.
        dtype: Arithmetic of the samplers; weights are rounded to it before they travel.
        shares_gpu: Whether remote runners and learners are on the same GPUs: a runner then reads
            the weights of the learner on its own, and only those that find none get them sent.

    Returns:
        Runner number -> name of its sampler (another one after every start), for those that loaded
        the weights. Runners that died meanwhile, or hung and are restarted, are left out: they get
        their weights when they are restored.

    Raises:
        WeightSyncError: A runner raised (what it said is passed on) or has other weights now, or
            no runner that is alive is left that answers.
        ValueError: What it raised was a refusal of bad input.
    """
    if env_runner_group.num_remote_env_runners() == 0:
        weights = learner_weights(learner_group, as_reference=False, dtype=dtype)
        runner = env_runner_group.local_env_runner
        loaded = [(0, runner.load_weights(weights, version), runner.sampler_name)]
        expected = alive = {0}
    else:
        ask = functools.partial(_ask_runners, env_runner_group, timeout_s=timeout_s)
        loaded = _hand_over(
            learner_group, ask, version, runner_ids, dtype=dtype, shares_gpu=shares_gpu
        )
        alive = set(env_runner_group.healthy_env_runner_ids())
        expected = alive if runner_ids is None else alive & set(runner_ids)
    wrong = {index: got for index, got, _ in loaded if got != version}
    silent = sorted(expected - {index for index, _, _ in loaded})
    if wrong or (silent and alive <= set(silent)):
        raise WeightSyncError(
            f"Weights of version {version}: runners {silent} did not answer within "
            f"{timeout_s:.0f} s, runners {wrong} answered with another version. Raise "
            "config.weight_sync_timeout_s if the model is large."
        )
    if silent:
        logger.error("Runners %s took no weights in %.0f s and are restarted.", silent, timeout_s)
        restart_runners(env_runner_group, silent)
    return {index: name for index, _, name in loaded}


def _hand_over(
    learner_group: Any,
    ask: Callable[[Callable[[Any], Any], Sequence[int] | None], list[Any]],
    version: int,
    runner_ids: Sequence[int] | None,
    *,
    dtype: str,
    shares_gpu: bool,
) -> list[tuple[int, int | None, str]]:
    """Remote runners' answers: those that find the weights on their GPU read them, others wait."""
    loaded = []
    if shares_gpu and (shared := _shared_weights(learner_group)):
        answers = ask(_sharing_call(shared, version), runner_ids)
        loaded = [answer for answer in answers if answer[1] is not None]
        runner_ids = [index for index, got, _ in answers if got is None]
        logger.info("Weights %d: %d runners read them on their GPU.", version, len(loaded))
    if runner_ids is None or runner_ids:
        reference = learner_weights(learner_group, as_reference=True, dtype=dtype)
        loaded += ask(_loading_call(reference, version), runner_ids)
    return loaded


def restart_runners(env_runner_group: Any, indices: Sequence[int]) -> None:
    """Ends remote runners that hang; Ray starts others in their place, without weights.

    Args:
        env_runner_group: RLlib's `EnvRunnerGroup`.
        indices: Numbers of the runners.
    """
    manager = env_runner_group._worker_manager
    for index in indices:
        logger.warning("Env runner %d hangs and is restarted.", index)
        ray.kill(manager.actors()[index], no_restart=False)
        manager.set_actor_state(index, healthy=False)


def _ask_runners(
    env_runner_group: Any,
    call: Callable[[Any], Any],
    ids: Sequence[int] | None,
    *,
    timeout_s: float,
) -> list[Any]:
    """Answers of remote runners, all healthy ones by default; raises what one of them raised."""
    answers = env_runner_group.foreach_env_runner(
        call,
        local_env_runner=False,
        remote_worker_ids=list(ids) if ids is not None else None,
        timeout_seconds=timeout_s,
    )
    for _, answer, _ in answers:
        if isinstance(answer, RunnerFailure):
            answer.raise_here(WeightSyncError)
    return answers


def _shared_weights(learner_group: Any) -> list[SharedWeights]:
    """What learners share with processes on their GPUs; every one of them has all weights."""
    answers = ask_learners(learner_group, lambda learner: learner.share_weights())
    return [shared for shared in answers if shared is not None]


def _sharing_call(
    shared: Sequence[SharedWeights], version: int
) -> Callable[[Any], tuple[int, int | RunnerFailure | None, str]]:
    """A call as `_loading_call`'s; the version is None where the runner cannot read any of them."""

    def read(runner: Any) -> Mapping[str, Tensor] | None:
        own = next((weights for weights in shared if weights.is_here), None)
        try:
            return None if own is None else own.tensors()
        except RuntimeError as error:  # a container may forbid it
            logger.warning("Runner %d gets its weights sent: %s", runner.worker_index, error)
            return None

    return lambda runner: _load(runner, lambda: read(runner), version)


def _loading_call(
    reference: ray.ObjectRef, version: int
) -> Callable[[Any], tuple[int, int | RunnerFailure | None, str]]:
    """A call that loads weights into a runner: its number, its version, its sampler's name."""
    return lambda runner: _load(runner, lambda: ray.get(reference).tensors(), version)


def _load(
    runner: Any, read: Callable[[], Mapping[str, Tensor] | None], version: int
) -> tuple[int, int | RunnerFailure | None, str]:
    try:
        weights = read()
        version_now = None if weights is None else runner.load_weights(weights, version)
    except Exception as error:
        logger.exception("Loading weights failed")
        return runner.worker_index, RunnerFailure.of(error, runner.worker_index), ""
    return runner.worker_index, version_now, runner.sampler_name


def learner_weights(
    learner_group: Any, *, as_reference: bool, dtype: str, of: str = "sampler_weights"
) -> Any:
    """The first learner's weights, as a reference into the store or as tensors.

    Of a learner in this process they are its own, of another one those that it sent.

    Args:
        learner_group: RLlib's `LearnerGroup`.
        as_reference: Whether they go into the object store.
        dtype: What they are rounded to on their way there.
        of: Which weights: the learner's method that gives them.
    """
    if learner_group.is_local:
        learner = learner_group._learner
        return learner.send_weights(of, dtype)[0] if as_reference else getattr(learner, of)()
    # Sharded learners add their parts; of others the first has all.
    only = None if learner_group.config.shards_learners() else [0]
    answers = ask_learners(learner_group, lambda learner: learner.send_weights(of, dtype), only)
    (reference,) = [reference for answer in answers for reference in answer]
    if as_reference:
        return reference
    sent: Any = ray.get(reference)
    return sent.tensors()
