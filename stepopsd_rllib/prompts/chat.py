"""The only place where chat text becomes token ids.

A growing chat is never tokenized twice. What the environment adds after a response is rendered on
its own and appended to the ids that the policy sampled, so that history keeps exactly the sampled
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

# Stands for an assistant response while a template is rendered; no template or game writes it.
_RESPONSE_MARK = "\u241eRESPONSE\u241e"
_USER_MARK = "\u241eUSER\u241e"


class ChatFormat:
    """Renders conversations of one tokenizer's chat template as token ids.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        template_kwargs: Extra arguments of the template, such as `{"enable_thinking": False}`
            for Qwen3.
        grows: Whether chats will be continued; a template that rewrites earlier messages then does
            not do.

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
        self._turn_start, self._turn_end = self._split_reply() if grows else (("", ""), "")
        self.end_of_turn_ids = self._find_end_of_turn_ids()

    def first_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a whole conversation, up to where the policy starts to write."""
        return self._encode(self._render(list(messages)))

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
        closing, opening = self._turn_start
        text = opening + message + self._turn_end
        return self._encode(text if response_ended else closing + text)

    def closes_turn(self, response_ids: Sequence[int]) -> bool:
        """Whether a response ends with the token by which the template closes an assistant turn."""
        closing, _ = self._turn_start
        return len(response_ids) > 0 and response_ids[-1] == self.tokenizer.convert_tokens_to_ids(
            closing
        )

    def with_changed_message(
        self, prompt_ids: Sequence[int], change: Callable[[str], str]
    ) -> list[int]:
        """A prompt or continuation with another text in its last user message.

        Args:
            prompt_ids: From `first_prompt` or `continuation`.
            change: From the message's text to the new one.

        Returns:
            Ids of the changed prompt; everything around the message is the same text.

        Raises:
            ValueError: The ids do not end with a user message and the generation prompt.
        """
        before, _, ending = self._render([{"role": "user", "content": _USER_MARK}]).partition(
            _USER_MARK
        )
        start = max((before.rfind(token) for token in self.tokenizer.all_special_tokens), default=0)
        opening = before[max(start, 0) :]
        prompt = str(self.tokenizer.decode(list(prompt_ids), skip_special_tokens=False))
        head, found, message = prompt.removesuffix(ending).rpartition(opening)
        if not prompt.endswith(ending) or not found:
            raise ValueError(
                f"config.model={self.tokenizer.name_or_path!r}: a prompt does not end with its "
                "chat template's user message, so no text can be put into it. Use a template that "
                "marks messages with special tokens."
            )
        return self._encode(head + opening + change(message) + ending)

    def text(self, response_ids: Sequence[int]) -> str:
        """Text of a response without special tokens."""
        return str(self.tokenizer.decode(list(response_ids), skip_special_tokens=True))

    def _render(self, messages: list[Message]) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False, **self.template_kwargs
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"config.model={self.tokenizer.name_or_path!r}: its chat template refuses messages "
                f"of {roles}: {error}. Use a model whose template takes them."
            ) from error
        return str(rendered)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _split_reply(self) -> tuple[tuple[str, str], str]:
        """What follows a response: (end of its turn, text before the message), text after it."""
        rendered = self._render(
            [
                {"role": "user", "content": "."},
                {"role": "assistant", "content": _RESPONSE_MARK},
                {"role": "user", "content": _USER_MARK},
            ]
        )
        after_response = rendered.partition(_RESPONSE_MARK)[2]
        before_user, found, after_user = after_response.partition(_USER_MARK)
        if not found:
            raise ValueError(
                f"config.model={self.tokenizer.name_or_path!r}: its chat template drops or "
                "rewrites earlier messages, so a chat cannot grow token for token. Use "
                "context='window', or another template."
            )
        end = self._end_of_turn_text(before_user)
        return (end, before_user[len(end) :]), after_user

    def _end_of_turn_text(self, before_user: str) -> str:
        """The leading special token of what follows a response, such as `<|im_end|>`."""
        for token in sorted(self.tokenizer.all_special_tokens, key=len, reverse=True):
            if before_user.startswith(token):
                return token
        return ""

    def _find_end_of_turn_ids(self) -> tuple[int, ...]:
        closing, _ = self._turn_start
        found = [self.tokenizer.eos_token_id]
        if closing:
            found.append(self.tokenizer.convert_tokens_to_ids(closing))
        return tuple(sorted({i for i in found if isinstance(i, int)}))
