"""Chats of every template family and kind of tokenizer, against the template's own rendering."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from stepopsd_rllib.prompts.chat import ChatFormat, Message, _warn_once
from stepopsd_rllib.teachers.skill_insertion import insert_skills
from tests.helpers.chat_templates import FAMILIES, KINDS, family_tokenizer

GROWING = [name for name, family in FAMILIES.items() if not family.rewrites]
REWRITING = [name for name, family in FAMILIES.items() if family.rewrites]
EXAMPLES = 6  # of each family and kind
_NAMES = sorted({name for family in FAMILIES.values() for name in family.special if name.strip()})
_WORDS = st.sampled_from(
    [
        "You see",
        "a fridge 1",
        ".",
        ",",
        "\n",
        "\n\n",
        "  ",
        "é",
        "<action>",
        "</action>",
        "</answer>",
    ]
)
texts = st.lists(_WORDS | st.text(st.characters(codec="ascii", min_codepoint=32)), max_size=6).map(
    "".join
)
hostile_texts = st.lists(_WORDS | st.sampled_from(_NAMES), min_size=1, max_size=6).map("".join)
replies = texts.map(str.strip).filter(bool).filter(lambda text: "\x7f" not in text)
chats = pytest.mark.parametrize("kind", KINDS)


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def names_a_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return any(token.content in text for token in tokenizer.added_tokens_decoder.values())


def whole_ids(name: str, kind: str, messages: list[Message]) -> list[int]:
    tokenizer = family_tokenizer(name, kind)
    text = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False, **FAMILIES[name].kwargs
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@cache
def chat_of(name: str, kind: str, **settings: bool) -> ChatFormat:
    return ChatFormat(family_tokenizer(name, kind), FAMILIES[name].kwargs, **settings)


@chats
@pytest.mark.parametrize("name", GROWING)
@given(first=texts, reply=replies, second=texts)
@settings(max_examples=EXAMPLES, deadline=None)
def test_prompt_response_and_continuation_are_the_whole_conversation(
    name, kind, first, reply, second
):
    tokenizer = family_tokenizer(name, kind)
    assume(not any(names_a_token(tokenizer, text.strip()) for text in (first, reply, second)))
    chat = chat_of(name, kind)
    [end] = tokenizer.convert_tokens_to_ids([FAMILIES[name].turn_end])
    prompt = chat.first_prompt([user(first)])
    assert prompt == whole_ids(name, kind, [user(first)])
    whole = whole_ids(name, kind, [user(first), assistant(reply), user(second)])
    assert whole[: len(prompt)] == prompt
    for response_ended in (True, False):
        continuation = chat.continuation(second, response_ended=response_ended)
        assert whole[-len(continuation) :] == continuation
        response = whole[len(prompt) : -len(continuation)]
        assert chat.closes_turn(response) is response_ended
        assert (end in response) is response_ended
        assert chat.text(response).strip() == reply


@chats
@pytest.mark.parametrize("name", FAMILIES)
@given(text=hostile_texts)
@settings(max_examples=EXAMPLES, deadline=None)
def test_no_text_becomes_a_control_token(name, kind, text):
    tokenizer = family_tokenizer(name, kind)
    chat = chat_of(name, kind, accepts_rewriting=True)
    control = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    control |= set(tokenizer.convert_tokens_to_ids(["<｜User｜>", "<｜Assistant｜>"]))
    control.discard(tokenizer.unk_token_id)

    def control_ids(ids: list[int]) -> Counter[int]:
        return Counter(i for i in ids if i in control)

    def prompts(message: str) -> list[list[int]]:
        return [
            chat.first_prompt([user(message)]),
            chat.continuation(message, response_ended=True),
            chat.continuation(message, response_ended=False),
        ]

    for told, plain in zip(prompts(text), prompts("x"), strict=True):
        assert control_ids(told) == control_ids(plain)


@chats
@pytest.mark.parametrize("name", FAMILIES)
@given(text=texts | hostile_texts, other=hostile_texts)
@settings(max_examples=EXAMPLES, deadline=None)
def test_skills_find_the_whole_last_message_and_change_nothing_else(name, kind, text, other):
    chat = chat_of(name, kind, accepts_rewriting=True)
    text, other = (without_loss(value) for value in (text, other))

    def swap(message: str) -> str:
        assert message.strip() == text
        return other

    for build in (
        lambda message: chat.first_prompt([user(message)]),
        lambda message: chat.continuation(message, response_ended=True),
        lambda message: chat.continuation(message, response_ended=False),
    ):
        ids = build(text)
        assert chat.with_changed_message(ids, lambda message: message) == ids
        assert chat.with_changed_message(ids, swap) == build(other)


def without_loss(text: str) -> str:
    """What templates trim and what a tokenizer cannot tell from something else, left out."""
    return re.sub("[▁\x7f]", "", text).strip() or "x"


@chats
@pytest.mark.parametrize("name", FAMILIES)
def test_a_skill_stands_behind_the_task_of_the_last_message(name, kind):
    chat = chat_of(name, kind, accepts_rewriting=True)
    message = "Your task is to: cool it.\nGo."
    skilled = insert_skills(message, episode_skill="Open it first.", step_skill="Look.")
    changed = chat.with_changed_message(
        chat.first_prompt([user(message)]),
        lambda found: insert_skills(found, episode_skill="Open it first.", step_skill="Look."),
    )
    assert changed == chat.first_prompt([user(skilled)])


@chats
@pytest.mark.parametrize("name", FAMILIES)
def test_stop_ids_hold_what_the_template_ends_a_response_with_and_eos(name, kind):
    tokenizer = family_tokenizer(name, kind)
    for grows in (True, False):
        chat = chat_of(name, kind, grows=grows, accepts_rewriting=True)
        end = tokenizer.convert_tokens_to_ids(FAMILIES[name].turn_end)
        assert set(chat.end_of_turn_ids) == {end, tokenizer.eos_token_id}
        assert chat.closes_turn([end])
        assert chat.opens_thought is FAMILIES[name].thought


@pytest.mark.parametrize("name", REWRITING)
def test_a_template_that_rewrites_earlier_turns_is_refused_or_its_difference_named(name, caplog):
    with pytest.raises(ValueError, match="drops or rewrites earlier messages") as refusal:
        chat_of(name, "byte-level")
    difference = FAMILIES[name].rewrites
    assert difference in str(refusal.value) and "\n" not in str(refusal.value)
    assert "accept_rewriting_template=True" in str(refusal.value)
    chat_of(name, "byte-level", grows=False)
    tokenizer, kwargs = family_tokenizer(name, "byte-level"), FAMILIES[name].kwargs
    _warn_once.cache_clear()
    for _ in range(2):
        ChatFormat(tokenizer, kwargs, accepts_rewriting=True)
    [warning] = [record.getMessage() for record in caplog.records]
    assert difference in warning and "Serve the trained model with token ids" in warning


def test_a_template_that_moves_the_system_message_is_refused_where_there_is_one():
    system = {"role": "system", "content": "Be brief."}
    chat_of("llama 2", "metaspace").first_prompt([system, user("A")])
    chat = chat_of("mistral", "metaspace")
    chat.first_prompt([user("A")])
    with pytest.raises(ValueError, match="drops or rewrites earlier messages"):
        chat.first_prompt([system, user("A")])
    chat_of("mistral", "metaspace", grows=False).first_prompt([system, user("A")])
