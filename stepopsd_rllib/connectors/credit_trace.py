"""A sample of episodes with the credit of every token, for people to look at: `credit.jsonl`.

One JSON object a line and an episode, of schema `SCHEMA`:

| key | meaning |
|---|---|
| `schema` | 4 |
| `update` | number of the update that the episode was about to train, from 1 |
| `task_id`, `task_type`, `group`, `rollout` | which episode of which task |
| `context` | "append" (one growing chat) or "window" (a prompt a turn) |
| `status`, `won`, `return` | how it ended |
| `task_score` | how well it was done, 0 to 1, where the environment grades |
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
| `new_log_prob` | under the policy of the update's last pass over the token, nats, the numerator \
of the ratio; only where an update takes several optimizer steps: of a single one it is the old |
| `entropy` | of the policy's distribution in the update's first pass over the token, nats |
| `teacher_log_prob`, `log_prob_gap` | under the teacher, nats; Δ, by which it exceeds the policy |
| `episode_skill_log_prob`, `step_skill_log_prob` | under the policy that reads the skill of the \
episode, of the turn, nats |
| `is_scored` | whether the teacher judges the token |
| `in_span` | whether the token belongs to the span of its turn |
| `weight` | w, the factor that Δ makes of A |
| `group_advantage`, `advantage` | A; Ã, what the loss takes |

A value is null where nobody judged the token, and a list is left out of a turn that the update did
not forward (`old_log_prob`, `entropy`): nothing is forwarded for the record alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    BEHAVIOUR_LOG_PROBS,
    EPISODE_INDEX,
    EPISODE_SKILL_LOG_PROBS,
    GROUP_ADVANTAGES,
    HAS_EPISODE_SKILL,
    HAS_STEP_SKILL,
    IS_SCORED,
    LOG_PROB_GAP,
    OLD_LOG_PROBS,
    STEP_INDEX,
    STEP_SKILL_LOG_PROBS,
    TEACHER_LOG_PROBS,
    TOKEN_WEIGHTS,
    TURN_INDEX,
)
from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from stepopsd_rllib.connectors.hindsight import HINDSIGHT
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector

SCHEMA = 4
"""Version of the records; 1 had neither `told`, `response`, the span nor the other log-probs, 2 no
prompts, no `won`, `finish_reason`, `final_observation` and no skills, 3 no entropy, no
`new_log_prob`, no `old_log_prob` of an update with one step, and 0 in place of null."""

SAMPLE_TOKENS = 50_000
"""Response tokens after which a sample takes no further episode: some 5 MB of file."""

PROMPT_CHARACTERS = 4_000
"""Longest `prompt` of a turn; of a longer one the middle is left out, and it says so."""

TOKEN_FIELDS = {
    "behaviour_log_prob": (BEHAVIOUR_LOG_PROBS,),
    "old_log_prob": (OLD_LOG_PROBS,),
    "teacher_log_prob": (TEACHER_LOG_PROBS,),
    "episode_skill_log_prob": (EPISODE_SKILL_LOG_PROBS,),
    "step_skill_log_prob": (STEP_SKILL_LOG_PROBS,),
    "log_prob_gap": (LOG_PROB_GAP,),
    "is_scored": (IS_SCORED,),
    "weight": (TOKEN_WEIGHTS,),
    "group_advantage": (GROUP_ADVANTAGES, ADVANTAGES),
    "advantage": (ADVANTAGES,),
}
"""Fields of a turn's tokens, and the columns that they come from: the first that there is."""

JUDGED = {
    TEACHER_LOG_PROBS: IS_SCORED,
    EPISODE_SKILL_LOG_PROBS: HAS_EPISODE_SKILL,
    STEP_SKILL_LOG_PROBS: HAS_STEP_SKILL,
}
"""Columns that say something of some tokens alone, and the column that says of which."""


