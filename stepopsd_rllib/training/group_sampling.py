"""Groups of episodes from env runners: each on one runner; lost ones are sampled again."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from stepopsd_rllib.rollout.runner_failure import RunnerFailure
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

logger = logging.getLogger(__name__)

Groups = dict[int, list[SingleAgentEpisode]]

_MAX_ATTEMPTS = 3


class RolloutError(RuntimeError):
    """Sampling failed for a reason that trying again cannot mend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _StaleRunner:
    """The answer of a runner that has other weights than the ones to sample with."""

    index: int


@dataclass(slots=True)
class _Answers:
    """What came back from the runners: whole groups, and runners on other weights."""

    groups: Groups = field(default_factory=dict)
    stale: list[int] = field(default_factory=list)


def sample_groups(
    env_runner_group: EnvRunnerGroup,
    groups: dict[int, list[EpisodeRequest]],
    *,
    explore: bool,
    version: int,
    timeout_s: float,
    restore_runners: Callable[[Sequence[int]], Any],
) -> tuple[Groups, int]:
    """Plays groups of episodes, each group on one runner.

    Args:
        env_runner_group: Where to sample: its remote runners, or the local one where there are
            none.
        groups: Requests by group number.
        explore: Training temperature, or that of evaluation.
        version: Weights to sample with; a remote runner on others samples nothing.
        timeout_s: Seconds to wait for the slowest runner.
        restore_runners: Brings dead runners back, with verified weights, and syncs those whose
            numbers it is given; called when groups were lost.

    Returns:
        Finished groups by number, and the number of groups that were lost with a runner and sampled
        again.

    Raises:
        RolloutError: A runner raised (its message is passed on), or runners kept dying.
        ValueError: What a runner raised was a refusal of bad input.
    """
    done: Groups = {}
    num_lost = 0
    stale: list[int] = []
    for attempt in range(_MAX_ATTEMPTS):
        missing = {number: requests for number, requests in groups.items() if number not in done}
        if not missing:
            break
        if attempt:
            num_lost += len(missing)
            logger.warning("%d groups were lost with a runner and are sampled again.", len(missing))
            restore_runners(stale)
        answers = _sample_once(
            env_runner_group, missing, explore=explore, version=version, timeout_s=timeout_s
        )
        done |= answers.groups
        stale = answers.stale
    if len(done) < len(groups):
        raise RolloutError(
            f"{len(groups) - len(done)} of {len(groups)} groups did not come back in "
            f"{_MAX_ATTEMPTS} attempts: runners die or need more than {timeout_s:.0f} s. Read the "
            "runner's log in the Ray session folder; raise config.sample_timeout_s if rollouts are "
            "just long."
        )
    return done, num_lost


def _sample_once(
    env_runner_group: EnvRunnerGroup,
    groups: dict[int, list[EpisodeRequest]],
    *,
    explore: bool,
    version: int,
    timeout_s: float,
) -> _Answers:
    if env_runner_group.num_remote_env_runners() == 0:
        requests = [request for requests in groups.values() for request in requests]
        runner: Any = env_runner_group.local_env_runner
        return _Answers(_by_group(runner.sample(requests=requests, explore=explore)))
    shares = _shares(env_runner_group.healthy_env_runner_ids(), groups)
    if not shares:
        return _Answers()
    received = env_runner_group.foreach_env_runner(
        [_sampling_call(share, explore=explore, version=version) for share in shares.values()],
        local_env_runner=False,
        remote_worker_ids=list(shares),
        timeout_seconds=timeout_s,
    )
    answers = _Answers()
    for answer in received:
        if isinstance(answer, RunnerFailure):
            answer.raise_here(RolloutError)
        elif isinstance(answer, _StaleRunner):
            answers.stale.append(answer.index)
        else:
            answers.groups |= _by_group(answer)
    return answers


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
) -> Callable[[Any], list[SingleAgentEpisode] | RunnerFailure | _StaleRunner]:
    def call(runner: Any) -> list[SingleAgentEpisode] | RunnerFailure | _StaleRunner:
        # Ray may have restarted the runner since the last sync; it then holds the initial model.
        if runner.weights_version != version:
            return _StaleRunner(index=runner.worker_index)
        try:
            return runner.sample(requests=requests, explore=explore)
        except Exception as error:
            logger.exception("Sampling failed")
            return RunnerFailure.of(error, runner.worker_index)

    return call


def _by_group(episodes: Sequence[SingleAgentEpisode]) -> Groups:
    groups: Groups = defaultdict(list)
    for episode in episodes:
        groups[episode.custom_data["group"]].append(episode)
    return dict(groups)
