"""One turn: a prompt, the sampled response, and the environment's reply. The canonical record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What was shown, sampled and earned in one turn; token ids as sampled, never re-tokenized.

    Attributes:
        prompt_ids: int32. Context policy `append`: what the environment added since the previous
            response. Context policy `window`: the whole prompt of the turn.
        response_ids: int32, non-empty; includes the end-of-turn token where the policy wrote one.
        behaviour_log_probs: float32, as long as `response_ids`: log-probs under the distribution
            that was sampled.
        observation: Raw environment text that the response answers.
        response: Text of the response.
        action: What the environment parsed from the response and executed.
        is_action_valid: Whether the response followed the action format.
        reward: Environment reward of this turn.
        finish_reason: "stop" (the policy ended its turn) or "length" (it ran into the response
            limit).
        weights_version: Update after which the sampler's weights were taken; 0 is the initial
            model.
        anchor: Text that identifies the environment state the response was given in, for
            anchor-state methods.
    """

    prompt_ids: np.ndarray
    response_ids: np.ndarray
    behaviour_log_probs: np.ndarray
    observation: str
    response: str
    action: str
    is_action_valid: bool
    reward: float
    finish_reason: str
    weights_version: int
    anchor: str = ""

    def __post_init__(self) -> None:
        """Refuses a record whose token columns do not belong together."""
        if len(self.response_ids) == 0 or len(self.response_ids) != len(self.behaviour_log_probs):
            raise ValueError(
                f"Turn: {len(self.response_ids)} response ids with {len(self.behaviour_log_probs)} "
                "log-probs. Every turn has at least one sampled token, and one behaviour log-prob "
                "for each: the sampler must return both."
            )
