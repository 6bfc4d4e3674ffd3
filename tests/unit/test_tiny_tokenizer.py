import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.tiny.tiny_tokenizer import TURN_END, train_tokenizer

TEXTS = [
    "You arrive at cabinet 1. On the cabinet 1, you see a mug 1, and a plate 2.",
    "The cabinet 6 is closed.",
    "<action>go to cabinet 12</action>",
    "<action>take mug 1 from cabinet 1</action>",
] * 50
PHRASES = [
    "You arrive at",
    "On",
    "the",
    "you",
    "see",
    "a",
    "and",
    "The",
    "is closed",
    "go to",
    "from",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocabulary_size=420, phrase_words=PHRASES)


def pieces(tokenizer, text):
    return [tokenizer.decode([i]) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_phrases_are_one_token_and_names_are_the_same_token_everywhere(tokenizer):
    assert pieces(tokenizer, TEXTS[0]) == [
        *("You arrive at", " cabinet", " 1", ". On the", " cabinet", " 1", ", you see a"),
        *(" mug", " 1", ", and a", " plate", " 2", "."),
    ]
    action = ["<action>", "go to", " cabinet", " 12", "</action>"]
    assert pieces(tokenizer, TEXTS[2]) == action


def test_a_turn_costs_five_tokens_besides_its_texts(tokenizer):
    continuation = ChatFormat(tokenizer).continuation(TEXTS[1], response_ended=True)
    assert len(continuation) - len(pieces(tokenizer, TEXTS[1])) == 5


def test_responses_end_with_the_token_that_closes_a_message(tokenizer):
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    assert ChatFormat(tokenizer).end_of_turn_ids == (end,)


def test_the_continuation_is_what_the_template_writes(tokenizer):
    chat = ChatFormat(tokenizer)
    user, reply = {"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[2]}
    response = tokenizer(TEXTS[2] + TURN_END, add_special_tokens=False)["input_ids"]
    grown = [
        *chat.first_prompt([user]),
        *response,
        *chat.continuation(TEXTS[1], response_ended=True),
    ]
    assert grown == chat.first_prompt([user, reply, {"role": "user", "content": TEXTS[1]}])


@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_survives_encoding(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_training_twice_gives_the_same_tokenizer(tokenizer):
    again = train_tokenizer(TEXTS, vocabulary_size=420, phrase_words=PHRASES)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
