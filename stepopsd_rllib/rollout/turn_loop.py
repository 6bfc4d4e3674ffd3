"""Drives text environments through a sampler into episodes, without a turn barrier.

An episode advances the moment its own turn is done: environments step in threads while the sampler
decodes the responses of the others. Nothing that an episode sees depends on which others run beside
it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from stepopsd_envs.text_env import HistoryTurn, TextEnv

from stepopsd_rllib.episodes import AgentEpisode, Status, Turn
from stepopsd_rllib.episodes.agent_episode import ContextPolicy
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.rollout import env_calls
from stepopsd_rllib.rollout.callbacks import RunnerCallbacks
from stepopsd_rllib.rollout.env_calls import EnvReply, EnvTimeout, error_text
from stepopsd_rllib.rollout.env_threads import EnvThreads, within
from stepopsd_rllib.rollout.turn_end import turn_of
from stepopsd_rllib.sampling.sampler import Sampler, SampleRequest, SampleResult, SamplerRefusal

logger = logging.getLogger(__name__)

_BROKEN = Status.ENVIRONMENT_ERROR


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeRequest:
    """One episode to sample: its task, its group, its place there, the seed of its sampling."""

    task_id: str
    group: int
    rollout: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSettings:
    """How the agent reads and writes; lengths in tokens.

    Attributes:
        context: "append" or "window".
        window_turns: Past turns that a rebuilt prompt shows; used by "window" alone.
        max_response_tokens: Longest response of one turn.
        max_context_tokens: Longest prompt plus response.
        temperature: Temperature of the sampling distribution; 0 is greedy.
        top_p: Nucleus mass.
        preamble: Text in front of an episode's first message, and of every rebuilt one, from the
            request and from info and observation of the reset; None for none.
    """

    context: ContextPolicy
    window_turns: int
    max_response_tokens: int
    max_context_tokens: int
    temperature: float
    top_p: float
    preamble: Callable[[EpisodeRequest, Mapping[str, Any], str], str] | None = None


@dataclass(slots=True)
class _Running:
    """An episode in progress; everything but `turns` is about the turn that is being played."""

    request: EpisodeRequest
    env: TextEnv | None = None
    context_ids: list[int] = field(default_factory=list)
    prompt_ids: list[int] = field(default_factory=list)
    observation: str = ""
    anchor: str = ""
    task_type: str = ""
    golden: str = ""
    preamble: str = ""
    response: str = ""
    sampled: SampleResult | None = None
    history: list[HistoryTurn] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)


class TurnLoop:
    """Samples episodes with one sampler and a pool of environments.

    Args:
        make_env: Makes one more environment; called until `max_concurrent` exist.
        sampler: Serves the responses.
        chat: Chat format of the sampler's model.
        max_concurrent: Most episodes in progress at once.
        env_timeout_s: Seconds that an environment may take for a reset, a step or its start. The
            episode of one that takes longer ends with an error, and its thread is left behind.
        callbacks: Hears of environments and episodes; none by default.
    """

    def __init__(
        self,
        *,
        make_env: Callable[[], TextEnv],
        sampler: Sampler,
        chat: ChatFormat,
        max_concurrent: int,
        env_timeout_s: float = 120.0,
        callbacks: RunnerCallbacks | None = None,
    ):
        """Makes the first environment; the others follow when they are needed."""
        self._callbacks = callbacks
        self._make_env = make_env
        self._sampler = sampler
        self._chat = chat
        self._max_concurrent = max_concurrent
        self._env_timeout_s = env_timeout_s
        self._idle_envs: list[TextEnv] = []
        self._places: list[TextEnv | None] = []  # index of each environment, for callbacks
        self._keep(make_env())
        self._why_no_env = ""
        # An environment that is not thread-safe is stepped from one thread, all its copies
        # included.
        workers = min(max_concurrent, 32) if self._idle_envs[0].thread_safe else 1
        self._threads = EnvThreads(size=workers, timeout_s=env_timeout_s)

    def run(
        self, requests: Sequence[EpisodeRequest], settings: RolloutSettings
    ) -> Iterator[AgentEpisode]:
        """Yields the episode of every request, in order of completion."""
        waiting = deque(requests)
        running: dict[str, _Running] = {}
        while waiting or running:
            while waiting and (env := self._take_env()) is not None:
                self._begin(waiting.popleft(), env, running)
            if waiting and not running:
                fault = EnvReply(error=self._why_no_env)
                yield self._finish(_Running(request=waiting.popleft()), settings, _BROKEN, fault)
                continue
            # Wait for an environment only when the sampler has nothing to decode meanwhile.
            for key, reply in self._threads.replies(block=self._sampler.is_idle()):
                episode = self._advance(str(key), running[str(key)], reply, settings)
                if episode is not None:
                    self._end(running.pop(str(key)), episode, reply)
                    yield episode
            if self._sampler.is_idle():
                continue
            for result in self._sampler.step():
                state = running[result.request_id]
                episode = self._play(result, state, settings)
                if episode is not None:
                    self._end(running.pop(result.request_id), episode, EnvReply())
                    yield episode

    def close(self) -> None:
        """Closes environments and threads; what is stuck is left behind."""
        self._threads.close()
        for env in self._idle_envs:
            with suppress(Exception):  # the episodes are done: how it ends is its own affair
                within(self._env_timeout_s, env.close)
        self._idle_envs.clear()

    def _begin(self, request: EpisodeRequest, env: TextEnv, running: dict[str, _Running]) -> None:
        """Resets an environment to a task."""
        key = f"{request.group}.{request.rollout}"
        running[key] = _Running(request=request, env=env)
        if self._callbacks is not None:
            self._callbacks.episode_created(_place(request), env, self._index(env))
        # The rollouts of a group start from one state: the environment's seed is the group's.
        self._threads.call(
            key, partial(env_calls.reset, env, task_id=request.task_id, seed=request.group)
        )

    def _play(
        self, result: SampleResult, state: _Running, settings: RolloutSettings
    ) -> AgentEpisode | None:
        """Hands a response to its environment; the episode if the response is no sample."""
        if not np.isfinite(result.log_probs).all():
            error = "a sampled token has a log-prob that is NaN or infinite"
            return self._finish(state, settings, Status.SAMPLER_ERROR, EnvReply(), error=error)
        assert state.env is not None
        try:
            state.response, state.sampled = turn_of(
                state.env, self._chat, result, timeout_s=self._env_timeout_s
            )
        except Exception as error:  # the environment's: it costs its own episode
            fault = EnvReply(error=error_text(error), is_overdue=isinstance(error, EnvTimeout))
            return self._finish(state, settings, _BROKEN, fault)
        self._threads.call(
            result.request_id,
            partial(
                env_calls.step,
                state.env,
                state.response,
                context=settings.context,
                observation=state.observation,
                history=tuple(state.history),
                window_turns=settings.window_turns,
            ),
        )
        return None

    def _advance(
        self, key: str, state: _Running, reply: EnvReply, settings: RolloutSettings
    ) -> AgentEpisode | None:
        """Takes a reply and asks for the next response; the episode if this was its end."""
        episode = self._receive(state, reply, settings)
        if episode is None:
            episode = self._submit(key, state, settings)
        return episode

    def _take_env(self) -> TextEnv | None:
        """An idle environment, or one more; None where all are busy or no other can be made."""
        if self._idle_envs:
            return self._idle_envs.pop()
        if self._num_envs >= self._max_concurrent:
            return None
        try:
            env = within(self._env_timeout_s, self._make_env)
        except Exception as error:  # The episode boundary: fewer copies do the same work.
            self._why_no_env = f"{error_text(error)} (no environment could be made)"
            logger.warning("%s. %d go on.", self._why_no_env, self._num_envs)
            self._max_concurrent = max(1, self._num_envs)
            return None
        self._keep(env)
        return self._idle_envs.pop()

    def _keep(self, env: TextEnv) -> None:
        """Takes a new environment into the pool."""
        free = [i for i, other in enumerate(self._places) if other is None]
        if free:
            self._places[free[0]] = env
        else:
            self._places.append(env)
        self._idle_envs.append(env)
        if self._callbacks is not None:
            self._callbacks.environment_created(env)

    @property
    def _num_envs(self) -> int:
        return sum(env is not None for env in self._places)

    def _index(self, env: TextEnv) -> int:
        return next(i for i, other in enumerate(self._places) if other is env)

    def _end(self, state: _Running, episode: AgentEpisode, reply: EnvReply) -> None:
        """Keeps an environment for the next episode; one that raised is not trusted again."""
        env = state.env
        assert env is not None
        index = self._index(env)
        if episode.status is not _BROKEN:
            self._idle_envs.append(env)
        else:
            self._places[index] = None
        if self._callbacks is not None:
            self._callbacks.episode_ended(episode, env, index)
        if episode.status is _BROKEN and not reply.is_overdue:  # a thread is in it still
            self._threads.call(None, env.close)

    def _receive(
        self, state: _Running, reply: EnvReply, settings: RolloutSettings
    ) -> AgentEpisode | None:
        """Records the reply as a turn; returns the episode if this was its end."""
        if reply.error:
            return self._finish(state, settings, _BROKEN, reply)
        if state.sampled is not None:
            state.turns.append(self._turn(state, reply))
            state.history.append(
                HistoryTurn(
                    index=len(state.history),
                    observation=state.observation,
                    action=reply.info["action"],
                )
            )
        self._tell(state, reply)
        if reply.terminated:
            status = Status.SUCCESS if reply.info["won"] else Status.FAILURE
            return self._finish(state, settings, status, reply)
        if reply.info.get("tool_error"):
            return self._finish(
                state, settings, Status.TOOL_ERROR, reply, error=reply.info["tool_error"]
            )
        if reply.truncated:
            return self._finish(state, settings, Status.TURN_LIMIT, reply)
        try:
            self._next_prompt(state, reply, settings)
        except Exception as error:  # The episode boundary: a text that no prompt can be made of.
            fault = EnvReply(error=f"{error_text(error)} (no prompt could be made)")
            return self._finish(state, settings, _BROKEN, fault)
        if len(state.context_ids) < settings.max_context_tokens:
            return None
        if state.turns:
            return self._finish(state, settings, Status.CONTEXT_LIMIT, reply)
        error = (
            f"the first prompt has {len(state.context_ids)} tokens, so that "
            f"max_context_tokens={settings.max_context_tokens} leaves no room to answer"
        )
        return self._finish(state, settings, _BROKEN, reply, error=error)

    def _tell(self, state: _Running, reply: EnvReply) -> None:
        """Callbacks hear of a sound reset or turn."""
        if self._callbacks is None or state.env is None:
            return
        place, index = _place(state.request), self._index(state.env)
        if state.sampled is None:
            self._callbacks.episode_started(place, state.env, index, reply)
        else:
            self._callbacks.episode_stepped(place, state.env, index, state.response, reply)

    def _turn(self, state: _Running, reply: EnvReply) -> Turn:
        sampled = state.sampled
        assert sampled is not None
        return Turn(
            prompt_ids=np.asarray(state.prompt_ids, dtype=np.int32),
            response_ids=sampled.token_ids,
            behaviour_log_probs=sampled.log_probs,
            observation=state.observation,
            response=state.response,
            action=reply.info["action"],
            is_action_valid=reply.info["is_action_valid"],
            reward=reply.reward,
            finish_reason=sampled.finish_reason,
            weights_version=self._sampler.weights_version,
            anchor=state.anchor,
        )

    def _next_prompt(self, state: _Running, reply: EnvReply, settings: RolloutSettings) -> None:
        """Sets the prompt of the next turn: what extends the chat, or a rebuilt conversation."""
        chat = self._chat
        if state.sampled is not None and settings.context == "append":
            response_ids = state.sampled.token_ids.tolist()
            state.prompt_ids = chat.continuation(
                reply.message, response_ended=chat.closes_turn(response_ids)
            )
            state.context_ids += response_ids + state.prompt_ids
        else:
            if state.sampled is None and settings.preamble is not None:
                preamble = partial(settings.preamble, state.request, reply.info, reply.observation)
                state.preamble = within(self._env_timeout_s, preamble)
            state.prompt_ids = chat.first_prompt(messages(reply, state.preamble + reply.message))
            state.context_ids = list(state.prompt_ids)
        state.observation = reply.observation
        state.anchor = reply.info.get("anchor", "")
        state.task_type = reply.info["task_type"]
        state.golden = state.golden or reply.info.get("golden_rollout", "")

    def _submit(self, key: str, state: _Running, settings: RolloutSettings) -> AgentEpisode | None:
        room = settings.max_context_tokens - len(state.context_ids)
        request = SampleRequest(
            request_id=key,
            prompt_ids=state.context_ids,
            seed=_turn_seed(state.request.seed, len(state.turns)),
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=min(settings.max_response_tokens, room),
            stop_token_ids=self._chat.end_of_turn_ids,
        )
        try:
            self._sampler.submit(request)
        except SamplerRefusal as refusal:
            return self._finish(
                state, settings, Status.SAMPLER_ERROR, EnvReply(), error=str(refusal)
            )
        return None

    def _finish(
        self,
        state: _Running,
        settings: RolloutSettings,
        status: Status,
        reply: EnvReply,
        *,
        error: str = "",
    ) -> AgentEpisode:
        return AgentEpisode(
            task_id=state.request.task_id,
            task_type=state.task_type or reply.info.get("task_type", ""),
            group=state.request.group,
            rollout=state.request.rollout,
            seed=state.request.seed,
            context=settings.context,
            status=status,
            won=status is Status.SUCCESS,
            task_score=reply.info.get("task_score"),
            turns=tuple(state.turns),
            final_observation=reply.observation,
            final_anchor=reply.info.get("anchor", ""),
            golden=state.golden,
            preamble=state.preamble,
            error=error or reply.error,
        )


def _place(request: EpisodeRequest) -> tuple[int, int]:
    return request.group, request.rollout


def messages(reply: EnvReply, user_message: str) -> list[dict[str, str]]:
    """The conversation before a first response: the system message, if any, and the user's."""
    system = [{"role": "system", "content": reply.system_prompt}] if reply.system_prompt else []
    return [*system, {"role": "user", "content": user_message}]


def _turn_seed(episode_seed: int, turn: int) -> int:
    return int(np.random.SeedSequence([episode_seed, turn]).generate_state(1)[0])
