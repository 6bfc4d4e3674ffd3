"""What the policy wrote about one of its own finished episodes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyReply:
    """The policy's answer to the question of what its episode teaches, not yet read.

    Attributes:
        text: Last reply, as written; "" where there is none.
        failure: Why there is none (a value of `AnalyzerFailure`); "" where there is one.
        shown_turns: Turns that the reply's prompt showed, 0-based, ascending.
        requests: Replies that were sampled.
        prompt_tokens: Tokens of their prompts.
        completion_tokens: Tokens of the replies.
    """

    text: str = ""
    failure: str = ""
    shown_turns: tuple[int, ...] = ()
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
