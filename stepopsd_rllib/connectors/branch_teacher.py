"""What one branch of a group teaches the other in the states that both visited (UCOB)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.connectors.columns import (
    BEHAVIOUR_LOG_PROBS,
    INPUT_IDS,
    IS_SCORED,
    RESPONSE_MASK,
    TAUGHT_TOKEN,
    TAUGHT_TOP_IDS,
    TAUGHT_TOP_LOG_PROBS,
    TAUGHT_WEIGHTS,
    TEACHER_LOG_PROBS,
)
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.connectors.turn_states import TurnStates, turn_states
from stepopsd_rllib.episodes import AgentEpisode, RowLayout
from stepopsd_rllib.objectives.turns import spread_turns, turn_spans
from stepopsd_rllib.objectives.ucob import BranchTeachers, branch_teachers, branch_weights
from stepopsd_rllib.scoring.scored_sequences import NOT_SCORED, BranchedSequence, ScoredSequence
from stepopsd_rllib.scoring.scorer import Scorer

Columns = dict[str, Tensor]


class BranchTeacher(LearnerConnector):
    """Scores the student's responses after the teacher's context of the same state.

    Episodes with a preamble are the informed branch. The old policy reads the teacher's history up
    to and including its prompt of the state (with a growing chat all of its chat before, with
    rebuilt prompts that prompt alone), then the student's response. Writes, over sampled tokens,

        taught_token         int64 [R], number of each taught token, -1 elsewhere
        is_scored            bool [R], whether it is one
        teacher_log_probs    float32 [R], of the sampled token under the teacher

    and over the P taught tokens alone, so that nothing is as large as [B, T, K],

        taught_weights        float32 [P]
        taught_top_log_probs  float32 [P, K], of the teacher's K most likely tokens
        taught_top_ids        int64 [P, K]
    """

    def __init__(
        self,
        *,
        num_informed: int,
        states: Mapping[str, Any],
        smallest_gap: float,
        gap_scale: float,
        largest_weight: float,
        top_tokens: int,
        max_tokens: int,
        **kwargs: Any,
    ):
        """Keeps the settings.

        Args:
            num_informed: Rollouts of a group that are meant to have a preamble.
            states: `penalty`, `discount` and `similarity` of `turn_states`.
            smallest_gap: Keyword of `branch_weights`, as the next two.
            gap_scale: Gap of weight 1.
            largest_weight: Cap of the weight.
            top_tokens: K, most likely tokens of the teacher to keep.
            max_tokens: Padded tokens of one forward pass.
            kwargs: RLlib's.
        """
        super().__init__(**kwargs)
        self.num_informed = num_informed
        self.states = states
        self.weighting = {
            "smallest_gap": smallest_gap,
            "scale": gap_scale,
            "largest": largest_weight,
        }
        self.top_tokens = top_tokens
        self.max_tokens = max_tokens

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Pairs the branches and scores what is taught."""
        module = batch.module
        columns = batch.columns
        episodes = batch.episodes
        turns = turn_states(batch.tokens, episodes, **self.states)
        is_informed_N = self._informed(episodes)
        is_informed_S = is_informed_N[turns.episode_S]
        teachers = branch_teachers(turns.return_S, turns.anchor_S, is_informed_S)
        weight_S = branch_weights(teachers.gap_S, **self.weighting).float()

        turn_R = turns.turn_R1[:, 0]
        is_taught_R = spread_turns(weight_S > 0, turn_R)
        token_R = torch.full_like(turn_R, NOT_SCORED)
        token_R[is_taught_R] = torch.arange(int(is_taught_R.sum()))
        scores = Scorer(module, "policy", max_tokens=self.max_tokens).score(
            _sequences(columns, turns, teachers, weight_S, token_R),
            num_tokens=int(is_taught_R.sum()),
            top=self.top_tokens,
        )
        columns[TAUGHT_TOKEN] = token_R
        columns[IS_SCORED] = is_taught_R
        columns[TEACHER_LOG_PROBS] = torch.zeros_like(columns[BEHAVIOUR_LOG_PROBS]).masked_scatter(
            is_taught_R, scores.log_probs
        )
        columns[TAUGHT_WEIGHTS] = spread_turns(weight_S, turn_R)[is_taught_R]
        assert scores.top is not None
        columns[TAUGHT_TOP_LOG_PROBS] = scores.top.log_probs
        columns[TAUGHT_TOP_IDS] = scores.top.ids
        values = _branch_means(episodes, is_informed_N)
        values |= _diagnostics(teachers, weight_S, is_informed_S)
        values["teacher_tokens_forwarded"] = scores.num_forwarded
        batch.log(values)

    def _informed(self, episodes: list[AgentEpisode]) -> Tensor:
        """Bool [N]: the informed branch; refuses one whose skills were all blank."""
        is_informed_N = torch.tensor([bool(e.preamble) for e in episodes], dtype=torch.bool)
        num_meant = sum(episode.rollout < self.num_informed for episode in episodes)
        if num_meant and not is_informed_N.any():
            raise RuntimeError(
                f"config.skills: not one of the {num_meant} rollouts that are to be informed got a "
                "skill, so there is nothing to compare. Choose another library or another "
                "skill_retrieval."
            )
        return is_informed_N


