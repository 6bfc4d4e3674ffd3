"""Groups of episodes from env runners: each on one runner; lost ones are sampled again.

A group that comes back with no answer may itself be what ended its runner: an environment that ends
its process, or holds the interpreter's lock. So lost groups are played again one at a time, and one
that is lost alone too is given up by name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stepopsd_rllib.episodes import EpisodeSummary, Status
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from stepopsd_rllib.training.runner_calls import RolloutError, Round, sample_round
from stepopsd_rllib.training.sampled_group import Groups, SampledGroup

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

logger = logging.getLogger(__name__)

_MAX_ROUNDS = 3  # a group; more means that runners lose their weights as soon as they have them
LOST_WITH_RUNNER = "LostWithRunner: its runner or sampler ended twice while it played this task"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """Groups of episodes that were played to their end.

    Attributes:
        groups: Every group that was asked for. The episodes of one that was given up have the
            status `environment_error` and no turns.
        num_lost: Groups that were lost with a runner and sampled again.
        given_up: Tasks whose groups were lost twice, the second time alone.
        metrics: What callbacks logged on the runners.
    """

    groups: Groups
    num_lost: int = 0
    given_up: tuple[str, ...] = ()
    metrics: list[Any] = field(default_factory=list)


def sample_groups(
    env_runner_group: EnvRunnerGroup,
    groups: dict[int, list[EpisodeRequest]],
    *,
    explore: bool,
    version: Callable[[], int],
    timeout_s: float,
    max_given_up: int,
    restore_runners: Callable[[Round], Any],
) -> Sampled:
    """Plays groups of episodes, each group on one runner.

    Args:
        env_runner_group: Where to sample: its remote runners, or the local one where there are
            none.
        groups: Requests by group number.
        explore: Training temperature, or that of evaluation.
        version: Gives the weights to sample with, which may be newer once runners were restored; a
            runner on others samples nothing.
        timeout_s: Seconds to wait for the slowest runner.
        max_given_up: Groups that may be given up.
        restore_runners: Brings back the runners that a round lost, with verified weights.

    Raises:
        RolloutError: A runner raised (its message is passed on), no runner is left, or more groups
            were lost for good than may be.
        ValueError: What a runner raised was a refusal of bad input.
    """

    def ask(wanted: dict[int, list[EpisodeRequest]]) -> Round:
        return sample_round(
            env_runner_group, wanted, explore=explore, version=version(), timeout_s=timeout_s
        )

    found = ask(groups)
    done, metrics, given_up = found.groups, found.metrics, list[str]()
    waiting = [number for number in groups if number not in done]
    num_lost = len(waiting)
    for _ in range(_MAX_ROUNDS * len(groups)):
        if not waiting:
            break
        logger.warning(
            "%d groups were lost: each is sampled again alone. %s", len(waiting), _why(found)
        )
        restore_runners(found)
        num_runners = _num_runners(env_runner_group)
        if num_runners == 0:
            raise RolloutError(
                f"{len(waiting)} of {len(groups)} groups did not come back, and no env runner did "
                f"within config.env_runner_restore_timeout_s. {_why(found)}"
            )
        wave, waiting = waiting[:num_runners], waiting[num_runners:]
        found = ask({number: groups[number] for number in wave})
        metrics += found.metrics
        done |= found.groups
        waiting = [number for number in wave if number in found.unplayed] + waiting
        for number in [n for n in wave if n not in done and n not in found.unplayed]:
            given_up.append(groups[number][0].task_id)
            done[number] = _given_up(groups[number])
            logger.error("Task %r is given up: %s. %s", given_up[-1], LOST_WITH_RUNNER, _why(found))
        if len(given_up) > max_given_up:
            raise RolloutError(
                f"{len(given_up)} of {len(groups)} groups were lost twice, the second time alone "
                f"on their runner: of tasks {given_up[:3]}. {_why(found)} Read the runner's log in "
                f"the Ray session folder; raise config.sample_timeout_s={timeout_s:g} if rollouts "
                "are just long."
            )
    if waiting:
        raise RolloutError(f"{len(waiting)} of {len(groups)} groups found no runner. {_why(found)}")
    if found.stale or found.silent:
        restore_runners(found)
    return Sampled(groups=done, num_lost=num_lost, given_up=tuple(given_up), metrics=metrics)


def _why(found: Round) -> str:
    return " ".join(dict.fromkeys(found.reasons))


def _num_runners(env_runner_group: EnvRunnerGroup) -> int:
    if env_runner_group.num_remote_env_runners() == 0:
        return 1
    return len(env_runner_group.healthy_env_runner_ids())


def _given_up(requests: Sequence[EpisodeRequest]) -> SampledGroup:
    """A group in the place of one that took its runner with it."""
    summaries = [
        EpisodeSummary(
            task_id=request.task_id,
            task_type="",
            group=request.group,
            rollout=request.rollout,
            status=Status.ENVIRONMENT_ERROR,
            won=False,
            error=LOST_WITH_RUNNER,
        )
        for request in requests
    ]
    return SampledGroup(summaries=tuple(summaries), episodes=[])
