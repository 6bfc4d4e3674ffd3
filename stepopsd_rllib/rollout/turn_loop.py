"""Drives text environments through a sampler into episodes, without a turn barrier.

An episode advances the moment its own turn is done: environments step in threads while the sampler
decodes the responses of the others. Nothing that an episode sees depends on which others run beside
it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from stepopsd_envs.text_env import HistoryTurn, TextEnv

from stepopsd_rllib.episodes import AgentEpisode, Status, Turn
from stepopsd_rllib.episodes.agent_episode import ContextPolicy
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.sampling.sampler import Sampler, SampleRequest, SampleResult, SamplerRefusal


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
        temperature: Of the sampling distribution; 0 is greedy.
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
    env: TextEnv
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


@dataclass(frozen=True, slots=True)
class _Reply:
    """What an environment answered: to a reset (no reward), to a response, or with an error."""

    observation: str = ""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None


class TurnLoop:
    """Samples episodes with one sampler and a pool of environments.

    Args:
        make_env: Makes one more environment; called until `max_concurrent` exist.
        sampler: Serves the responses.
        chat: Chat format of the sampler's model.
        max_concurrent: Most episodes in progress at once.
    """

    def __init__(
        self,
        *,
        make_env: Callable[[], TextEnv],
        sampler: Sampler,
        chat: ChatFormat,
        max_concurrent: int,
    ):
        """Makes the first environment; the others follow when they are needed."""
        self._make_env = make_env
        self._sampler = sampler
        self._chat = chat
        self._max_concurrent = max_concurrent
        self._idle_envs: list[TextEnv] = [make_env()]
        self._num_envs = 1
        # An environment that is not thread-safe is stepped from one thread, all its copies
        # included.
        workers = min(max_concurrent, 32) if self._idle_envs[0].thread_safe else 1
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="env")

    def run(
        self, requests: Sequence[EpisodeRequest], settings: RolloutSettings
    ) -> Iterator[AgentEpisode]:
        """Yields the episode of every request, in order of completion."""
        waiting = deque(requests)
        running: dict[str, _Running] = {}
        replies: SimpleQueue[tuple[str, _Reply]] = SimpleQueue()
        in_envs = 0
        while waiting or running:
            while waiting and (env := self._take_env()) is not None:
                request = waiting.popleft()
                key = f"{request.group}.{request.rollout}"
                running[key] = _Running(request=request, env=env)
                self._in_thread(replies, key, _reset, env, request)
                in_envs += 1
            # Wait for an environment only when the sampler has nothing to decode meanwhile.
            for key, reply in _drain(replies, block=in_envs > 0 and self._sampler.is_idle()):
                in_envs -= 1
                episode = self._receive(running[key], reply, settings)
                if episode is None:
                    episode = self._submit(key, running[key], settings)
                if episode is not None:
                    self._give_back(
                        running.pop(key).env, broken=episode.status is Status.ENVIRONMENT_ERROR
                    )
                    yield episode
            if self._sampler.is_idle():
                continue
            for result in self._sampler.step():
                state = running[result.request_id]
                state.sampled = result
                state.response = self._chat.text(result.token_ids.tolist())
                self._in_thread(replies, result.request_id, _step, state.env, state.response)
                in_envs += 1

    def close(self) -> None:
        """Closes environments and threads."""
        self._executor.shutdown(wait=True)
        for env in self._idle_envs:
            env.close()
        self._idle_envs.clear()

    def _take_env(self) -> TextEnv | None:
        if self._idle_envs:
            return self._idle_envs.pop()
        if self._num_envs < self._max_concurrent:
            self._num_envs += 1
            return self._make_env()
        return None

    def _give_back(self, env: TextEnv, *, broken: bool) -> None:
        """Keeps an environment for the next episode; one that raised is not trusted again."""
        if broken:
            self._num_envs -= 1
            self._executor.submit(env.close)  # whatever that raises stays in the unread future
        else:
            self._idle_envs.append(env)

    def _in_thread(
        self,
        replies: SimpleQueue[tuple[str, _Reply]],
        key: str,
        call: Callable[..., _Reply],
        *arguments: Any,
    ) -> None:
        def work() -> None:
            try:
                reply = call(*arguments)
            except (
                Exception
            ) as error:  # The episode boundary: a broken environment costs its own episode only.
                reply = _Reply(error=error)
            replies.put((key, reply))

        self._executor.submit(work)

    def _receive(
        self, state: _Running, reply: _Reply, settings: RolloutSettings
    ) -> AgentEpisode | None:
        """Records the reply as a turn; returns the episode if this was its end."""
        if reply.error is not None:
            error = f"{type(reply.error).__name__}: {reply.error}"
            return self._finish(state, settings, Status.ENVIRONMENT_ERROR, reply, error=error)
        if state.sampled is not None:
            state.turns.append(self._turn(state, reply))
            state.history.append(
                HistoryTurn(
                    index=len(state.history),
                    observation=state.observation,
                    action=reply.info["action"],
                )
            )
        if reply.terminated:
            status = Status.SUCCESS if reply.info["won"] else Status.FAILURE
            return self._finish(state, settings, status, reply)
        if reply.info.get("tool_error"):
            return self._finish(
                state, settings, Status.TOOL_ERROR, reply, error=reply.info["tool_error"]
            )
        if reply.truncated:
            return self._finish(state, settings, Status.TURN_LIMIT, reply)
        self._next_prompt(state, reply, settings)
        if len(state.context_ids) < settings.max_context_tokens:
            return None
        if state.turns:
            return self._finish(state, settings, Status.CONTEXT_LIMIT, reply)
        error = (
            f"the first prompt has {len(state.context_ids)} tokens, so that "
            f"max_context_tokens={settings.max_context_tokens} leaves no room to answer"
        )
        return self._finish(state, settings, Status.ENVIRONMENT_ERROR, reply, error=error)

    def _turn(self, state: _Running, reply: _Reply) -> Turn:
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
            reward=float(reply.reward),
            finish_reason=sampled.finish_reason,
            weights_version=self._sampler.weights_version,
            anchor=state.anchor,
        )

    def _next_prompt(self, state: _Running, reply: _Reply, settings: RolloutSettings) -> None:
        """Sets the prompt of the next turn: what extends the chat, or a rebuilt conversation."""
        env, chat = state.env, self._chat
        if state.sampled is None:
            if settings.preamble is not None:
                state.preamble = settings.preamble(state.request, reply.info, reply.observation)
            message = env.first_message(reply.observation, reply.info)
            state.prompt_ids = chat.first_prompt(_messages(env, state.preamble + message))
            state.context_ids = list(state.prompt_ids)
        elif settings.context == "append":
            response_ids = state.sampled.token_ids.tolist()
            message = env.append_message(reply.observation, reply.info)
            state.prompt_ids = chat.continuation(
                message, response_ended=chat.closes_turn(response_ids)
            )
            state.context_ids += response_ids + state.prompt_ids
        else:
            history = state.history[-settings.window_turns :] if settings.window_turns else []
            message = env.window_message(history, reply.observation, reply.info)
            state.prompt_ids = chat.first_prompt(_messages(env, state.preamble + message))
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
            return self._finish(state, settings, Status.SAMPLER_ERROR, _Reply(), error=str(refusal))
        return None

    def _finish(
        self,
        state: _Running,
        settings: RolloutSettings,
        status: Status,
        reply: _Reply,
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
            turns=tuple(state.turns),
            final_observation=reply.observation,
            golden=state.golden,
            preamble=state.preamble,
            error=error,
        )


def _drain(
    replies: SimpleQueue[tuple[str, _Reply]], *, block: bool
) -> Iterator[tuple[str, _Reply]]:
    """Every reply that is there; with `block`, waits for the first."""
    while True:
        try:
            yield replies.get(block=block)
        except Empty:
            return
        block = False


def _reset(env: TextEnv, request: EpisodeRequest) -> _Reply:
    # The rollouts of a group start from one state: the environment's seed belongs to the group.
    observation, info = env.reset(seed=request.group, options={"task": request.task_id})
    return _Reply(observation=observation, info=info)


def _step(env: TextEnv, response: str) -> _Reply:
    observation, reward, terminated, truncated, info = env.step(response)
    return _Reply(observation, float(reward), terminated, truncated, info)


def _messages(env: TextEnv, user_message: str) -> list[dict[str, str]]:
    system = [{"role": "system", "content": env.system_prompt}] if env.system_prompt else []
    return [*system, {"role": "user", "content": user_message}]


def _turn_seed(episode_seed: int, turn: int) -> int:
    return int(np.random.SeedSequence([episode_seed, turn]).generate_state(1)[0])
