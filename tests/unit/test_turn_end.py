"""Where a turn ends: text behind the first complete action is neither in the chat nor trained."""
# pyright: reportArgumentType=false

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.search_qa.env import SearchQAEnv

from stepopsd_rllib.episodes import Status
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.rollout.turn_end import turn_of
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest, TurnLoop
from stepopsd_rllib.sampling.sampler import SampleRequest, SampleResult
from tests.helpers.agents import small_config

CHAT: ChatFormat = small_config(env="stepopsd/SearchQA-v0").chat_format()
APPEND, WINDOW = (SearchQAEnv(protocol=protocol) for protocol in ("append", "window"))
SEARCH = "<search>x</search>"
BEHIND = "<information>made up</information><answer>y</answer>"


def sampled(text: str, *, ended: bool = True) -> SampleResult:
    ids = CHAT.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*ids, *CHAT.end_of_turn_ids] if ended else ids
    return SampleResult(
        request_id="r",
        token_ids=np.array(ids, np.int32),
        log_probs=-np.arange(len(ids), dtype=np.float32),
        finish_reason="stop" if ended else "length",
    )


@pytest.mark.parametrize("ended", [True, False])
def test_the_turn_ends_with_the_closing_tag_of_its_first_action(ended):
    text, turn = turn_of(APPEND, CHAT, sampled(f"thought {SEARCH}{BEHIND}", ended=ended))
    assert text == CHAT.text(turn.token_ids.tolist()) == f"thought {SEARCH}"
    assert turn.finish_reason == "stop" and not CHAT.closes_turn(turn.token_ids.tolist())
    assert turn.log_probs.tolist() == [-i for i in range(len(turn.token_ids))]


@pytest.mark.parametrize("text", [SEARCH, f"{SEARCH}\n ", "no action", "<search>x", ""])
def test_a_turn_without_text_behind_its_action_stays_as_it_was_sampled(text):
    result = sampled(text)
    assert turn_of(APPEND, CHAT, result) == (text, result)


@pytest.mark.parametrize("env", [WINDOW, ALFWorldEnv()])
def test_other_protocols_keep_the_whole_response(env):
    result = sampled(f"{SEARCH}{BEHIND}<action>look</action> and more")
    assert turn_of(env, CHAT, result)[1] is result


def test_a_token_in_which_the_turn_ends_stays_whole():
    class EndsBehindA(SearchQAEnv):
        def end_turn(self, response: str) -> str:
            return response.partition("ha")[0] + "ha"

    result = sampled("<search>what is it?</search>")
    text, turn = turn_of(EndsBehindA(), CHAT, result)
    assert text.startswith("<search>wha") and len(turn.token_ids) < len(result.token_ids)
    shorter = CHAT.text(turn.token_ids[:-1].tolist())
    assert len(shorter) < len("<search>wha")


def test_an_environment_may_cut_a_response_but_not_rewrite_it():
    class Rewrites(SearchQAEnv):
        def end_turn(self, response: str) -> str:
            return "other"

    with pytest.raises(ValueError, match=r"Rewrites\.end_turn gave a text that the response does"):
        turn_of(Rewrites(), CHAT, sampled(SEARCH))


@given(
    text=st.lists(
        st.sampled_from(["<search>", "</search>", "<answer>", "</answer>", "a", " ", "é", "日"])
    ).map("".join)
)
def test_the_action_is_the_same_and_nothing_follows_it(text):
    kept, turn = turn_of(APPEND, CHAT, sampled(text))
    parse = APPEND.end_turn
    assert parse(kept) == parse(text)
    assert not kept[len(parse(kept)) :].strip() or kept != text
    assert CHAT.text(turn.token_ids.tolist()) == kept


class Says:
    """A sampler that writes given texts, one a request."""

    weights_version = 0
    max_context_tokens = 2048

    def __init__(self, *texts: str):
        self.texts = list(texts)
        self.prompts: list[str] = []
        self.waiting: list[SampleRequest] = []

    def submit(self, request: SampleRequest) -> None:
        self.prompts.append(CHAT.tokenizer.decode(request.prompt_ids))
        self.waiting.append(request)

    def is_idle(self) -> bool:
        return not self.waiting

    def step(self) -> list[SampleResult]:
        done, self.waiting = self.waiting, []
        return [
            replace(sampled(self.texts.pop(0)), request_id=request.request_id) for request in done
        ]


def episode_of(env: SearchQAEnv, sampler: Says, **settings: Any):
    config = small_config(env="stepopsd/SearchQA-v0", max_context_tokens=2048)
    loop = TurnLoop(make_env=lambda: env, sampler=sampler, chat=CHAT, max_concurrent=1, **settings)
    request = EpisodeRequest(task_id=env.tasks("train")[0], group=0, rollout=0, seed=0)
    [episode] = loop.run([request], config.rollout_settings(explore=True))
    loop.close()
    return episode


def test_made_up_evidence_is_neither_in_the_chat_nor_trained():
    sampler = Says(f"{SEARCH}{BEHIND}", "<answer>z</answer>")
    episode = episode_of(SearchQAEnv(instructions=False), sampler)
    first, second = episode.turns
    assert first.action == SEARCH and episode.status is Status.FAILURE
    assert CHAT.text(first.response_ids.tolist()) == first.response == SEARCH
    assert "made up" not in sampler.prompts[1]
    assert CHAT.closes_turn(second.response_ids.tolist())
    # The template's end of the turn follows the cut response, untrained.
    assert second.prompt_ids[0] == CHAT.end_of_turn_ids[0]


@pytest.mark.parametrize("fault", [KeyError("lost"), SystemExit(1), 10.0])
def test_an_environment_that_cuts_wrongly_costs_its_own_episode(fault):
    class Breaks(SearchQAEnv):
        def end_turn(self, response: str) -> str:
            if isinstance(fault, float):
                time.sleep(fault)
                return response
            raise fault

    episode = episode_of(Breaks(), Says(SEARCH), env_timeout_s=0.5)
    assert episode.status is Status.ENVIRONMENT_ERROR
    expected = "no answer within 0.5 s" if isinstance(fault, float) else type(fault).__name__
    assert expected in episode.error
