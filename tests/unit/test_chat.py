"""Chat texts as token ids, against what the template itself renders."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from stepopsd_rllib.prompts.chat import ChatFormat
from tests.helpers.agents import small_config

SYSTEM = {"role": "system", "content": "You are in a house."}
FIRST = {"role": "user", "content": "You see a fridge 1."}
REPLY = "<action>open fridge 1</action>"
SECOND = "The fridge 1 is open. In it, you see an apple 1."


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(small_config().model_path())


def rendered(tokenizer, messages) -> list[int]:
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("start", [[FIRST], [SYSTEM, FIRST]])
def test_prompt_response_and_continuation_are_the_whole_chat_token_for_token(tokenizer, start):
    chat = ChatFormat(tokenizer)
    (end,) = chat.end_of_turn_ids
    response = [*tokenizer(REPLY, add_special_tokens=False)["input_ids"], end]
    assert chat.first_prompt(start) == rendered(tokenizer, start)
    assert chat.closes_turn(response)
    grown = chat.first_prompt(start) + response + chat.continuation(SECOND, response_ended=True)
    reply = {"role": "assistant", "content": REPLY}
    assert grown == rendered(tokenizer, [*start, reply, {"role": "user", "content": SECOND}])


def test_a_response_that_did_not_end_is_closed_by_the_continuation(tokenizer):
    chat = ChatFormat(tokenizer)
    assert not chat.closes_turn(tokenizer(REPLY, add_special_tokens=False)["input_ids"])
    assert not chat.closes_turn([])
    closed = chat.continuation(SECOND, response_ended=False)
    assert closed == [*chat.end_of_turn_ids, *chat.continuation(SECOND, response_ended=True)]


def test_text_of_a_response_holds_no_special_tokens(tokenizer):
    chat = ChatFormat(tokenizer)
    ids = tokenizer(REPLY, add_special_tokens=False)["input_ids"]
    assert chat.text([*ids, *chat.end_of_turn_ids]) == REPLY


def test_arguments_reach_the_template(tokenizer):
    tokenizer.chat_template = "{{ mood }}: " + tokenizer.chat_template
    chat = ChatFormat(tokenizer, {"mood": "calm"})
    assert tokenizer.decode(chat.first_prompt([FIRST])).startswith("calm:")


def test_a_tokenizer_without_a_template_is_refused_in_one_line(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="its tokenizer has no chat template") as refusal:
        ChatFormat(tokenizer)
    assert "\n" not in str(refusal.value) and "chat_template.jinja" in str(refusal.value)


def test_a_template_that_rewrites_earlier_messages_serves_the_window_context_only(tokenizer):
    tokenizer.chat_template = "<|im_start|>{{ messages[-1].content }}<|im_end|>"
    with pytest.raises(ValueError, match=r"cannot grow token for token\. Use context='window'"):
        ChatFormat(tokenizer)
    chat = ChatFormat(tokenizer, grows=False)
    assert (
        tokenizer.decode(chat.first_prompt([FIRST])) == f"<|im_start|>{FIRST['content']}<|im_end|>"
    )
    assert chat.end_of_turn_ids == (tokenizer.eos_token_id,)
