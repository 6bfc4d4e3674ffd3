"""A sample of episodes with the credit of every token, for people to look at: `credit.jsonl`.

One JSON object a line and an episode, of schema `SCHEMA`:

| key | meaning |
|---|---|
| `schema` | 2 |
| `update` | number of the update that the episode was about to train, from 1 |
| `task_id`, `task_type`, `group`, `rollout` | which episode of which task |
| `context` | "append" (one growing chat) or "window" (a prompt a turn) |
| `status`, `return` | how it ended |
| `told` | what the teacher read that the policy did not; "" where it was told nothing |
| `turns` | the turns, in order |

A turn has `observation`, `response` and `action` as texts, `is_action_valid`, `reward`, and lists
with an entry for each token of its response, of which those are left out that the method does not
have:

| key | meaning |
|---|---|
| `tokens` | the text of each token |
| `behaviour_log_prob` | under the sampler, nats |
| `old_log_prob` | under the learner's policy before the update, nats |
| `teacher_log_prob`, `log_prob_gap` | under the teacher, nats; Δ, by which it exceeds the policy |
| `is_scored` | whether the teacher judges the token |
| `in_span` | whether the token belongs to the span of its turn |
| `weight` | w, the factor that Δ makes of A |
| `group_advantage`, `advantage` | A; Ã, what the loss takes |

Entropies are not here: they are known in the update alone, behind the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    BEHAVIOUR_LOG_PROBS,
    EPISODE_INDEX,
    GROUP_ADVANTAGES,
    IS_SCORED,
    LOG_PROB_GAP,
    OLD_LOG_PROBS,
    PLAIN_LOG_PROBS,
    STEP_INDEX,
    TEACHER_LOG_PROBS,
    TOKEN_WEIGHTS,
    TURN_INDEX,
)
from stepopsd_rllib.connectors.hindsight import HINDSIGHT, Hindsight
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector

SCHEMA = 2
"""Version of the records; 1 had neither `told`, `response`, the span nor the other log-probs."""

TOKEN_FIELDS = {
    "behaviour_log_prob": (BEHAVIOUR_LOG_PROBS,),
    "old_log_prob": (OLD_LOG_PROBS, PLAIN_LOG_PROBS),
    "teacher_log_prob": (TEACHER_LOG_PROBS,),
    "log_prob_gap": (LOG_PROB_GAP,),
    "is_scored": (IS_SCORED,),
    "weight": (TOKEN_WEIGHTS,),
    "group_advantage": (GROUP_ADVANTAGES, ADVANTAGES),
    "advantage": (ADVANTAGES,),
}
"""Fields of a turn's tokens, and the columns that they come from: the first that there is."""


class CreditTrace(LearnerConnector):
    """Keeps, every `interval` updates, `num_episodes` episodes as JSON-ready records in `records`.

    Requires the columns of `TokenBatch` and `advantages`; takes what else there is. Episodes with
    an advantage come first. The learner hands the records to the algorithm, which writes them to
    the run folder.
    """

    def __init__(
        self, *, interval: int, num_episodes: int, decode: Callable[[list[int]], str], **kwargs: Any
    ):
        """Keeps the settings; `interval` 0 keeps nothing."""
        super().__init__(**kwargs)
        self.interval = interval
        self.num_episodes = num_episodes
        self.decode = decode
        self.records: list[dict[str, Any]] = []

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Takes the sample; the batch stays as it is."""
        if self.interval == 0 or (batch.update - 1) % self.interval:
            return
        columns = batch.columns
        has_credit_B = (columns.get(GROUP_ADVANTAGES, columns[ADVANTAGES]) != 0).any(dim=1)
        credited = columns[EPISODE_INDEX][has_credit_B].unique().tolist()
        others = [n for n in range(len(batch.episodes)) if n not in set(credited)]
        chosen = (credited + others)[: self.num_episodes]
        self.records += [self._record(batch, n) for n in chosen]

    def _record(self, batch: LearnerBatch, n: int) -> dict[str, Any]:
        episode = batch.episodes[n]
        told = batch.shared[HINDSIGHT][n] if HINDSIGHT in batch.shared else Hindsight()
        return {
            "schema": SCHEMA,
            "update": batch.update,
            "task_id": episode.task_id,
            "task_type": episode.task_type,
            "group": episode.group,
            "rollout": episode.rollout,
            "context": episode.context,
            "status": str(episode.status),
            "return": episode.return_,
            "told": self.decode(list(told.ids)) if told.ids else "",
            "turns": [self._turn(batch, n, k) for k in range(len(episode.turns))],
        }

    def _turn(self, batch: LearnerBatch, n: int, k: int) -> dict[str, Any]:
        columns, episode = batch.columns, batch.episodes[n]
        rows = (columns[EPISODE_INDEX] == n).nonzero()[:, 0].tolist()
        b = rows[k] if episode.context == "window" else rows[0]
        is_here_T = columns[TURN_INDEX][b] == k
        credit = {
            field: _listed(columns[found[0]][b][is_here_T])
            for field, names in TOKEN_FIELDS.items()
            if (found := [name for name in names if name in columns])
        }
        if STEP_INDEX in columns:
            credit["in_span"] = _listed(columns[STEP_INDEX][b][is_here_T] == k)
        turn = episode.turns[k]
        return {
            "observation": turn.observation,
            "response": turn.response,
            "action": turn.action,
            "is_action_valid": turn.is_action_valid,
            "reward": turn.reward,
            "tokens": [self.decode([i]) for i in turn.response_ids.tolist()],
            **credit,
        }


def _listed(values_T: Tensor) -> list[Any]:
    return [value if isinstance(value, bool) else round(value, 6) for value in values_T.tolist()]
