"""Whatever an environment does to one episode costs that episode alone, under a name."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

from stepopsd_rllib.episodes import AgentEpisode, Status
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest, RolloutSettings, TurnLoop
from stepopsd_rllib.sampling.sampler import SampleRequest, SampleResult
from tests.helpers.agents import small_config
from tests.helpers.odd_env import BAD, OddEnv

TIMEOUT_S = 0.3
PLACES = ("reset", "step", "first_message", "append_message", "window_message", "reward")
MESSAGE_OF = {"append_message": "append", "window_message": "window"}


class Says:
    """A sampler that answers everything with the same two tokens."""

    weights_version = 0
    max_context_tokens = 512

    def __init__(self, log_prob: float = -1.0):
        self.log_prob = log_prob
        self.waiting: list[SampleRequest] = []

    def submit(self, request: SampleRequest) -> None:
        self.waiting.append(request)

    def is_idle(self) -> bool:
        return not self.waiting

    def step(self) -> list[SampleResult]:
        done, self.waiting = self.waiting, []
        return [
            SampleResult(
                request_id=request.request_id,
                token_ids=np.array([9, 2], np.int32),
                log_probs=np.array([self.log_prob, -1.0], np.float32),
                finish_reason="stop",
            )
            for request in done
        ]


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return small_config().chat_format()


def play(chat, fault: str, *, context: str = "append", make_env=None) -> dict[str, AgentEpisode]:
    loop = TurnLoop(
        make_env=make_env or (lambda: OddEnv(fault=fault)),
        sampler=Says(),  # type: ignore[arg-type]
        chat=chat,
        max_concurrent=4,
        env_timeout_s=TIMEOUT_S,
    )
    settings = RolloutSettings(
        context=context,  # type: ignore[arg-type]
        window_turns=2,
        max_response_tokens=8,
        max_context_tokens=512,
        temperature=1.0,
        top_p=1.0,
    )
    tasks = ("good0", BAD, "good1", "good2", "good3", "good4")
    requests = [EpisodeRequest(task_id=t, group=i, rollout=0, seed=i) for i, t in enumerate(tasks)]
    episodes = {episode.task_id: episode for episode in loop.run(requests, settings)}
    loop.close()
    return episodes


def prompts(episode: AgentEpisode) -> list[list[int]]:
    return [turn.prompt_ids.tolist() for turn in episode.turns]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("deed", "error"),
    [
        ("raise", "KeyError: 'lost'"),
        ("raise_half_a_pair", "OSError: half a pair: \ufffd"),
        ("exit", "SystemExit: 1"),
        ("interrupt", "KeyboardInterrupt: "),
        ("hang", f"EnvTimeout: no answer within {TIMEOUT_S} s"),
        ("none", ""),
        ("huge", ""),
    ],
)
def test_a_fault_anywhere_ends_its_own_episode_and_no_other(chat, place, deed, error):
    context = MESSAGE_OF.get(place, "append")
    sound = play(chat, "", context=context)
    episodes = play(chat, f"{place}:{deed}", context=context)
    broken = episodes.pop(BAD)
    assert broken.status is Status.ENVIRONMENT_ERROR and not broken.is_trainable
    assert broken.error == error if error else broken.error
    assert len(broken.final_observation) < 1000
    json.dumps(broken.error, ensure_ascii=False).encode()
    for task, episode in episodes.items():
        assert episode.status is Status.SUCCESS
        assert prompts(episode) == prompts(sound[task])


@pytest.mark.parametrize("key", ["task_id", "task_type", "won", "is_action_valid", "action"])
def test_an_info_without_a_key_names_the_key(chat, key):
    broken = play(chat, f"info:without_{key}")[BAD]
    assert broken.status is Status.ENVIRONMENT_ERROR
    assert broken.error == f"BrokenContract: info lacks {key!r}"


@pytest.mark.parametrize("deed", ["nan", "inf", "1e300"])
def test_a_reward_that_would_spoil_the_means_is_no_reward(chat, deed):
    broken = play(chat, f"reward:{deed}")[BAD]
    assert broken.status is Status.ENVIRONMENT_ERROR and "reward" in broken.error
    assert broken.return_ == 0.0


@pytest.mark.parametrize("place", ["reset", "step", "first_message", "append_message", "info"])
def test_half_a_surrogate_pair_becomes_the_replacement_character(chat, place):
    episode = play(chat, f"{place}:half_a_pair")[BAD]
    assert episode.status is Status.SUCCESS
    texts = [episode.final_observation, *(t.observation + t.action for t in episode.turns)]
    texts += [chat.tokenizer.decode(ids) for ids in prompts(episode)]
    "".join(texts).encode()
    if place not in ("info", "first_message", "append_message"):
        assert any("half a pair: \ufffd" in text for text in texts)


def test_a_stuck_episode_does_not_hold_up_the_end(chat):
    began = time.monotonic()
    play(chat, "step:hang")
    assert time.monotonic() - began < 10 * TIMEOUT_S
    assert all(thread.daemon for thread in threading.enumerate() if "env" in thread.name)


def test_a_copy_that_cannot_be_made_costs_nothing_but_its_place(chat):
    made = []

    def make_env() -> OddEnv:
        if made:
            raise OSError("too many open files")
        made.append(OddEnv())
        return made[0]

    episodes = play(chat, "", make_env=make_env)
    assert len(episodes) == 6
    assert {episode.status for episode in episodes.values()} == {Status.SUCCESS}


def test_a_log_prob_that_is_nan_ends_its_episode_by_name(chat):
    loop = TurnLoop(make_env=OddEnv, sampler=Says(float("nan")), chat=chat, max_concurrent=2)  # type: ignore[arg-type]
    settings = RolloutSettings(
        context="append",
        window_turns=0,
        max_response_tokens=8,
        max_context_tokens=512,
        temperature=1.0,
        top_p=1.0,
    )
    requests = [EpisodeRequest(task_id="good0", group=0, rollout=i, seed=i) for i in range(3)]
    episodes = list(loop.run(requests, settings))
    assert [e.status for e in episodes] == [Status.SAMPLER_ERROR] * 3
    assert "NaN" in episodes[0].error
