"""Whole groups from a group of env runners: whole groups stay on one runner, lost ones are sampled again."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from stepopsd_rllib.rollout.turn_loop import EpisodeRequest

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

logger = logging.getLogger(__name__)

Groups = dict[int, list[SingleAgentEpisode]]

_MAX_ATTEMPTS = 3


class RolloutError(RuntimeError):
    """Sampling failed for a reason that trying again cannot mend."""


def sample_groups(
    env_runner_group: EnvRunnerGroup,
    groups: dict[int, list[EpisodeRequest]],
    *,
    explore: bool,
    timeout_s: float,
    restore_runners: Callable[[], Any],
) -> tuple[Groups, int]:
    """Plays groups of episodes, each group on one runner.

    Args:
        env_runner_group: Where to sample: its remote runners, or the local one where there are none.
        groups: Requests by group number.
        explore: Training temperature, or that of evaluation.
        timeout_s: Seconds to wait for the slowest runner.
        restore_runners: Brings dead runners back, with verified weights; called when one was lost.

    Returns:
        Finished groups by number, and the number of groups that were lost with a runner and sampled again.

    Raises:
        RolloutError: A runner raised (its message is passed on), or runners kept dying.
    """
    done: Groups = {}
    num_lost = 0
    for _attempt in range(_MAX_ATTEMPTS):
        missing = {number: requests for number, requests in groups.items() if number not in done}
        if not missing:
            break
        if _attempt:
            num_lost += len(missing)
            logger.warning("%d groups were lost with a runner and are sampled again.", len(missing))
            restore_runners()
        done |= _sample_once(env_runner_group, missing, explore=explore, timeout_s=timeout_s)
    if len(done) < len(groups):
        raise RolloutError(
            f"{len(groups) - len(done)} of {len(groups)} groups did not come back in {_MAX_ATTEMPTS} attempts: runners die "
            f"or need more than {timeout_s:.0f} s. Read the runner's log in the Ray session folder; raise "
            "config.sample_timeout_s if rollouts are just long."
        )
    return done, num_lost


def _sample_once(
    env_runner_group: EnvRunnerGroup,
    groups: dict[int, list[EpisodeRequest]],
    *,
    explore: bool,
    timeout_s: float,
) -> Groups:
    if env_runner_group.num_remote_env_runners() == 0:
        requests = [request for requests in groups.values() for request in requests]
        return _by_group(
            env_runner_group.local_env_runner.sample(requests=requests, explore=explore)
        )
    runner_ids = env_runner_group.healthy_env_runner_ids()
    shares: list[list[EpisodeRequest]] = [[] for _ in runner_ids]
    for i, requests in enumerate(groups.values()):
        if shares:
            shares[i % len(shares)].extend(requests)
    used = [(runner, share) for runner, share in zip(runner_ids, shares, strict=True) if share]
    if not used:
        return {}
    answers = env_runner_group.foreach_env_runner(
        [_sampling_call(share, explore=explore) for _, share in used],
        local_env_runner=False,
        remote_worker_ids=[runner for runner, _ in used],
        timeout_seconds=timeout_s,
    )
    done: Groups = {}
    for answer in answers:
        if isinstance(answer, str):
            raise RolloutError(answer)
        done |= _by_group(answer)
    return done


def _sampling_call(requests: Sequence[EpisodeRequest], *, explore: bool) -> Callable[[Any], Any]:
    def call(runner: Any) -> list[SingleAgentEpisode] | str:
        # An exception would kill the runner and be swallowed by RLlib; as a text it reaches the user.
        try:
            return runner.sample(requests=requests, explore=explore)
        except Exception as error:
            logger.exception("Sampling failed")
            return f"Env runner {runner.worker_index}: {type(error).__name__}: {error}"

    return call


def _by_group(episodes: Sequence[SingleAgentEpisode]) -> Groups:
    groups: Groups = defaultdict(list)
    for episode in episodes:
        groups[episode.custom_data["group"]].append(episode)
    return dict(groups)
