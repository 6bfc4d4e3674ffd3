"""The embedded models' tokenizer: byte-level BPE that is short on the texts of one environment.

Text is cut into words, so that a name is the same token wherever it stands, except for runs of
*phrase words*: words that an environment writes again and again around the names. A whole run
(", you see a") may become one token. Byte-level BPE: Radford et al. 2019; runs across spaces:
SuperBPE, arXiv:2503.13423 (there learned, here given).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TURN_START, TURN_END, PADDING = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
"""The first two open and close a message; the model ends a response with `TURN_END`."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""ChatML without the line break after `<|im_end|>`: a turn costs five tokens besides its texts."""

_ROLE = r"(?:system|user|assistant)\n"
_TAG = r"</?[a-z]+>"
_WORD = r" ?[^\W\d_]+"
_NUMBER = r" ?\d+"
_REST = r" ?[^\s\w<]+|[^\S\n]+|\n+|."


def train_tokenizer(
    texts: Iterable[str], *, vocabulary_size: int, phrase_words: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on texts without chat markup.

    Args:
        texts: What the environment and its players write.
        vocabulary_size: Number of tokens, the 256 bytes and three special tokens included.
        phrase_words: Words of which whole runs, with the punctuation between them, may become one
            token. Names that a policy must copy (objects, places) do not belong here.

    Returns:
        A fast tokenizer with a chat template; any text can be encoded.
    """
    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(_chunk_pattern(phrase_words)), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PADDING, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    roles = ["system\n", "user\n", "assistant\n"] * _ROLE_WEIGHT
    tokenizer.train_from_iterator([*texts, *roles], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PADDING,
        additional_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Id of one special token."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


_ROLE_WEIGHT = 100_000  # the template writes a role in every turn, so each gets a token of its own


def _chunk_pattern(phrase_words: Sequence[str]) -> str:
    chunks = [_ROLE, _TAG]
    if phrase_words:
        word = "|".join(
            re.escape(word) for word in sorted(phrase_words, key=lambda w: (-len(w), w))
        )
        chunks.append(rf"(?:[.,:]?(?:\n+| )?\b(?:{word})\b)+[.:]?")
    return "|".join([*chunks, _WORD, _NUMBER, _REST])
