"""The contents page of the learner's pipeline: every column that passes through it, named once.

Connectors write columns, in the order of a config's `learner_connectors`; losses read them in
micro-batches. B rows, T token positions, P taught tokens, K most likely tokens of each. A column of
[B, T] is aligned to token positions: what stands at t is of the token `input_ids[b, t]`.

| shared_data key | what it holds, for every episode of the batch | written by |
|---|---|---|
| `agent_episodes` | the record: turns, texts, rewards, status | `TokenBatch` |
| `hindsight` | `Hindsight`, what the teacher is told | `HindsightContext`, `SkillContext`, \
`GroupGuidance` |
| `episode_skills` | `EpisodeSkills`, or None | `EpisodeAnalysis`, `TurnFeedback` |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Axes = Literal["B", "BT", "P", "PK"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of the learner's batch.

    Attributes:
        dtype: Dtype of its elements.
        axes: Shape, a letter an axis.
        writer: The connector that writes it; several where one replaces what another wrote.
        readers: Who needs it.
        meaning: What stands there, with its unit, and what stands where there is nothing.
    """

    dtype: torch.dtype
    axes: Axes
    writer: str
    readers: str
    meaning: str


PAGE: dict[str, Column] = {}
"""The columns by name."""


def _column(
    name: str, dtype: torch.dtype, axes: Axes, *, writer: str, readers: str, meaning: str
) -> str:
    PAGE[name] = Column(dtype=dtype, axes=axes, writer=writer, readers=readers, meaning=meaning)
    return name


# Token rows.
INPUT_IDS = _column(
    "input_ids",
    torch.int64,
    "BT",
    writer="TokenBatch",
    readers="every forward pass",
    meaning="Tokens of the rows, 0 where padded.",
)
LENGTHS = _column(
    "lengths",
    torch.int64,
    "B",
    writer="TokenBatch",
    readers="every forward pass; micro-batches",
    meaning="Tokens of each row without padding.",
)
RESPONSE_MASK = _column(
    "response_mask",
    torch.bool,
    "BT",
    writer="TokenBatch",
    readers="every loss and shaping",
    meaning="True where the policy sampled the token.",
)
BEHAVIOUR_LOG_PROBS = _column(
    "behaviour_log_probs",
    torch.float32,
    "BT",
    writer="TokenBatch",
    readers="the loss, where it is the old policy; TeacherGap, CreditTrace",
    meaning="The sampler's own log-probs, nats; 0 outside the response mask.",
)
TURN_INDEX = _column(
    "turn_index",
    torch.int64,
    "BT",
    writer="TokenBatch",
    readers="StepSpans and the methods that credit turns",
    meaning="Turn of each sampled token within its episode, from 0; -1 elsewhere.",
)
EPISODE_INDEX = _column(
    "episode_index",
    torch.int64,
    "B",
    writer="TokenBatch",
    readers="whoever needs the episode of a row",
    meaning="Position of the row's episode among those of the batch.",
)
WEIGHTS_VERSION = _column(
    "weights_version",
    torch.int64,
    "B",
    writer="TokenBatch",
    readers="the learner, which refuses others than its own; the number of the update",
    meaning="Version of the weights that sampled the first turn of the row's episode.",
)

# Outcome.
SCORES = _column(
    "scores",
    torch.float32,
    "B",
    writer="GroupAdvantages",
    readers="ADRS and AgentOPSD",
    meaning="What the group compares: the return less penalties, in the unit of the return.",
)
ADVANTAGES = _column(
    "advantages",
    torch.float32,
    "BT",
    writer="GroupAdvantages, then AdvantageShaping",
    readers="the policy loss",
    meaning="Ã, or A where nothing shapes it; 0 outside the response mask.",
)
GROUP_ADVANTAGES = _column(
    "group_advantages",
    torch.float32,
    "BT",
    writer="AdvantageShaping",
    readers="CreditTrace",
    meaning="A, the advantage before it was shaped.",
)
TOKEN_WEIGHTS = _column(
    "token_weights",
    torch.float32,
    "BT",
    writer="AdvantageShaping, for methods that have one",
    readers="CreditTrace",
    meaning="w, the factor that Δ makes of A; 0 outside the response mask.",
)

