"""One round of sampling: every runner gets its share of the groups and answers once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayActorError

from stepopsd_rllib.rollout.runner_failure import RunnerFailure
from stepopsd_rllib.rollout.sampler_watch import SamplerFailure
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from stepopsd_rllib.training.sampled_group import Groups, SampledGroup, by_group, hand_over

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

logger = logging.getLogger(__name__)


class RolloutError(RuntimeError):
    """Sampling failed for a reason that trying again cannot mend."""


@dataclass(slots=True)
class Round:
    """What came back from the runners.

    Attributes:
        groups: Whole groups.
        metrics: What callbacks logged on the runners.
        stale: Runners that are alive, on other weights than the ones to sample with: Ray restarted
            them unseen, or their sampler was started again.
        silent: Runners that hang: no answer in time, or a sampler that cannot be closed.
        unplayed: Groups of runners that did not begin.
        reasons: What they said.
    """

    groups: Groups = field(default_factory=dict)
    metrics: list[Any] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    unplayed: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What one runner answered: groups, or why it has none."""

    index: int
    groups: Groups = field(default_factory=dict)
    metrics: Any = None
    failure: RunnerFailure | None = None
    reason: str = ""
    is_stuck: bool = False
    has_begun: bool = True


def sample_round(
    env_runner_group: EnvRunnerGroup,
    groups: dict[int, list[EpisodeRequest]],
    *,
    explore: bool,
    version: int,
    timeout_s: float,
) -> Round:
    """Asks every healthy runner, or the local one, for its share of the groups.

    Args:
        env_runner_group: The runners: the remote ones, or the local one where there are none.
        groups: Requests by group number.
        explore: Training temperature, or that of evaluation.
        version: Weights to sample with; a runner on others samples nothing.
        timeout_s: Seconds to wait for the slowest runner.

    Raises:
        RolloutError: A runner raised; its message is passed on.
        ValueError: What a runner raised was a refusal of bad input.
    """
    if env_runner_group.num_remote_env_runners() == 0:
        requests = [request for requests in groups.values() for request in requests]
        answer = _sample(env_runner_group.local_env_runner, requests, explore, version, holds=False)
        return _round([answer], {answer.index: requests})
    shares = _shares(env_runner_group.healthy_env_runner_ids(), groups)
    if not shares:
        return Round(reasons=["No env runner is alive."])
    answers = env_runner_group.foreach_env_runner(
        [_sampling_call(share, explore=explore, version=version) for share in shares.values()],
        local_env_runner=False,
        remote_worker_ids=list(shares),
        timeout_seconds=timeout_s,
    )
    found = _round(answers, shares)
    if explore:
        _take_over(found, answers, env_runner_group._worker_manager, timeout_s)
    alive = set(env_runner_group.healthy_env_runner_ids())
    silent = (set(shares) & alive) - {answer.index for answer in answers}
    found.silent += sorted(silent)
    found.reasons += [f"Env runner {i} did not answer in {timeout_s:g} s." for i in sorted(silent)]
    found.reasons += [f"Env runner {i} died." for i in sorted(set(shares) - alive)]
    return found


def _round(answers: Sequence[_Answer], shares: Mapping[int, Sequence[EpisodeRequest]]) -> Round:
    found = Round()
    for answer in answers:
        if not answer.has_begun:
            found.unplayed += sorted({request.group for request in shares[answer.index]})
        if answer.failure is not None:
            answer.failure.raise_here(RolloutError)
        if answer.reason:
            (found.silent if answer.is_stuck and answer.index else found.stale).append(answer.index)
            found.reasons.append(f"Env runner {answer.index}: {answer.reason}")
        found.groups |= answer.groups
        if answer.metrics is not None:
            found.metrics.append(answer.metrics)
    return found


def _shares(
    runner_ids: Sequence[int], groups: dict[int, list[EpisodeRequest]]
) -> dict[int, list[EpisodeRequest]]:
    """Requests by runner, groups dealt out in turn; runners without any are left out."""
    shares: dict[int, list[EpisodeRequest]] = defaultdict(list)
    if runner_ids:
        for i, requests in enumerate(groups.values()):
            shares[runner_ids[i % len(runner_ids)]].extend(requests)
    return dict(shares)


def _sampling_call(
    requests: Sequence[EpisodeRequest], *, explore: bool, version: int
) -> Callable[[Any], _Answer]:
    def call(runner: Any) -> _Answer:
        try:
            return _sample(runner, requests, explore, version, holds=True)
        except Exception as error:
            logger.exception("Sampling failed")
            failure = RunnerFailure.of(error, runner.worker_index)
            return _Answer(index=runner.worker_index, failure=failure)

    return call


def _take_over(found: Round, answers: Sequence[_Answer], manager: Any, timeout_s: float) -> None:
    """Puts references in the place of the episodes that runners hold; groups without are lost."""

    def failed(index: int, error: Exception | None) -> None:
        if error is None:
            found.silent.append(index)
            found.reasons.append(f"Env runner {index} did not hand its groups over.")
        elif isinstance(error, RayActorError):
            manager.set_actor_state(index, healthy=False)
            found.reasons.append(f"Env runner {index} died before its groups were in the store.")
        else:
            found.stale.append(index)  # Ray restarted it meanwhile: it holds no groups, nor weights
            found.reasons.append(f"Env runner {index} has no groups to hand over.")

    played = {answer.index: list(answer.groups) for answer in answers if answer.groups}
    references = hand_over(manager.actors(), played, timeout_s=timeout_s, failed=failed)
    found.groups = {
        number: replace(group, episodes=references[number])
        for number, group in found.groups.items()
        if number in references
    }


def _sample(
    runner: Any, requests: Sequence[EpisodeRequest], explore: bool, version: int, *, holds: bool
) -> _Answer:
    """Lets a runner play; a remote one keeps the episodes, those of an evaluation nobody needs."""
    index = runner.worker_index
    # Ray may have restarted the runner since the last sync; it then holds the initial model.
    if runner.weights_version != version:
        reason = f"it has no weights of version {version}."
        return _Answer(index=index, reason=reason, has_begun=False)
    try:
        episodes = runner.sample(requests=requests, explore=explore)
    except SamplerFailure as failure:
        logger.exception("The sampler failed")
        return _Answer(index=index, reason=str(failure), is_stuck=failure.is_stuck)
    groups = {number: SampledGroup.of(group) for number, group in by_group(episodes).items()}
    if holds and explore:
        runner.hold({number: group.episodes for number, group in groups.items()})
    if holds or not explore:
        groups = {number: replace(group, episodes=[]) for number, group in groups.items()}
    return _Answer(index=index, groups=groups, metrics=runner.callback_metrics())
