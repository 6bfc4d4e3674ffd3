"""Why an episode ended."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Every way in which an episode can end; each is counted in the results of an iteration.

    The first four are outcomes of the policy and are trained on. An error is not the policy's
    doing: such an episode leaves its group, so that nothing is learnt from a broken game or a dead
    retriever.
    """

    SUCCESS = "success"
    FAILURE = "failure"
    TURN_LIMIT = "turn_limit"
    CONTEXT_LIMIT = "context_limit"
    ENVIRONMENT_ERROR = "environment_error"
    TOOL_ERROR = "tool_error"
    SAMPLER_ERROR = "sampler_error"

    @property
    def is_outcome(self) -> bool:
        """Whether the policy answers for how the episode ended."""
        return self not in (Status.ENVIRONMENT_ERROR, Status.TOOL_ERROR, Status.SAMPLER_ERROR)