# Log-probs of the response tokens under this module's weights.
OLD_LOG_PROBS = _column(
    "old_log_probs",
    torch.float32,
    "BT",
    writer="RowLogProbs, where a training step has several optimizer steps",
    readers="the policy loss; TeacherGap, SkillLogProbs, CreditTrace",
    meaning="Of the policy before the first optimizer step, nats; 0 outside the response mask.",
)
REFERENCE_LOG_PROBS = _column(
    "reference_log_probs",
    torch.float32,
    "BT",
    writer="RowLogProbs, where there is a KL anchor",
    readers="the KL loss; ADRS",
    meaning="Of the KL anchor, nats; 0 outside the response mask.",
)

# A teacher that knows more.
STEP_INDEX = _column(
    "step_index",
    torch.int64,
    "BT",
    writer="StepSpans or ActionTokens",
    readers="TeacherGap, StepOPSD, SERL, CreditTrace",
    meaning="Turn of each token of its turn's span, -1 elsewhere.",
)
IS_SCORED = _column(
    "is_scored",
    torch.bool,
    "BT",
    writer="TeacherGap, ToldTurns or BranchTeacher",
    readers="distillation losses, diagnostics, CreditTrace",
    meaning="Whether the teacher judges the token.",
)
TEACHER_LOG_PROBS = _column(
    "teacher_log_probs",
    torch.float32,
    "BT",
    writer="TeacherGap, ToldTurns or BranchTeacher",
    readers="distillation losses; ADRS, CreditTrace",
    meaning="Of the teacher, nats. Where it forwards nothing: TeacherGap puts the policy's, 0 if "
    "they were not needed either, the others 0.",
)
LOG_PROB_GAP = _column(
    "log_prob_gap",
    torch.float32,
    "BT",
    writer="TeacherGap or ToldTurns",
    readers="the methods that shape by it; CreditTrace",
    meaning="Δ, the teacher's log-prob less the policy's, nats; 0 where the teacher forwards none.",
)
TAUGHT_TOKEN = _column(
    "taught_token",
    torch.int64,
    "BT",
    writer="TeacherGap with top tokens, or BranchTeacher",
    readers="TopTokenLearner",
    meaning="Number of each taught token among the P, -1 elsewhere.",
)
TAUGHT_WEIGHTS = _column(
    "taught_weights",
    torch.float32,
    "P",
    writer="BranchTeacher",
    readers="UCOB's loss",
    meaning="How strongly each taught token is taught.",
)
TAUGHT_TOP_LOG_PROBS = _column(
    "taught_top_log_probs",
    torch.float32,
    "PK",
    writer="TeacherGap with top tokens, or BranchTeacher",
    readers="the losses of OPSD and UCOB",
    meaning="Of the teacher's K most likely tokens, nats, under its whole distribution.",
)
TAUGHT_TOP_IDS = _column(
    "taught_top_ids",
    torch.int64,
    "PK",
    writer="TeacherGap with top tokens, or BranchTeacher",
    readers="TopTokenLearner",
    meaning="The teacher's K most likely tokens, most likely first.",
)

# Skills and guidance of analysed episodes.
EPISODE_SKILL_LOG_PROBS = _column(
    "episode_skill_log_probs",
    torch.float32,
    "BT",
    writer="SkillLogProbs",
    readers="OPID, CreditTrace",
    meaning="Of the policy behind its episode's skill, nats; 0 where not scored.",
)
STEP_SKILL_LOG_PROBS = _column(
    "step_skill_log_probs",
    torch.float32,
    "BT",
    writer="SkillLogProbs",
    readers="OPID, CreditTrace",
    meaning="Of the policy behind its turn's skill, nats; 0 where not scored.",
)
PLAIN_LOG_PROBS = _column(
    "plain_log_probs",
    torch.float32,
    "BT",
    writer="SkillLogProbs",
    readers="OPID",
    meaning="Of the policy before the update, nats, on rows with a skill; 0 elsewhere.",
)
HAS_EPISODE_SKILL = _column(
    "has_episode_skill",
    torch.bool,
    "BT",
    writer="SkillLogProbs",
    readers="OPID, CreditTrace",
    meaning="Whether the token was scored behind its episode's skill.",
)
HAS_STEP_SKILL = _column(
    "has_step_skill",
    torch.bool,
    "BT",
    writer="SkillLogProbs",
    readers="OPID, CreditTrace",
    meaning="Whether the token was scored behind its turn's skill.",
)
HAS_GUIDANCE = _column(
    "has_guidance",
    torch.bool,
    "B",
    writer="GroupGuidance",
    readers="GRSD",
    meaning="Whether guidance was written for the group of the row.",
)

TAUGHT_COLUMNS = tuple(name for name, column in PAGE.items() if column.axes.startswith("P"))
"""Columns with one entry a taught token; the others have one a row."""
