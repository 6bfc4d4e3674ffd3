"""The contents page of the learner's pipeline: every column that passes through it, named once.

Connectors write columns, in the order of a config's `learner_connectors`; losses read them in
micro-batches. Nothing of a whole batch is padded: B rows have L tokens, end to end, of which R were
sampled, row after row; P taught tokens have K most likely tokens each. In a micro-batch the columns
of L and R are [B, T], padded to its longest row and aligned to token positions: what stands at t is
of the token `input_ids[b, t]`, and where there is no sampled token stands the column's `padding`.

A connector of your own that writes a column of tokens declares it: `MINE = declare("mine",
torch.float32, "R", ...)`. A column that is not declared has one entry a row.

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

Axes = Literal["B", "L", "R", "P", "PK"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of the learner's batch.

    Attributes:
        dtype: Dtype of its elements.
        axes: Shape, a letter an axis: rows, all tokens, sampled tokens, taught tokens.
        writer: The connector that writes it; several where one replaces what another wrote.
        readers: Who needs it.
        meaning: What stands there, with its unit, and what stands where there is nothing.
        padding: What stands in a micro-batch where a row has no such token.
    """

    dtype: torch.dtype
    axes: Axes
    writer: str
    readers: str
    meaning: str
    padding: int = 0


PAGE: dict[str, Column] = {}
"""The columns by name."""


def declare(
    name: str,
    dtype: torch.dtype,
    axes: Axes,
    *,
    writer: str,
    readers: str,
    meaning: str,
    padding: int = 0,
) -> str:
    """Puts a column on the page; gives its name back."""
    PAGE[name] = Column(
        dtype=dtype, axes=axes, writer=writer, readers=readers, meaning=meaning, padding=padding
    )
    return name


# Token rows.
INPUT_IDS = declare(
    "input_ids",
    torch.int32,
    "L",
    writer="TokenBatch",
    readers="every forward pass",
    meaning="Tokens of the rows; int64 in a micro-batch.",
)
LENGTHS = declare(
    "lengths",
    torch.int64,
    "B",
    writer="TokenBatch",
    readers="every forward pass; micro-batches",
    meaning="Tokens of each row without padding.",
)
RESPONSE_MASK = declare(
    "response_mask",
    torch.bool,
    "L",
    writer="TokenBatch",
    readers="every loss and shaping",
    meaning="True where the policy sampled the token.",
)
BEHAVIOUR_LOG_PROBS = declare(
    "behaviour_log_probs",
    torch.float32,
    "R",
    writer="TokenBatch",
    readers="the loss, where it is the old policy; TeacherGap, CreditTrace",
    meaning="The sampler's own log-probs, nats.",
)
TURN_INDEX = declare(
    "turn_index",
    torch.int64,
    "R",
    writer="TokenBatch",
    readers="StepSpans and the methods that credit turns",
    meaning="Turn of each sampled token within its episode, from 0.",
    padding=-1,
)
EPISODE_INDEX = declare(
    "episode_index",
    torch.int64,
    "B",
    writer="TokenBatch",
    readers="whoever needs the episode of a row",
    meaning="Position of the row's episode among those of the batch.",
)
WEIGHTS_VERSION = declare(
    "weights_version",
    torch.int64,
    "B",
    writer="TokenBatch",
    readers="the learner, which refuses others than its own; the number of the update",
    meaning="Version of the weights that sampled the first turn of the row's episode.",
)

# Outcome.
SCORES = declare(
    "scores",
    torch.float32,
    "B",
    writer="GroupAdvantages",
    readers="ADRS and AgentOPSD",
    meaning="What the group compares: the return less penalties, in the unit of the return.",
)
ADVANTAGES = declare(
    "advantages",
    torch.float32,
    "R",
    writer="GroupAdvantages, then AdvantageShaping",
    readers="the policy loss",
    meaning="Ã, or A where nothing shapes it.",
)
GROUP_ADVANTAGES = declare(
    "group_advantages",
    torch.float32,
    "R",
    writer="AdvantageShaping",
    readers="CreditTrace",
    meaning="A, the advantage before it was shaped.",
)
TOKEN_WEIGHTS = declare(
    "token_weights",
    torch.float32,
    "R",
    writer="AdvantageShaping, for methods that have one",
    readers="CreditTrace",
    meaning="w, the factor that Δ makes of A.",
)