def _sequences(
    columns: Columns,
    turns: TurnStates,
    teachers: BranchTeachers,
    weight_S: Tensor,
    token_R: Tensor,
) -> list[BranchedSequence]:
    """The teachers' rows as histories, and on each the responses that it is to score."""
    layout = RowLayout.of(columns)
    sampled = columns[INPUT_IDS][columns[RESPONSE_MASK]].long().numpy()
    targets = token_R.numpy()
    first_S, length_S = (x.tolist() for x in turn_spans(turns.turn_R1, len(weight_S)))
    branches: dict[int, list[tuple[int, ScoredSequence]]] = defaultdict(list)
    for student in (weight_S > 0).nonzero()[:, 0].tolist():
        end = first_S[int(teachers.teacher_S[student])]  # the teacher's prompt ends before it
        response = slice(first_S[student], first_S[student] + length_S[student])
        branch = ScoredSequence(ids=sampled[response], target=targets[response])
        branches[int(layout.row_R[end])].append((int(layout.position_R[end]), branch))
    return [
        BranchedSequence(
            history=columns[INPUT_IDS][layout.tokens_of(row)].long().numpy(),
            branches=tuple(row_branches),
        )
        for row, row_branches in branches.items()
    ]


def _branch_means(episodes: list[AgentEpisode], is_informed_N: Tensor) -> dict[str, float | Tensor]:
    """How many episodes are informed, and what both branches earn; NaN for an empty branch."""
    returns_N = torch.tensor([episode.return_ for episode in episodes], dtype=torch.float64)
    return {
        "informed_episode_share": is_informed_N.double().mean(),
        "informed_return_mean": returns_N[is_informed_N].mean(),
        "plain_return_mean": returns_N[~is_informed_N].mean(),
    }


def _diagnostics(
    teachers: BranchTeachers, weight_S: Tensor, is_informed_S: Tensor
) -> dict[str, float | Tensor]:
    """How much is taught, how strongly, and by whom; the means of nothing are 0."""
    is_taught_S = weight_S > 0
    num_taught = is_taught_S.sum().clamp(min=1)
    return {
        "paired_turn_share": teachers.is_paired_S.double().mean(),
        "taught_turn_share": is_taught_S.double().mean(),
        "taught_by_informed_share": (is_taught_S & ~is_informed_S).sum() / num_taught,
        "branch_weight_mean": weight_S.sum() / num_taught,
        "return_gap_mean": (teachers.gap_S * is_taught_S).sum() / num_taught,
    }
