"""What can be known of a run's tasks before an engine starts: there are some, and they fit."""

from __future__ import annotations

from typing import Any

from stepopsd_rllib.rollout.turn_loop import EpisodeRequest


def tasks_of(env: Any, split: str) -> tuple[str, ...]:
    """The ids of a split's tasks.

    Raises:
        ValueError: There are none.
    """
    tasks = env.tasks(split)
    if not tasks:
        raise ValueError(
            f"config.env_config: split {split!r} has no tasks. Choose another split or other data."
        )
    return tasks


def check_first_prompt(config: Any, env: Any, task: str) -> None:
    """Refuses a context budget below a first prompt or question.

    Args:
        config: An `AgentConfig`.
        env: One of its environments; it is reset.
        task: Id of the task whose first prompt is measured.

    Raises:
        ValueError: The prompt is as long as the budget; with the length that would do.
    """
    observation, info = env.reset(seed=0, options={"task": task})
    system = [{"role": "system", "content": env.system_prompt}] if env.system_prompt else []
    preamble = config.rollout_settings(explore=True).preamble
    text = env.first_message(observation, info)
    if preamble is not None:
        request = EpisodeRequest(task_id=task, group=0, rollout=0, seed=0)
        text = preamble(request, info, observation) + text
    message = {"role": "user", "content": text}
    chat = config.chat_format()
    length = len(chat.first_prompt([*system, message]))
    if length >= config.max_context_tokens:
        raise ValueError(
            f"config.max_context_tokens={config.max_context_tokens}: the first prompt of "
            f"task {task!r} has {length} tokens. Raise it to "
            f"{length + config.max_response_tokens} or more."
        )
    analysis = config.policy_analysis()
    if analysis is not None:
        analysis.require_room(observation, chat)
