"""RLlib's callbacks, fired where RLlib documents them, with errors that name the callback."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils import force_list

from stepopsd_rllib.episodes import AgentEpisode, to_rllib
from stepopsd_rllib.rollout.env_calls import EnvReply, error_text

if TYPE_CHECKING:
    from stepopsd_envs.text_env import TextEnv

EPISODE_CALLBACKS = (
    "on_episode_created",
    "on_episode_start",
    "on_episode_step",
    "on_episode_end",
)


class CallbackError(RuntimeError):
    """A callback raised: a fault of the code that was given to `config.callbacks(...)`."""


def fire(name: str, objects: Iterable[RLlibCallback], functions: Any, **arguments: Any) -> None:
    """Calls a callback of every object, then every function, in their order.

    Args:
        name: Name of the callback, such as "on_episode_end".
        objects: Instances of the callback classes.
        functions: A callable, a list of them, or None.
        arguments: The keywords that RLlib documents for this callback.

    Raises:
        CallbackError: One raised; the message has its name and its traceback.
    """
    named: list[tuple[str, Callable[..., Any]]] = [
        (f"{type(callback).__name__}.{name}", getattr(callback, name)) for callback in objects
    ]
    for function in force_list(functions):
        named.append((f"{name}={getattr(function, '__name__', repr(function))}", function))
    for owner, call in named:
        try:
            call(**arguments)
        except Exception as error:
            raise CallbackError(
                f"config.callbacks: {owner} raised {error_text(error)}\n{traceback.format_exc()}"
            ) from error


class RunnerCallbacks:
    """The callbacks of one env runner, and the episodes that they see grow.

    An episode that breaks (a status that is no outcome of the policy) has no `on_episode_end`, as
    in RLlib, where an environment that fails takes its episode with it.

    Args:
        env_runner: The runner.
    """

    def __init__(self, env_runner: Any):
        self._runner = env_runner
        self._config = env_runner.config
        self._objects = [cls() for cls in force_list(self._config.callbacks_class)]
        self._growing: dict[tuple[int, int], SingleAgentEpisode] = {}
        self._finished: dict[tuple[int, int], SingleAgentEpisode] = {}
        self.sees_episodes = any(map(self._is_wanted, EPISODE_CALLBACKS))
        self.may_log = self.sees_episodes or any(
            map(self._is_wanted, ("on_sample_end", "on_environment_created"))
        )

    def environment_created(self, env: TextEnv) -> None:
        """Fires `on_environment_created`."""
        context = EnvContext(
            self._config.env_config,
            worker_index=self._runner.worker_index or 0,
            num_workers=self._runner.num_workers or 0,
        )
        self._fire("on_environment_created", env=env, env_context=context)

    def episode_created(self, place: tuple[int, int], env: TextEnv, env_index: int) -> None:
        """Fires `on_episode_created`, before the reset."""
        if not self.sees_episodes:
            return
        self._growing[place] = SingleAgentEpisode(
            observation_space=env.observation_space, action_space=env.action_space
        )
        self._fire_episode("on_episode_created", place, env, env_index)

    def episode_started(
        self, place: tuple[int, int], env: TextEnv, env_index: int, reply: EnvReply
    ) -> None:
        """Fires `on_episode_start`, after the reset."""
        if not self.sees_episodes:
            return
        self._growing[place].add_env_reset(observation=reply.observation, infos=dict(reply.info))
        self._fire_episode("on_episode_start", place, env, env_index)

    def episode_stepped(
        self, place: tuple[int, int], env: TextEnv, env_index: int, response: str, reply: EnvReply
    ) -> None:
        """Fires `on_episode_step`, after a turn."""
        if not self.sees_episodes:
            return
        self._growing[place].add_env_step(
            observation=reply.observation,
            action=response,
            reward=reply.reward,
            infos=dict(reply.info),
            terminated=reply.terminated,
            truncated=reply.truncated and not reply.terminated,
        )
        self._fire_episode("on_episode_step", place, env, env_index)

    def episode_ended(self, episode: AgentEpisode, env: TextEnv | None, env_index: int) -> None:
        """Fires `on_episode_end` with the episode that the learner will get."""
        place = episode.group, episode.rollout
        seen = self._growing.pop(place, None)
        if seen is None or env is None or not episode.status.is_outcome:
            return
        finished = to_rllib(episode, infos=list(seen.get_infos()))
        finished.id_ = seen.id_
        ours = dict(finished.custom_data)
        finished.custom_data.update(seen.custom_data)
        finished.custom_data.update(ours)
        self._growing[place] = self._finished[place] = finished
        self._fire_episode("on_episode_end", place, env, env_index, prev_episode_chunks=[])
        del self._growing[place]

    def samples(self, episodes: Iterable[AgentEpisode]) -> list[SingleAgentEpisode]:
        """RLlib's view of the episodes, those that callbacks saw as they left them.

        Fires `on_sample_end`, which may change the list's episodes.
        """
        samples = []
        for episode in episodes:
            made = to_rllib(episode)
            seen = self._finished.pop((episode.group, episode.rollout), None)
            if seen is not None:
                seen.custom_data["reply"] = made.custom_data["reply"]
            samples.append(made if seen is None else seen)
        self._growing.clear()
        self._finished.clear()
        self._fire("on_sample_end", samples=samples)
        return samples

    def _fire_episode(
        self, name: str, place: tuple[int, int], env: TextEnv, env_index: int, **more: Any
    ) -> None:
        self._fire(
            name,
            episode=self._growing[place],
            env=env,
            env_index=env_index,
            rl_module=None,
            **more,
        )

    def _fire(self, name: str, **arguments: Any) -> None:
        functions = getattr(self._config, f"callbacks_{name}")
        fire(
            name,
            self._objects,
            functions,
            env_runner=self._runner,
            metrics_logger=self._runner.metrics,
            **arguments,
        )

    def _is_wanted(self, name: str) -> bool:
        return bool(force_list(getattr(self._config, f"callbacks_{name}"))) or any(
            getattr(type(callback), name) is not getattr(RLlibCallback, name)
            for callback in self._objects
        )
