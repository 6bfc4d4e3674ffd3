"""How an exception in a remote env runner reaches the user.

RLlib ends a runner whose call raised, and goes on without it and without a word. So a call catches
what it raises and answers with a record of it, which is raised where the answers are gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerFailure:
    """An exception of a call to an env runner.

    Attributes:
        message: Runner, type of the exception, and what it said.
        is_refusal: Whether it refused bad input (a ValueError).
    """

    message: str
    is_refusal: bool

    @staticmethod
    def of(error: Exception, runner_index: int) -> RunnerFailure:
        """The record of an exception in the runner of this number."""
        return RunnerFailure(
            message=f"Env runner {runner_index}: {type(error).__name__}: {error}",
            is_refusal=isinstance(error, ValueError),
        )

    def raise_here(self, fault: type[Exception]) -> NoReturn:
        """Raises a ValueError for a refusal, else `fault`, with the message."""
        if self.is_refusal:
            raise ValueError(self.message)
        raise fault(self.message)
