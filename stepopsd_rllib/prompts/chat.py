"""The only place where chat text becomes token ids.

A growing chat is never tokenized twice. What the environment adds after a response is rendered on
its own and appended to the ids that the policy sampled, so that history keeps exactly the sampled
tokens. Messages are text: what reads like a control token in one is tokenized as text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from stepopsd_rllib.prompts.control_tokens import THOUGHT_TAGS, ControlTokens, clean
from stepopsd_rllib.prompts.stop_tokens import stop_ids_of_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

logger = logging.getLogger(__name__)

# Stands for a response while a template is rendered: a noncharacter, which no message holds.
_RESPONSE = "\ufdd3"
# What a continuation is tokenized behind and cut from, as it would be behind a response.
_ANCHORS = ("</action>", ".", "R")
_PROBE = "message"


class ChatFormat:
    """Renders conversations of one tokenizer's chat template as token ids.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        template_kwargs: Extra arguments of the template, such as `{"enable_thinking": False}`
            for Qwen3.
        grows: Whether chats will be continued; a template that rewrites earlier messages then does
            not do.
        accepts_rewriting: Grow chats all the same, from the tokens as they were sampled; what the
            template would write otherwise is logged once.

    Raises:
        ValueError: The tokenizer has no chat template, or one in which a chat cannot grow.

    Example:
        A ChatML template gives, with `chat = ChatFormat(tokenizer)`,

            chat.first_prompt([{"role": "user", "content": "You see a fridge 1."}])
                <|im_start|>user⏎You see a fridge 1.<|im_end|>⏎<|im_start|>assistant⏎
            chat.continuation("The fridge 1 is closed.", response_ended=True)
                ⏎<|im_start|>user⏎The fridge 1 is closed.<|im_end|>⏎<|im_start|>assistant⏎
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template_kwargs: Mapping[str, Any] | None = None,
        *,
        grows: bool = True,
        accepts_rewriting: bool = False,
    ):
        """Reads the template once, to learn how it ends a response and begins a message."""
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"config.model={tokenizer.name_or_path!r}: its tokenizer has no chat template, so "
                "turns cannot be told apart. Use an instruction-tuned model, or add a "
                "chat_template.jinja to the model's folder."
            )
        self.tokenizer = tokenizer
        self.template_kwargs = dict(template_kwargs or {})
        self._grows = grows
        self._accepts_rewriting = accepts_rewriting
        self._takes_system = not grows
        opened = self._rendered([_user(_PROBE)])
        self._control = ControlTokens(tokenizer, opened + self._reply_probe(opened))
        self.opens_thought = opened.rstrip().endswith(THOUGHT_TAGS[0])
        """Whether responses go on a thought that the template has opened."""
        if grows:
            self._refuse_rewriting(())
        self._closing, self._closing_id = self._learn_closing()
        self._anchor = self._stable_anchor()
        self._patterns = self._learn_patterns()
        self.end_of_turn_ids = self._find_end_of_turn_ids()

    def first_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a whole conversation, up to where the policy starts to write."""
        if not self._takes_system and messages[0]["role"] == "system":
            self._refuse_rewriting(({"role": "system", "content": "S"},))
            self._takes_system = True
        return self._control.encode(self._marked(messages))

    def continuation(self, message: str, *, response_ended: bool) -> list[int]:
        """Token ids that the environment adds after a response.

        Args:
            message: The user message that answers the response.
            response_ended: Whether the response's last token already closed the assistant turn. A
                response that ran into its token limit is closed here, with tokens the policy is
                not trained on.

        Returns:
            Ids to append to the response's ids: end of the turn, user message, generation prompt.
        """
        response = self._anchor + (self._closing if response_ended else "")
        whole = self._control.encode(self._anchor + self._after_response(message))
        return whole[len(self._control.encode(response)) :]

    def closes_turn(self, response_ids: Sequence[int]) -> bool:
        """Whether a response ends with the token by which the template closes an assistant turn."""
        return len(response_ids) > 0 and response_ids[-1] == self._closing_id

    def with_changed_message(
        self, prompt_ids: Sequence[int], change: Callable[[str], str]
    ) -> list[int]:
        """A prompt or continuation with another text in its last user message.

        Args:
            prompt_ids: Ids from `first_prompt` or `continuation`.
            change: Function from the message's text to the new one.

        Returns:
            Ids of the changed prompt; everything around the message is the same text.

        Raises:
            ValueError: The ids do not end with a user message and the generation prompt.
        """
        prompt = self._control.decode(prompt_ids)
        for before, after, response_ended in self._patterns:
            if not prompt.endswith(after):
                continue
            if response_ended is None:
                head, found, message = prompt.removesuffix(after).rpartition(before)
            else:
                head, found = "", prompt.startswith(before)
                message = prompt.removesuffix(after).removeprefix(before)
            if not found or self._control.has_mark(message):
                continue
            changed = clean(change(message))
            if response_ended is None:
                return self._control.encode(head + before + changed + after)
            return self.continuation(changed, response_ended=response_ended)
        raise ValueError(
            f"config.model={self.tokenizer.name_or_path!r}: a prompt does not end with its "
            "chat template's user message, so no text can be put into it. Use a template that "
            "marks messages with special tokens."
        )

    def last_message(self, prompt_ids: Sequence[int]) -> str:
        """Text of the last user message of a prompt or continuation.

        Raises:
            ValueError: See `with_changed_message`.
        """
        found: list[str] = []

        def read(message: str) -> str:
            found.append(message)
            return message

        self.with_changed_message(prompt_ids, read)
        return found[0]

    def text(self, response_ids: Sequence[int]) -> str:
        """Text of a response without control tokens."""
        control = self._control.ids
        return str(self.tokenizer.decode([i for i in response_ids if i not in control]))

    def _rendered(self, messages: Sequence[Message]) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False, **self.template_kwargs
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"config.model={self.tokenizer.name_or_path!r}: its chat template refuses messages "
                f"of {roles}: {error}. Use a model whose template takes them."
            ) from error
        return str(rendered)

    def _marked(self, messages: Sequence[Message]) -> str:
        """The conversation as marked text; see `ControlTokens`."""
        hidden = [{**m, "content": self._control.hide(m["content"])} for m in messages]
        return self._control.mark(self._rendered(hidden))

    def _after_response(self, message: str) -> str:
        """Marked text of what follows a response."""
        rendered = self._rendered(
            [_user("."), _reply(_RESPONSE), _user(self._control.hide(message))]
        )
        return self._control.mark(rendered.partition(_RESPONSE)[2])

    def _reply_probe(self, opened: str) -> str:
        """What the template writes after a first prompt; "" where it takes no more messages."""
        try:
            return self._rendered([_user(_PROBE), _reply(_PROBE), _user(_PROBE)])
        except ValueError:
            if self._grows:
                raise
            return ""

    def _refuse_rewriting(self, system: tuple[Message, ...]) -> None:
        """Refuses a template that does not leave earlier turns as they were; or names how."""
        difference = self._difference(system)
        if not difference:
            return
        begin = f"config.model={self.tokenizer.name_or_path!r}: its chat template"
        if not self._accepts_rewriting or not self._response_is_kept():
            raise ValueError(
                f"{begin} drops or rewrites earlier messages ({difference}), so a chat cannot grow "
                "token for token. Use context='window', or a template that keeps them, or set "
                "accept_rewriting_template=True to grow it from the sampled tokens all the same."
            )
        _warn_once(
            f"{begin} would write earlier messages otherwise than the growing chat has them "
            f"({difference}). Serve the trained model with token ids or with a template that keeps "
            "them: with this one it reads prompts that it was not trained on."
        )

    def _difference(self, system: tuple[Message, ...]) -> str:
        """How the template writes an earlier turn otherwise than it was; "" where it does not."""
        opened = self._rendered([*system, _user("A")])
        opening, closing = THOUGHT_TAGS
        thought = f"T\n{closing}\n\nR"
        if not opened.rstrip().endswith(opening):
            thought = f"{opening}\n{thought}"
        for reply in ("R", thought):
            whole = self._rendered([*system, _user("A"), _reply(reply), _user("B")])
            kept = _common_prefix(opened, whole)
            if len(kept) < len(opened):
                return f"{opened[len(kept) :]!r} stands in front of the newest turn only"
            rest = whole[len(opened) :].lstrip()
            if not rest.startswith(reply):
                return f"a response {reply!r} comes out as {rest[: len(reply)]!r}"
        return ""

    def _response_is_kept(self) -> bool:
        return _RESPONSE in self._rendered([_user("."), _reply(_RESPONSE), _user(".")])

    def _learn_closing(self) -> tuple[str, int | None]:
        """Marked text by which the template closes a response, and the token it ends with."""
        try:
            before, found, _ = self._after_response(_PROBE).partition(_PROBE)
        except ValueError:  # refused above if chats grow
            return "", None
        return self._control.first_mark(before) if found else ("", None)

    def _stable_anchor(self) -> str:
        """A text whose tokens are the same whatever the template writes behind it."""
        tail = self._after_response(_PROBE) if self._grows else ""
        for anchor in _ANCHORS:
            alone, whole = (self._control.encode(anchor + text) for text in ("", tail))
            if whole[: len(alone)] == alone:
                return anchor
        raise ValueError(
            f"config.model={self.tokenizer.name_or_path!r}: what its chat template writes behind a "
            "response merges with the response's last token, so a chat cannot grow token for "
            "token. Use context='window', or another template."
        )

    def _learn_patterns(self) -> list[tuple[str, str, bool | None]]:
        """Marked texts before and after a message: of both continuations, and of a prompt (None).

        As they come back from token ids: some tokens swallow the white space beside them.
        """
        found: list[tuple[str, str, bool | None]] = []
        if self._grows:
            for response_ended in (False, True):
                ids = self.continuation(_PROBE, response_ended=response_ended)
                before, _, after = self._control.decode(ids).partition(_PROBE)
                found.append((before, after, response_ended))
        prompt = self._control.decode(self.first_prompt([_user(_PROBE)]))
        before, _, after = prompt.rpartition(_PROBE)
        found.append((self._control.from_last_mark(before), after, None))
        return found

    def _find_end_of_turn_ids(self) -> tuple[int, ...]:
        """What template, tokenizer and the model's generation config end a response with."""
        found = [self._closing_id, self.tokenizer.eos_token_id]
        found += stop_ids_of_folder(self.tokenizer.name_or_path)
        return tuple(sorted({i for i in found if isinstance(i, int)}))


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _reply(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _common_prefix(one: str, other: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return one[: min(len(one), len(other))] if length is None else one[:length]


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