# Log-probs of the response tokens under this module's weights.
OLD_LOG_PROBS = declare(
    "old_log_probs",
    torch.float32,
    "R",
    writer="RowLogProbs, where a training step has several optimizer steps",
    readers="the policy loss; TeacherGap, SkillLogProbs, CreditTrace",
    meaning="Of the policy before the first optimizer step, nats.",
)
REFERENCE_LOG_PROBS = declare(
    "reference_log_probs",
    torch.float32,
    "R",
    writer="RowLogProbs, where there is a KL anchor",
    readers="the KL loss; ADRS",
    meaning="Of the KL anchor, nats.",
)

# A teacher that knows more.
STEP_INDEX = declare(
    "step_index",
    torch.int64,
    "R",
    writer="StepSpans or ActionTokens",
    readers="TeacherGap, StepOPSD, SERL, CreditTrace",
    meaning="Turn of each token of its turn's span, -1 elsewhere.",
    padding=-1,
)
IS_SCORED = declare(
    "is_scored",
    torch.bool,
    "R",
    writer="TeacherGap, ToldTurns or BranchTeacher",
    readers="distillation losses, diagnostics, CreditTrace",
    meaning="Whether the teacher judges the token.",
)
TEACHER_LOG_PROBS = declare(
    "teacher_log_probs",
    torch.float32,
    "R",
    writer="TeacherGap, ToldTurns or BranchTeacher",
    readers="distillation losses; ADRS, CreditTrace",
    meaning="Of the teacher, nats. Where it forwards nothing: TeacherGap puts the policy's, 0 if "
    "they were not needed either, the others 0.",
)
LOG_PROB_GAP = declare(
    "log_prob_gap",
    torch.float32,
    "R",
    writer="TeacherGap or ToldTurns",
    readers="the methods that shape by it; CreditTrace",
    meaning="Δ, the teacher's log-prob less the policy's, nats; 0 where the teacher forwards none.",
)
TAUGHT_TOKEN = declare(
    "taught_token",
    torch.int64,
    "R",
    writer="TeacherGap with top tokens, or BranchTeacher",
    readers="TopTokenLearner",
    meaning="Number of each taught token among the P, -1 elsewhere.",
    padding=-1,
)
TAUGHT_WEIGHTS = declare(
    "taught_weights",
    torch.float32,
    "P",
    writer="BranchTeacher",
    readers="UCOB's loss",
    meaning="How strongly each taught token is taught.",
)
TAUGHT_TOP_LOG_PROBS = declare(
    "taught_top_log_probs",
    torch.float32,
    "PK",
    writer="TeacherGap with top tokens, or BranchTeacher",
    readers="the losses of OPSD and UCOB",
    meaning="Of the teacher's K most likely tokens, nats, under its whole distribution.",
)
TAUGHT_TOP_IDS = declare(
    "taught_top_ids",
    torch.int64,
    "PK",
    writer="TeacherGap with top tokens, or BranchTeacher",
    readers="TopTokenLearner",
    meaning="The teacher's K most likely tokens, most likely first.",
)

# Skills and guidance of analysed episodes.
EPISODE_SKILL_LOG_PROBS = declare(
    "episode_skill_log_probs",
    torch.float32,
    "R",
    writer="SkillLogProbs",
    readers="OPID, CreditTrace",
    meaning="Of the policy behind its episode's skill, nats; 0 where not scored.",
)
STEP_SKILL_LOG_PROBS = declare(
    "step_skill_log_probs",
    torch.float32,
    "R",
    writer="SkillLogProbs",
    readers="OPID, CreditTrace",
    meaning="Of the policy behind its turn's skill, nats; 0 where not scored.",
)
PLAIN_LOG_PROBS = declare(
    "plain_log_probs",
    torch.float32,
    "R",
    writer="SkillLogProbs",
    readers="OPID",
    meaning="Of the policy before the update, nats, on rows with a skill; 0 elsewhere.",
)
HAS_EPISODE_SKILL = declare(
    "has_episode_skill",
    torch.bool,
    "R",
    writer="SkillLogProbs",
    readers="OPID, CreditTrace",
    meaning="Whether the token was scored behind its episode's skill.",
)
HAS_STEP_SKILL = declare(
    "has_step_skill",
    torch.bool,
    "R",
    writer="SkillLogProbs",
    readers="OPID, CreditTrace",
    meaning="Whether the token was scored behind its turn's skill.",
)
HAS_GUIDANCE = declare(
    "has_guidance",
    torch.bool,
    "B",
    writer="GroupGuidance",
    readers="GRSD",
    meaning="Whether guidance was written for the group of the row.",
)

TAUGHT_COLUMNS = tuple(name for name, column in PAGE.items() if column.axes.startswith("P"))
"""Columns with one entry a taught token."""
