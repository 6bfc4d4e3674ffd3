"""What can be known of a run's tasks before an engine starts: there are some, and they fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from stepopsd_rllib.rollout import env_calls
from stepopsd_rllib.rollout.env_calls import EnvReply
from stepopsd_rllib.rollout.env_threads import within
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest, messages
from stepopsd_rllib.training.runner_calls import RolloutError

logger = logging.getLogger(__name__)

TASKS_TRIED = 8  # for one whose first prompt can be measured before anything heavy starts


def tasks_of(env: Any, split: str) -> tuple[str, ...]:
    """The ids of a split's tasks.

    Raises:
        ValueError: There are none, or the environment refuses the split.
        RolloutError: The environment raised something else.
    """
    try:
        tasks = env.tasks(split)
    except ValueError:  # a refusal, for the user
        raise
    except BaseException as error:  # SystemExit too: an environment does not end the run in silence
        name = type(env).__name__
        raise RolloutError(f"{name}.tasks({split!r}): {env_calls.error_text(error)}.") from error
    if not tasks:
        raise ValueError(
            f"config.env_config: split {split!r} has no tasks. Choose another split or other data."
        )
    return tuple(tasks)


def check_first_prompt(config: Any, env: Any, tasks: Sequence[str]) -> None:
    """Refuses what the method cannot use, and a budget below a first prompt or question.

    Args:
        config: An `AgentConfig`.
        env: One of its environments; it is reset.
        tasks: Tasks of which the first that can be reset is measured.

    Raises:
        ValueError: The prompt is as long as the budget, with the length that would do; or the
            environment does not give what the method needs.
        RolloutError: None of the tasks can be reset.
    """
    task, reply = _first_reply(config, env, tasks)
    config.check_first_task(reply.info)
    preamble = config.rollout_settings(explore=True).preamble
    text = reply.message
    if preamble is not None:
        request = EpisodeRequest(task_id=task, group=0, rollout=0, seed=0)
        text = preamble(request, reply.info, reply.observation) + text
    chat = config.chat_format()
    length = len(chat.first_prompt(messages(reply, text)))
    if length >= config.max_context_tokens:
        raise ValueError(
            f"config.max_context_tokens={config.max_context_tokens}: the first prompt of "
            f"task {task!r} has {length} tokens. Raise it to "
            f"{length + config.max_response_tokens} or more."
        )
    analysis = config.policy_analysis()
    if analysis is not None:
        analysis.require_room(reply.observation, chat)


def _first_reply(config: Any, env: Any, tasks: Sequence[str]) -> tuple[str, EnvReply]:
    """The first of some tasks that can be reset, and what the environment says of it."""
    errors: list[Exception] = []
    for task in tasks:
        env = config.make_env() if errors else env
        try:
            call = partial(env_calls.reset, env, task_id=task, seed=0)
            return task, within(config.env_deadline_s(), call)
        except Exception as error:  # The episode boundary: one broken task costs itself alone.
            logger.warning("Task %r cannot be reset.", task, exc_info=True)
            errors.append(error)
    raise RolloutError(
        f"config.env={config.env!r}: none of its first {len(tasks)} tasks can be reset. "
        f"Task {tasks[0]!r}: {env_calls.error_text(errors[0])}."
    ) from errors[0]
