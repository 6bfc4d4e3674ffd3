"""Keeps the control tokens of a chat template apart from text that reads like them.

A tokenizer turns the characters `<|im_end|>` into the token that ends a message, whoever wrote
them: a passage could end the user's turn and open the assistant's. Here a control token is written
as a *mark* of Unicode noncharacters, which no text holds; the same characters without a mark are
text, and are tokenized as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from stepopsd_envs.text_files import whole_characters

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

THOUGHT_TAGS = ("<think>", "</think>")
"""Markup that a policy writes and parsers read, so text, even where it is one token."""

# Noncharacters (U+FDD0 to U+FDEF): never part of a text, and no white space to any template.
_MARK, _HIDDEN, _END = "\ufdd0", "\ufdd1", "\ufdd2"
_DIGITS = tuple(chr(0xFDE0 + digit) for digit in range(16))
_NONCHARACTER = re.compile("[\ufdd0-\ufdef]")


class ControlTokens:
    """The control tokens of one tokenizer and template.

    They are the added tokens that the tokenizer flags as special (but for an unknown token that
    stands for text), and those that the template writes around messages.

    Args:
        tokenizer: A Hugging Face tokenizer.
        written: A conversation as the template renders it; its texts name no token.

    Example:
        With ChatML, where ⟦x⟧ stands for the mark of the token x,

            render the message control.hide("a<|im_end|>b") with the template, then
            control.mark(rendered) is "⟦<|im_start|>⟧user⏎a<|im_end|>b⟦<|im_end|>⟧"
            control.decode(control.encode(marked)) == marked
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, written: str):
        self._tokenizer = tokenizer
        self._ids = _control_ids(tokenizer, written)
        self._names = {token_id: name for name, token_id in self._ids.items()}
        added = tokenizer.added_tokens_decoder.items()
        self._added = {token_id: token.content for token_id, token in added} | self._names
        names = sorted(self._ids, key=len, reverse=True)
        either = "|".join(map(re.escape, names)) or r"(?!)"
        hidden = f"{_HIDDEN}([{_DIGITS[0]}-{_DIGITS[-1]}]+){_END}"
        self._name = re.compile(either)
        self._mark = re.compile(hidden.replace(_HIDDEN, _MARK))
        self._hidden_or_name = re.compile(f"{hidden}|({either})")

    @property
    def ids(self) -> frozenset[int]:
        """Ids of the control tokens."""
        return frozenset(self._names)

    def hide(self, text: str) -> str:
        """A text that goes through a template without being taken for a control token.

        Halves of surrogate pairs and noncharacters, which are no text, become U+FFFD.
        """
        text = clean(text)
        return self._name.sub(lambda found: _written(_HIDDEN, self._ids[found[0]]), text)

    def mark(self, rendered: str) -> str:
        """Marked text of what a template rendered from hidden texts."""

        def replace(found: re.Match[str]) -> str:
            if found[1] is not None:
                return self._names[_read(found[1])]
            return _written(_MARK, self._ids[found[2]])

        return self._hidden_or_name.sub(replace, rendered)

    def encode(self, marked: str) -> list[int]:
        """Token ids of a marked text; a control token is there for every mark, and no other."""
        if self._name.search(marked) is None:
            plain = self._mark.sub(lambda found: self._names[_read(found[1])], marked)
            return self._tokenizer(plain, add_special_tokens=False)["input_ids"]
        return self._marked_tokenizer.encode(marked, add_special_tokens=False).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Marked text of token ids."""
        parts = []
        before: list[int] = []
        for is_added, run in groupby(token_ids, key=self._added.__contains__):
            run = list(run)
            if is_added:
                parts += [self._written(token_id) for token_id in run]
                before = run[-1:]
                continue
            parts.append(self._text_behind(before, run))
        return "".join(parts)

    def _written(self, token_id: int) -> str:
        return _written(_MARK, token_id) if token_id in self._names else self._added[token_id]

    def _text_behind(self, before: list[int], run: list[int]) -> str:
        """Text of tokens behind an added token, or at the very beginning.

        Decoders of the SentencePiece kind drop a blank at the very beginning only.
        """
        text = self._decoded([*before, *run])
        if not before:
            return text
        text = text.removeprefix(self._decoded(before))  # which need not be the token's name
        return text.removeprefix(" ") if self._adds_blanks else text

    @cached_property
    def _adds_blanks(self) -> bool:
        """Whether the tokenizer puts a blank in front of every text behind an added token."""
        name, token_id = next(iter(self._ids.items()))
        ids = self._tokenizer(f"{name}x", add_special_tokens=False)["input_ids"]
        return self._decoded([token_id, *ids[1:]]) == f"{self._decoded([token_id])} x"

    def _decoded(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))

    def first_mark(self, marked: str) -> tuple[str, int | None]:
        """The text up to and with the first mark, and its token; "" and None without one."""
        found = self._mark.search(marked)
        return ("", None) if found is None else (marked[: found.end()], _read(found[1]))

    def from_last_mark(self, marked: str) -> str:
        """What begins with the last mark of a text; the whole text without one."""
        return marked[max(0, marked.rfind(_MARK)) :]

    def has_mark(self, marked: str) -> bool:
        """Whether a text holds a control token."""
        return _MARK in marked

    @cached_property
    def _marked_tokenizer(self) -> Tokenizer:
        """The same tokenizer, whose control tokens are called by their marks.

        Renaming keeps all the rest: white space that a token swallows, blanks put in front of a
        text, normalisation. It is built when the first text reads like a control token.
        """
        from tokenizers import Tokenizer

        if not self._tokenizer.is_fast:
            raise ValueError(
                f"config.model={self._tokenizer.name_or_path!r}: a message holds the text of a "
                "control token, and its tokenizer has no tokenizer.json with which to keep them "
                "apart. Convert the tokenizer to that form."
            )
        backend: Any = self._tokenizer.backend_tokenizer
        saved: dict[str, Any] = json.loads(backend.to_str())
        marks = {name: _written(_MARK, token_id) for name, token_id in self._ids.items()}
        for token in saved["added_tokens"]:
            if token["content"] in marks:
                token |= {"content": marks[token["content"]], "normalized": False}
        model = saved["model"]
        vocabulary = model.get("vocab")
        if isinstance(vocabulary, dict):
            model["vocab"] = {marks.get(name, name): i for name, i in vocabulary.items()}
        elif vocabulary is not None:
            model["vocab"] = [[marks.get(name, name), score] for name, score in vocabulary]
        if model.get("unk_token") in marks:
            model["unk_token"] = marks[model["unk_token"]]
        saved |= {"post_processor": None, "truncation": None, "padding": None}
        return Tokenizer.from_str(json.dumps(saved))


def clean(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs and for noncharacters.

    Neither is text: no tokenizer or UTF-8 file takes the one, and the other marks tokens here.
    Halves that stand together become the character that they are.
    """
    return _NONCHARACTER.sub("\ufffd", whole_characters(text))


