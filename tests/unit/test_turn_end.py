"""Where a turn ends: text behind the first complete action is neither in the chat nor trained."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.search_qa.env import SearchQAEnv

from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.rollout.turn_end import turn_of
from stepopsd_rllib.sampling.sampler import SampleResult
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
