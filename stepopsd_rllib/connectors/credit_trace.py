"""A sample of episodes with the credit of every token, for people to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override

from stepopsd_rllib.connectors.teacher_gap import update_number
from stepopsd_rllib.connectors.token_batch import episodes_of

TOKEN_FIELDS = {
    "behaviour_log_prob": "behaviour_log_probs",
    "log_prob_gap": "log_prob_gap",
    "weight": "token_weights",
    "group_advantage": "group_advantages",
    "advantage": "advantages",
}
"""Fields of a turn's tokens, and the columns they come from: Δ, w, A and Ã among them."""


class CreditTrace(ConnectorV2):
    """Keeps, every `interval` updates, `num_episodes` episodes as JSON-ready records in `records`.

    Requires the columns of `TokenBatch`, `group_advantages` (before shaping) and `advantages`;
    takes `log_prob_gap` and `token_weights` where there are any. Episodes with an advantage come
    first. The learner hands the records to the algorithm, which writes them to the run folder.
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

    @override(ConnectorV2)
    def __call__(
        self, *, batch: dict[str, Any], shared_data: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Takes the sample; the batch stays as it is."""
        columns = batch[DEFAULT_MODULE_ID]
        update = update_number(columns)
        if self.interval == 0 or (update - 1) % self.interval:
            return batch
        has_credit_B = (columns["group_advantages"] != 0).any(dim=1)
        credited = columns["episode_index"][has_credit_B].unique().tolist()
        others = [n for n in range(len(episodes_of(shared_data))) if n not in set(credited)]
        for n in (credited + others)[: self.num_episodes]:
            self.records.append(self._record(columns, episodes_of(shared_data)[n], n, update))
        return batch

    def _record(self, columns: dict[str, Any], episode: Any, n: int, update: int) -> dict[str, Any]:
        rows = (columns["episode_index"] == n).nonzero()[:, 0].tolist()
        turns = []
        for k, turn in enumerate(episode.turns):
            b = rows[k] if episode.context == "window" else rows[0]
            mask_T = columns["turn_index"][b] == k
            credit = {
                name: _rounded(columns[column][b][mask_T])
                for name, column in TOKEN_FIELDS.items()
                if column in columns
            }
            turns.append(
                {
                    "observation": turn.observation,
                    "action": turn.action,
                    "is_action_valid": turn.is_action_valid,
                    "reward": turn.reward,
                    "tokens": [self.decode([i]) for i in turn.response_ids.tolist()],
                    **credit,
                }
            )
        return {
            "update": update,
            "task_id": episode.task_id,
            "task_type": episode.task_type,
            "group": episode.group,
            "rollout": episode.rollout,
            "status": str(episode.status),
            "return": episode.return_,
            "turns": turns,
        }


def _rounded(values_T: Any) -> list[float]:
    return [round(value, 6) for value in values_T.tolist()]
