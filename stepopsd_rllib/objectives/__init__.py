"""The mathematics: tensors in, tensors out. Imports torch and nothing else.

Axes, as the suffix of a tensor's name:

    B  rows of the batch: an episode, or one turn of it
    T  token positions of a row, padded
    L  tokens of all rows, end to end
    R  tokens that the policy sampled, of all rows, end to end
    V  vocabulary
    N  episodes
    P  tokens picked from all rows
    K  groups: the episodes of one task
    S  turns of an episode, or steps credited within a row

Masks are 1 (or True) on the tokens that count. Log-probs are of the sampled token, in nats, and
their prefix says whose: `policy_` (now, with gradient), `old_` (before the update), `behaviour_`
(the sampler's own), `reference_` (the KL anchor), `teacher_` (the same tokens after privileged
text), `student_`.
"""

from stepopsd_rllib.objectives.advantages import (
    group_advantages,
    invalid_action_penalties,
    is_informative,
    turn_index,
)
from stepopsd_rllib.objectives.divergence import KLEstimator, kl_divergence
from stepopsd_rllib.objectives.gap_diagnostics import (
    effect_diagnostics,
    gap_diagnostics,
    gap_outcome_correlation,
)
from stepopsd_rllib.objectives.reduction import (
    Aggregation,
    LossCounts,
    aggregate,
    masked_mean,
    masked_sum,
    same_shape,
    token_weights,
    weighted_sum,
)
from stepopsd_rllib.objectives.schedules import linear_decay, linear_warm_down
from stepopsd_rllib.objectives.stepopsd import (
    ShapedAdvantages,
    equalize_steps,
    hindsight_weights,
    log_prob_gap,
    mix_advantages,
    stepopsd_advantages,
)
from stepopsd_rllib.objectives.steps import StepTokens
from stepopsd_rllib.objectives.surrogate import (
    ClippedSurrogate,
    clipped_surrogate,
    sequence_log_ratio,
    token_log_ratio,
    truncated_importance_weights,
)

__all__ = [
    "Aggregation",
    "ClippedSurrogate",
    "KLEstimator",
    "LossCounts",
    "ShapedAdvantages",
    "StepTokens",
    "aggregate",
    "clipped_surrogate",
    "effect_diagnostics",
    "equalize_steps",
    "gap_diagnostics",
    "gap_outcome_correlation",
    "group_advantages",
    "hindsight_weights",
    "invalid_action_penalties",
    "is_informative",
    "kl_divergence",
    "linear_decay",
    "linear_warm_down",
    "log_prob_gap",
    "masked_mean",
    "masked_sum",
    "mix_advantages",
    "same_shape",
    "sequence_log_ratio",
    "stepopsd_advantages",
    "token_log_ratio",
    "token_weights",
    "truncated_importance_weights",
    "turn_index",
    "weighted_sum",
]
