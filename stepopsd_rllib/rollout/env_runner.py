"""The RLlib EnvRunner that plays text environments with a sampler in its own process."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from stepopsd_envs.text_env import TextEnv

from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.rollout.callbacks import RunnerCallbacks
from stepopsd_rllib.rollout.env_calls import EnvTimeout
from stepopsd_rllib.rollout.env_threads import within
from stepopsd_rllib.rollout.policy_analysis import with_replies
from stepopsd_rllib.rollout.sampler_watch import SamplerFailure, WatchedSampler, watched
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest, TurnLoop
from stepopsd_rllib.sampling.sampler import NO_VERSION

if TYPE_CHECKING:
    from stepopsd_rllib.algorithms.grpo import GRPOConfig
    from stepopsd_rllib.prompts.chat import ChatFormat


class TextEnvRunner(EnvRunner, Checkpointable):
    """Samples whole episodes of requested tasks; one environment step of an episode is one turn.

    The local runner of an algorithm that has remote ones holds an environment (for task lists) but
    no sampler. Weights arrive through `load_weights` alone, blocking and with a version;
    `set_state` never carries any.
    """

    def __init__(self, *, config: GRPOConfig, **kwargs: Any):
        """Makes an environment; the sampler is started by the first call that needs it."""
        super().__init__(config=config, **kwargs)
        self.config: Any  # a GRPOConfig, as a mutable copy
        self.module = None
        self._callbacks = RunnerCallbacks(self)
        self.env: TextEnv = self.config.make_env()
        self._callbacks.environment_created(self.env)
        self._sampler: WatchedSampler | None = None
        self._chat: ChatFormat | None = None
        self._loop: TurnLoop | None = None
        self.sampler_name = ""
        self._held: dict[int, list[SingleAgentEpisode]] = {}

    @override(EnvRunner)
    def sample(
        self,
        *,
        requests: Sequence[EpisodeRequest] | None = None,
        num_episodes: int | None = None,
        explore: bool = True,
        **kwargs: Any,
    ) -> list[SingleAgentEpisode]:
        """Plays the requested episodes to their end.

        Args:
            requests: What to play. Without it, `num_episodes` seeded training tasks are drawn.
            num_episodes: Number of episodes when there are no requests; default one group.
            explore: Sample as in training; False uses the evaluation temperature.
            kwargs: Ignored (RLlib passes more).

        Returns:
            One episode a request, errors included, in the order of the requests. Training episodes
            come with the policy's replies where the algorithm has questions about them.

        Raises:
            SamplerFailure: The sampler raised, hung or got nowhere. It is gone; the next call
                starts another, which holds no weights of the run.
        """
        del kwargs
        if requests is None:
            requests = self._draw_requests(num_episodes or self.config.group_size)
        self._started_loop()
        assert self._sampler is not None
        try:
            episodes = watched(
                partial(self._play, requests, explore=explore),
                self._sampler,
                step_timeout_s=self.config.sampler_timeout_s,
                timeout_s=self.config.sample_timeout_s,
            )
        except SamplerFailure as failure:
            self._drop_sampler(is_stuck=failure.is_stuck)
            raise
        return self._callbacks.samples(episodes)

    def hold(self, groups: Mapping[int, list[SingleAgentEpisode]]) -> None:
        """Keeps groups until they are handed over; those that were held before are dropped."""
        self._held = dict(groups)

    def hand_over(self, number: int) -> tuple[list[SingleAgentEpisode], int]:
        """The episodes of a held group, and its number, which answers for them.

        Raises:
            KeyError: This runner holds no such group: it is another process than the one that
                played it.
        """
        return self._held.pop(number), number

    def callback_metrics(self) -> Any:
        """What callbacks logged since the last call; None where no callback hears of episodes."""
        return self.metrics.reduce() if self._callbacks.may_log else None

    @property
    def weights_version(self) -> int:
        """Version of the sampler's weights; -1 before the first `load_weights`."""
        return NO_VERSION if self._sampler is None else self._sampler.weights_version

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> int:
        """Loads a complete set of weights into the sampler, blocking.

        Args:
            weights: By checkpoint name, wherever they are. They may be written again as soon as
                this returns, by another process too.
            version: Their number.

        Returns:
            The version that the sampler now says it has.
        """
        self._started_loop()
        assert self._sampler is not None
        self._sampler.load_weights(weights, version)
        if any(tensor.is_cuda for tensor in weights.values()):
            torch.cuda.synchronize()
        return self._sampler.weights_version

    def sleep(self) -> None:
        """Frees the GPU for the learner until the next `load_weights`."""
        if self._sampler is not None:
            self._sampler.sleep()

    def score(self, token_ids: Sequence[int]) -> Any:
        """The sampler's log-probs of given tokens, float32 [T-1], for verification."""
        self._started_loop()
        assert self._sampler is not None
        return self._sampler.score(token_ids)

    @override(EnvRunner)
    def assert_healthy(self) -> None:
        """Checks that the constructor went through."""
        assert self.env is not None

    @override(EnvRunner)
    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        """The text spaces of the environment."""
        spaces = (self.env.observation_space, self.env.action_space)
        return {
            INPUT_ENV_SPACES: spaces,
            INPUT_ENV_SINGLE_SPACES: spaces,
            DEFAULT_MODULE_ID: spaces,
        }

    @override(EnvRunner)
    def get_metrics(self) -> Any:
        """Metrics of this runner; episode metrics are computed where the episodes are gathered."""
        return self.metrics.reduce()

    @override(Checkpointable)
    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """No state: task order and seeds belong to the algorithm, weights to the learners."""
        del components, not_components, kwargs
        return {}

    @override(Checkpointable)
    def set_state(self, state: Any) -> None:
        """Ignores RLlib's unversioned weight updates; see `load_weights`."""
        del state

    @override(Checkpointable)
    def get_ctor_args_and_kwargs(self) -> tuple[tuple, dict[str, Any]]:
        """Arguments to make this runner again."""
        return (), {"config": self.config, "worker_index": self.worker_index}

    @override(Checkpointable)
    def get_checkpointable_components(self) -> list:
        """No components: a runner keeps nothing that a checkpoint needs."""
        return []

    @override(EnvRunner)
    def stop(self) -> None:
        """Closes environments and the sampler's engine."""
        self._drop_sampler(is_stuck=False)

    def _play(self, requests: Sequence[EpisodeRequest], *, explore: bool) -> list[AgentEpisode]:
        settings = self.config.rollout_settings(explore=explore)
        played = {(e.group, e.rollout): e for e in self._started_loop().run(requests, settings)}
        episodes = [played[request.group, request.rollout] for request in requests]
        analysis = self.config.policy_analysis() if explore else None
        if analysis is None:
            return episodes
        assert self._sampler is not None and self._chat is not None
        return with_replies(episodes, analysis, sampler=self._sampler, chat=self._chat)

    def _drop_sampler(self, *, is_stuck: bool) -> None:
        """Closes sampler and environments; what is stuck is left behind as it is."""
        loop, sampler = self._loop, self._sampler
        self._loop = self._sampler = None
        if is_stuck or loop is None or sampler is None:
            return
        loop.close()
        with suppress(EnvTimeout):
            within(self.config.sampler_timeout_s, sampler.close)

    def _started_loop(self) -> TurnLoop:
        if self._loop is None:
            self._sampler = sampler = WatchedSampler(self.config.make_sampler())
            self.sampler_name = uuid.uuid4().hex
            self._chat = chat = self.config.chat_format()
            self._loop = TurnLoop(
                make_env=self.config.make_env,
                sampler=sampler,
                chat=chat,
                max_concurrent=self.config.num_envs_per_env_runner,
                env_timeout_s=self.config.env_deadline_s(),
                callbacks=self._callbacks,
            )
        return self._loop

    def _draw_requests(self, count: int) -> list[EpisodeRequest]:
        rng = torch.Generator().manual_seed(self._seed or 0)
        tasks = self.env.tasks("train")
        task = tasks[int(torch.randint(len(tasks), (1,), generator=rng))]
        return [EpisodeRequest(task_id=task, group=0, rollout=i, seed=i) for i in range(count)]
