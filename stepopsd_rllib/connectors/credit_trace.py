"""A sample of episodes with the credit of every token, for people to look at: `credit.jsonl`.

One JSON object a line and an episode, of schema `SCHEMA`:

| key | meaning |
|---|---|
| `schema` | 3 |
| `update` | number of the update that the episode was about to train, from 1 |
| `task_id`, `task_type`, `group`, `rollout` | which episode of which task |
| `context` | "append" (one growing chat) or "window" (a prompt a turn) |
| `status`, `won`, `return` | how it ended |
| `told` | what the teacher, or the skill's reader, read that the policy did not; "" for nothing |
| `final_observation` | what the environment said last |
| `turns` | the turns, in order |

A turn has `observation`, `response` and `action` as texts, `is_action_valid`, `finish_reason`,
`reward`, and

| key | meaning |
|---|---|
| `prompt` | what the policy read before it answered, control tokens included: with "append" what \
was new, with "window" what differs from the prompt of the turn before |
| `prompt_kept` | characters that it has in common with the beginning of the prompt before |
| `told` | the skill of this turn alone, where a method has those |

and lists with an entry for each token of its response, of which those are left out that the method
does not have:

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
from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from stepopsd_rllib.connectors.hindsight import HINDSIGHT
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector

SCHEMA = 3
"""Version of the records; 1 had neither `told`, `response`, the span nor the other log-probs, 2 no
prompts, no `won`, `finish_reason`, `final_observation` and no skills."""

SAMPLE_TOKENS = 50_000
"""Response tokens after which a sample takes no further episode: some 5 MB of file."""

PROMPT_CHARACTERS = 4_000
"""Longest `prompt` of a turn; of a longer one the middle is left out, and it says so."""

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
    an advantage come first, so that whole groups stand side by side. The learner hands the records
    to the algorithm, which writes them to the run folder.
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
        self._texts: dict[int, str] = {}

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Takes the sample; the batch stays as it is."""
        if self.interval == 0 or (batch.update - 1) % self.interval:
            return
        columns = batch.columns
        has_credit_B = (columns.get(GROUP_ADVANTAGES, columns[ADVANTAGES]) != 0).any(dim=1)
        credited = columns[EPISODE_INDEX][has_credit_B].unique().tolist()
        others = [n for n in range(len(batch.episodes)) if n not in set(credited)]
        num_tokens = 0
        for n in (credited + others)[: self.num_episodes]:
            self.records.append(self._record(batch, n))
            num_tokens += batch.episodes[n].num_response_tokens
            if num_tokens >= SAMPLE_TOKENS:
                break

    def _record(self, batch: LearnerBatch, n: int) -> dict[str, Any]:
        episode = batch.episodes[n]
        rows = (batch.columns[EPISODE_INDEX] == n).nonzero()[:, 0].tolist()
        told, told_turns = self._told(batch, n)
        turns, prompt = [], ""
        for k in range(len(episode.turns)):
            before, prompt = prompt, self.decode(episode.turns[k].prompt_ids.tolist())
            kept = _num_shared(before, prompt) if episode.context == "window" else 0
            b = rows[k] if episode.context == "window" else rows[0]
            turn = self._turn(batch, n, k, b)
            turns.append(turn | {"prompt": _shortened(prompt[kept:]), "prompt_kept": kept})
            if told_turns.get(k):
                turns[-1]["told"] = told_turns[k]
        return {
            "schema": SCHEMA,
            "update": batch.update,
            "task_id": episode.task_id,
            "task_type": episode.task_type,
            "group": episode.group,
            "rollout": episode.rollout,
            "context": episode.context,
            "status": str(episode.status),
            "won": episode.won,
            "return": episode.return_,
            "told": told,
            "final_observation": episode.final_observation,
            "turns": turns,
        }

    def _told(self, batch: LearnerBatch, n: int) -> tuple[str, dict[int, str]]:
        """What was told of an episode: the whole of it, and of single turns."""
        if HINDSIGHT in batch.shared:
            ids = list(batch.shared[HINDSIGHT][n].ids)
            return self.decode(ids) if ids else "", {}
        skills = batch.shared.get(EPISODE_SKILLS, {n: None})[n]
        return (skills.episode_skill, dict(skills.step_skills)) if skills else ("", {})

    def _turn(self, batch: LearnerBatch, n: int, k: int, b: int) -> dict[str, Any]:
        columns, turn = batch.columns, batch.episodes[n].turns[k]
        is_here_T = columns[TURN_INDEX][b] == k
        credit = {
            field: _listed(columns[found[0]][b][is_here_T])
            for field, names in TOKEN_FIELDS.items()
            if (found := [name for name in names if name in columns])
        }
        if STEP_INDEX in columns:
            credit["in_span"] = _listed(columns[STEP_INDEX][b][is_here_T] == k)
        return {
            "observation": turn.observation,
            "response": turn.response,
            "action": turn.action,
            "is_action_valid": turn.is_action_valid,
            "finish_reason": turn.finish_reason,
            "reward": turn.reward,
            "tokens": [self._text(i) for i in turn.response_ids.tolist()],
            **credit,
        }

    def _text(self, token: int) -> str:
        """The text of a token; kept, as a policy repeats itself."""
        if token not in self._texts:
            self._texts[token] = self.decode([token])
        return self._texts[token]


def _num_shared(before: str, text: str) -> int:
    """Characters with which both begin."""
    differ = (i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b)
    return next(differ, min(len(before), len(text)))


def _shortened(text: str) -> str:
    half = PROMPT_CHARACTERS // 2
    left_out = len(text) - 2 * half
    if left_out <= 0:
        return text
    return f"{text[:half]}\n… {left_out} characters left out …\n{text[-half:]}"


def _listed(values_T: Tensor) -> list[Any]:
    return [value if isinstance(value, bool) else round(value, 6) for value in values_T.tolist()]