def _control_ids(tokenizer: PreTrainedTokenizerBase, written: str) -> dict[str, int]:
    added = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    special |= {name for name in added if name.strip() and name in written}
    named = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    unknown = tokenizer.unk_token
    if unknown is not None and unknown not in named and _writes_unknown(tokenizer):
        special.discard(str(unknown))
    found = {name: tokenizer.convert_tokens_to_ids(name) for name in special - set(THOUGHT_TAGS)}
    return {name: i for name, i in found.items() if name and isinstance(i, int)}


def _writes_unknown(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether text that it cannot spell becomes the unknown token, which is then text.

    Tokenizers that have all bytes spell everything; what they call unknown (SmolLM2's
    `<|endoftext|>`, Llama's `<unk>`) is a control token like the others.
    """
    if not tokenizer.is_fast:
        return True
    backend: Any = tokenizer.backend_tokenizer
    model = backend.model
    if getattr(model, "byte_fallback", False):
        return any(backend.token_to_id(f"<0x{byte:02X}>") is None for byte in range(256))
    is_byte_level = type(model).__name__ == "BPE" and model.unk_token is None
    return not is_byte_level


def _written(kind: str, number: int) -> str:
    return f"{kind}{''.join(_DIGITS[int(digit, 16)] for digit in f'{number:x}')}{_END}"


def _read(digits: str) -> int:
    return int("".join(f"{_DIGITS.index(digit):x}" for digit in digits), 16)
