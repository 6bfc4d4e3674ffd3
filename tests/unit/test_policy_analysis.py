"""Env runners that ask the policy about the episodes it has just played."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from stepopsd_rllib import ALGORITHMS
from stepopsd_rllib.environments import make_text_env
from stepopsd_rllib.episodes import AgentEpisode, Status, from_rllib
from stepopsd_rllib.rollout.env_runner import TextEnvRunner
from stepopsd_rllib.rollout.policy_analysis import with_replies
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from stepopsd_rllib.sampling.transformers_sampler import TransformersSampler
from tests.helpers.agents import random_groups, same_records, small_config
from tests.helpers.houses import BARE
from tests.helpers.methods import SHARED

TASKS = make_text_env("stepopsd/ALFWorld-v0", BARE).tasks("train")
REQUESTS = [
    EpisodeRequest(task_id=TASKS[g], group=g, rollout=i, seed=7 * g + i)
    for g in (0, 1)
    for i in (0, 1)
]
NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]


def config_of(name: str, sampler: str = "transformers", **analyzer):
    config = ALGORITHMS[name].get_default_config()
    shared = small_config(sampler=sampler).to_dict()
    config.update_from_dict({k: v for k, v in shared.items() if k in SHARED})
    if name != "GRPO":
        config.analyzer = {"engine": "policy", "max_completion_tokens": 10, **analyzer}
    config.validate()
    return config


def sampled(runner: TextEnvRunner, requests=REQUESTS, **options) -> list[AgentEpisode]:
    return [from_rllib(episode) for episode in runner.sample(requests=requests, **options)]


@pytest.mark.parametrize("sampler", ["transformers", pytest.param("vllm", marks=NEEDS_VLLM)])
def test_training_episodes_come_with_replies(sampler):
    runner = TextEnvRunner(config=config_of("OPID", sampler), worker_index=0)
    episodes = sampled(runner)
    again = sampled(runner)
    part = sampled(runner, REQUESTS[1:3])
    evaluated = sampled(runner, explore=False)
    runner.stop()
    for episode in episodes:
        reply = episode.reply
        assert reply is not None and reply.failure == "" and reply.requests == 2
        assert reply.shown_turns == tuple(range(len(episode.turns)))
        assert 0 < reply.completion_tokens <= 20 < reply.prompt_tokens
    replies = [episode.reply for episode in episodes]
    assert len({reply.text for reply in replies if reply}) > 1
    assert [episode.reply for episode in again] == replies, "the same seeds, a warm cache"
    assert [episode.reply for episode in part] == replies[1:3], "whatever else runs beside it"
    assert all(episode.reply is None for episode in evaluated)


def with_log_probs_of(source: AgentEpisode, episode: AgentEpisode) -> AgentEpisode:
    """An episode with the log-probs of another one, which differ by rounding.

    Which turns decode beside each other depends on how fast the games step.
    """
    turns = []
    for turn, other in zip(episode.turns, source.turns, strict=True):
        np.testing.assert_allclose(turn.behaviour_log_probs, other.behaviour_log_probs, atol=1e-4)
        turns.append(replace(turn, behaviour_log_probs=other.behaviour_log_probs))
    return replace(episode, turns=tuple(turns))


def test_rollouts_are_those_of_a_run_that_asks_nothing():
    runners = [TextEnvRunner(config=config_of(name), worker_index=0) for name in ("GRPO", "OPID")]
    for episode, other in zip(*map(sampled, runners), strict=True):
        assert other.reply is not None
        assert same_records(episode, replace(with_log_probs_of(episode, other), reply=None))
    for runner in runners:
        runner.stop()


def test_another_seed_gives_another_reply_and_greedy_does_not_care():
    episode = random_groups((2,))[0][0]

    def reply(seed: int, temperature: float):
        return asked([replace(episode, seed=seed)], temperature=temperature)[0].reply

    assert reply(1, 1.0) == reply(1, 1.0) != reply(2, 1.0)
    assert reply(1, 0.0) == reply(2, 0.0)


def asked(episodes, *, sampler_context: int = 2048, **analyzer) -> list[AgentEpisode]:
    """Recorded episodes after a sampler of the embedded model was asked about them."""
    config = config_of("OPID", **analyzer)
    sampler = TransformersSampler(
        config.model_path(), max_context_tokens=sampler_context, max_concurrent=2
    )
    analysis = config.policy_analysis()
    assert analysis is not None
    answered = with_replies(episodes, analysis, sampler=sampler, chat=config.chat_format())
    sampler.close()
    return answered


def lengthened(episode: AgentEpisode, num_turns: int) -> AgentEpisode:
    return replace(episode, turns=episode.turns[:1] * num_turns)


def test_an_episode_that_the_sampler_refuses_costs_itself_alone():
    short, long = random_groups((2,))[0]
    short, long = lengthened(short, 1), lengthened(long, 12)
    first, second = asked([short, long], sampler_context=700)
    assert first.reply is not None and first.reply.failure == "" and first.reply.requests == 2
    assert second.reply is not None and second.reply.failure == "refused"
    assert second.reply.requests == second.reply.completion_tokens == 0
    assert same_records(replace(second, reply=None), long)


def test_a_long_episode_is_shown_in_part_and_one_that_cannot_be_is_not_asked_about():
    long, endless = random_groups((2,))[0]
    text = "an apple " * 400
    endless = replace(endless, turns=(replace(endless.turns[0], observation=text),))
    limits = {"max_context_tokens": 900, "parse_attempts": 1}
    first, second = asked([lengthened(long, 40), endless], **limits)
    assert first.reply is not None and first.reply.failure == ""
    shown = first.reply.shown_turns
    assert 1 < len(shown) < 40 and shown[0] == 0 and shown[-1] == 39
    assert first.reply.prompt_tokens + 10 <= 900
    assert second.reply is not None and second.reply.failure == "too_long"
    assert second.reply.requests == 0


def test_each_method_asks_about_what_it_needs():
    groups = random_groups((3, 2, 3))
    groups[1] = [replace(episode, won=False) for episode in groups[1]]
    groups[2][1] = replace(groups[2][1], status=Status.TOOL_ERROR)
    groups[2][2] = replace(groups[2][2], turns=())
    episodes = [episode for group in groups for episode in group]

    def chosen(name):
        analysis = config_of(name).policy_analysis()
        assert analysis is not None
        return [(episode.group, episode.rollout) for episode in analysis.choose(episodes)]

    assert chosen("OPID") == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    longest_failure = max(groups[0][1:], key=lambda episode: len(episode.turns))
    assert chosen("GRSD") == [(0, 0), (0, longest_failure.rollout)], "one group is mixed"


def test_nothing_is_asked_where_the_replies_would_have_no_use():
    config = config_of("OPID")
    assert config.policy_analysis() is not None
    config.episode_skill_weight = config.step_skill_weight = 0.0
    assert config.policy_analysis() is None
    config = config_of("GRSD")
    config.lambda_mix = 0.0
    assert config.policy_analysis() is None
    config = config_of("OPID")
    config.analyzer = "rules"
    assert config.policy_analysis() is None


def test_the_context_is_the_models_own_unless_the_setting_says_less():
    default = config_of("OPID").policy_analysis()
    assert default is not None and default.max_context_tokens == 2048
    shorter = config_of("OPID", max_context_tokens=900)
    analysis = shorter.policy_analysis()
    assert analysis is not None and analysis.max_context_tokens == 900
    sampler = shorter.make_sampler()
    assert sampler.max_context_tokens == 900 > shorter.max_context_tokens
    sampler.close()


def test_the_seeds_of_replies_are_not_those_of_turns():
    from stepopsd_rllib.rollout.policy_analysis import _attempt_seed
    from stepopsd_rllib.rollout.turn_loop import _turn_seed

    turns = {_turn_seed(e, k) for e in range(20) for k in range(5)}
    replies = {_attempt_seed(e, k) for e in range(20) for k in range(5)}
    assert len(turns) == len(replies) == 100 and not turns & replies
    assert np.iinfo(np.uint32).max >= max(replies) >= 0