class CreditTrace(LearnerConnector):
    """Keeps, every `interval` updates, `num_episodes` episodes as JSON-ready records in `records`.

    Requires the columns of `TokenBatch` and `advantages`; takes what else there is. Episodes with
    an advantage come first, so that whole groups stand side by side. The learner adds what its
    update says of the tokens, and hands the records to the algorithm, which writes them to the run
    folder.
    """

    def __init__(
        self,
        *,
        interval: int,
        num_episodes: int,
        takes_one_step: bool,
        decode: Callable[[list[int]], str],
        **kwargs: Any,
    ):
        """Keeps the settings; `interval` 0 keeps nothing."""
        super().__init__(**kwargs)
        self.interval = interval
        self.num_episodes = num_episodes
        self.takes_one_step = takes_one_step
        self.decode = decode
        self._texts: dict[int, str] = {}
        self._records: dict[int, dict[str, Any]] = {}  # by the episode's place in the batch

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Takes the sample; the batch stays as it is."""
        self._records = {}
        if self.interval == 0 or (batch.update - 1) % self.interval:
            return
        columns = batch.columns
        has_credit_B = batch.layout.any(columns.get(GROUP_ADVANTAGES, columns[ADVANTAGES]) != 0)
        credited = columns[EPISODE_INDEX][has_credit_B].unique().tolist()
        others = [n for n in range(len(batch.episodes)) if n not in set(credited)]
        num_tokens = 0
        for n in (credited + others)[: self.num_episodes]:
            self._records[n] = self._record(batch, n)
            num_tokens += batch.episodes[n].num_response_tokens
            if num_tokens >= SAMPLE_TOKENS:
                break

    def add_update(self, batch: Mapping[str, Any], fwd_out: Mapping[str, Tensor]) -> None:
        """Adds what a forward pass of the update says of the sampled tokens.

        Args:
            batch: Columns of the pass; and `is_on_policy`, whether no step was taken before it.
            fwd_out: Its `policy_log_probs` and `entropy`, float32 [B, T], nats.
        """
        if not self._records:
            return
        for b, n in enumerate(batch[EPISODE_INDEX].tolist()):
            if n not in self._records:
                continue
            index_T = batch[TURN_INDEX][b].cpu()
            log_probs_T, entropy_T = (
                fwd_out[name][b].detach().cpu() for name in ("policy_log_probs", "entropy")
            )
            for k in index_T[index_T >= 0].unique().tolist():
                turn, is_here_T = self._records[n]["turns"][k], index_T == k
                log_probs = _listed(log_probs_T[is_here_T])
                if batch["is_on_policy"]:
                    turn.setdefault("old_log_prob", log_probs)
                if not self.takes_one_step:
                    turn["new_log_prob"] = log_probs
                turn.setdefault("entropy", _listed(entropy_T[is_here_T]))

    def take_records(self) -> list[dict[str, Any]]:
        """The records of the sample, which are given away once."""
        records, self._records = list(self._records.values()), {}
        return records

    def _record(self, batch: LearnerBatch, n: int) -> dict[str, Any]:
        episode = batch.episodes[n]
        rows = (batch.columns[EPISODE_INDEX] == n).nonzero()[:, 0].tolist()
        layout = batch.layout
        told, told_turns = self._told(batch, n)
        turns, prompt = [], ""
        for k in range(len(episode.turns)):
            before, prompt = prompt, self.decode(episode.turns[k].prompt_ids.tolist())
            kept = _num_shared(before, prompt) if episode.context == "window" else 0
            b = rows[k] if episode.context == "window" else rows[0]
            turn = self._turn(batch, n, k, layout.sampled_of(b))
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
            **({} if episode.task_score is None else {"task_score": episode.task_score}),
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

    def _turn(self, batch: LearnerBatch, n: int, k: int, row: slice) -> dict[str, Any]:
        """The record of a turn, whose tokens are among those of a row."""
        columns, turn = batch.columns, batch.episodes[n].turns[k]
        is_here = columns[TURN_INDEX][row] == k
        credit = {
            field: _judged(columns, found[0], row, is_here)
            for field, names in TOKEN_FIELDS.items()
            if (found := [name for name in names if name in columns])
        }
        if STEP_INDEX in columns:
            credit["in_span"] = _listed(columns[STEP_INDEX][row][is_here] == k)
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


def _judged(columns: Mapping[str, Tensor], name: str, row: slice, is_here: Tensor) -> list[Any]:
    """What a column says of the tokens of a turn; null where it has nothing to say."""
    values = _listed(columns[name][row][is_here])
    if name not in JUDGED:
        return values
    # Zeros alone: the row was not forwarded.
    is_judged = columns[JUDGED[name]][row] & bool(columns[name][row].any())
    judged = is_judged[is_here].tolist()
    return [value if known else None for value, known in zip(values, judged, strict=True)]


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
