"""ADRS: the teacher's log-prob as a dense reward, scaled by how useful the teacher proved.

    r      = (lp_T − mean over the turn), divided by its standard deviation
    U      = weighted mean return of aligned turns − of divergent turns, within a group
    gate   = σ(τ·U)
    reward += η · gate · r                            added before the advantage is computed
    A      = A_outcome + Σ (η·gate·r from the token to the end of its turn) / (σ_group + ε)

The last line is ours: r is centred on each turn, so GRPO's score of a row, the sum of its rewards,
does not change by it where the gate is constant on the turn (all levels but "tokens"). Credited
from each token on, it acts.

Three levels of the usefulness U: "tokens" (authors' L1), "tasks" (L2) and "states" (L3). Active in
updates 21 to 70 of the authors' script, with η = 0.02, temperature 1, τ = 2 and the deviation taken
per turn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepopsd_rllib.objectives.reduction import masked_mean
from stepopsd_rllib.objectives.shaping import Shaping
from stepopsd_rllib.objectives.steps import sum_by
from stepopsd_rllib.objectives.turns import spread_turns, turn_means, turn_spans, turn_sums

SMALLEST_DEVIATION = 1e-8
"""Added to every standard deviation that divides; the authors' code."""


def centred_teacher_reward(
    teacher_log_probs_BT: Tensor, turn_BT: Tensor, num_turns: int, *, per_turn: bool
) -> Tensor:
    """The teacher's log-probs as a reward of mean 0 over each turn.

    Args:
        teacher_log_probs_BT: Float [B, T], nats.
        turn_BT: int64 [B, T], turn of each sampled token, -1 elsewhere.
        num_turns: S.
        per_turn: Divide by the population standard deviation of the turn ("per_seq"), else by the
            sample standard deviation over all sampled tokens of the batch ("global").

    Returns:
        Float64 [B, T], 0 outside every turn.
    """
    sampled_BT = turn_BT >= 0
    teacher_BT = teacher_log_probs_BT.double()
    centred_BT = teacher_BT - spread_turns(turn_means(teacher_BT, turn_BT, num_turns), turn_BT)
    centred_BT = torch.where(sampled_BT, centred_BT, torch.zeros_like(centred_BT))
    if per_turn:
        deviation_S = turn_means(centred_BT.square(), turn_BT, num_turns).sqrt()
        deviation_BT = spread_turns(deviation_S, turn_BT)
    else:
        deviation_BT = _sample_deviation(centred_BT[sampled_BT])
    return centred_BT / (deviation_BT + SMALLEST_DEVIATION)


def usefulness(
    alignment_S: Tensor,
    returns_S: Tensor,
    group_S: Tensor,
    *,
    centre: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """How much better the turns of a group that follow the teacher did than those that do not.

        α = σ((alignment − centre) / temperature)
        U = Σ α·R / Σ α − Σ (1 − α)·R / Σ (1 − α)

    Args:
        alignment_S: Float [S], mean teacher log-prob of each turn, nats.
        returns_S: Float [S], return that each turn is judged by: that of its episode ("tasks") or
            its own ("states").
        group_S: int64 [S], task group or anchor state of each turn.
        centre: Scalar, mean teacher log-prob: over turns ("tasks") or over tokens ("states").
        temperature: Softness of the split, nats.

    Returns:
        Float64 [S], in the unit of the return; 0 for a group of one.
    """
    log_odds_S = (alignment_S.double() - centre) / temperature
    _, index_S, size_K = group_S.unique(return_inverse=True, return_counts=True)

    def weighted_mean(weights_S: Tensor) -> Tensor:
        total_K = sum_by(weights_S * returns_S.double(), index_S, len(size_K))
        # Turns far on one side of the centre leave weights of 1e-20, whose mean is a mean still.
        weight_K = sum_by(weights_S, index_S, len(size_K))
        return total_K / weight_K.clamp(min=torch.finfo(weight_K.dtype).tiny)

    difference_K = weighted_mean(log_odds_S.sigmoid()) - weighted_mean((-log_odds_S).sigmoid())
    return torch.where(size_K > 1, difference_K, 0.0)[index_S]


def turn_gate(usefulness_S: Tensor, *, tau: float = 2.0, normalize: bool = False) -> Tensor:
    """Gate of each turn: σ(τ·U), 1/2 where there is no usefulness.

    Args:
        usefulness_S: Float [S].
        tau: τ, per unit of return.
        normalize: Divide U by its standard deviation over the turns first.

    Returns:
        Float64 [S] in (0, 1).
    """
    usefulness_S = usefulness_S.double()
    if normalize:
        usefulness_S = usefulness_S / (_sample_deviation(usefulness_S) + SMALLEST_DEVIATION)
    return torch.sigmoid(tau * usefulness_S)


def token_gate(
    teacher_log_probs_BT: Tensor,
    reference_log_probs_BT: Tensor,
    turn_BT: Tensor,
    *,
    tau: float = 2.0,
) -> Tensor:
    """Gate of each token at level "tokens": U = (lp_T − lp_ref) / std over the sampled tokens.

    Args:
        teacher_log_probs_BT: Float [B, T].
        reference_log_probs_BT: Float [B, T].
        turn_BT: int64 [B, T], -1 outside the turns.
        tau: τ.

    Returns:
        Float64 [B, T], 0 outside every turn.
    """
    sampled_BT = turn_BT >= 0
    gap_BT = (teacher_log_probs_BT - reference_log_probs_BT).double()
    gap_BT = gap_BT / (_sample_deviation(gap_BT[sampled_BT]) + SMALLEST_DEVIATION)
    return torch.where(sampled_BT, torch.sigmoid(tau * gap_BT), torch.zeros_like(gap_BT))


def shaping_reward(reward_BT: Tensor, gate_BT: Tensor | None, *, eta: float = 0.02) -> Tensor:
    """The reward to add: η·gate·r, or η·r without a gate (level "none").

    Args:
        reward_BT: Float [B, T], from `centred_teacher_reward`.
        gate_BT: Float [B, T], from `token_gate` or `turn_gate` spread over the tokens; None for no
            gate.
        eta: η, in the unit of the environment's reward (authors' script: 0.02); 0 is GRPO.

    Returns:
        Float [B, T].
    """
    return eta * reward_BT if gate_BT is None else eta * gate_BT * reward_BT


def rewards_to_go(reward_BT: Tensor, turn_BT: Tensor, num_turns: int) -> Tensor:
    """Shaping reward from each token to the end of its turn: Gₜ = Σ rₜ′ over t′ ≥ t of the turn.

    A reward that is centred on its turn sums to 0 over it, so later turns add nothing to G.

    Args:
        reward_BT: Float [B, T], 0 outside every turn.
        turn_BT: int64 [B, T], turn of each sampled token, -1 elsewhere.
        num_turns: S, all of which have tokens.

    Returns:
        Float64 [B, T], 0 outside every turn.
    """
    before_BT = reward_BT.double().cumsum(1) - reward_BT
    first_S, _ = turn_spans(turn_BT, num_turns)
    before_turn_BT = spread_turns(before_BT.flatten()[first_S], turn_BT)
    total_BT = spread_turns(turn_sums(reward_BT, turn_BT, num_turns), turn_BT)
    return torch.where(turn_BT >= 0, total_BT - (before_BT - before_turn_BT), 0.0)


def adrs_advantages(
    outcome_advantages_BT: Tensor, reward_to_go_BT: Tensor, scale_B: Tensor
) -> Tensor:
    """Outcome advantage plus the shaping reward-to-go, in the same unit: A = A_outcome + G / scale.

    Args:
        outcome_advantages_BT: Float [B, T], the GRPO advantage.
        reward_to_go_BT: Float [B, T], from `rewards_to_go`.
        scale_B: Float [B], what the outcome was divided by (`advantages.group_scales`).

    Returns:
        Float [B, T] of the dtype of the outcome advantages. The sign may flip, and a group whose
        outcomes are all equal gets a gradient.
    """
    dense_BT = reward_to_go_BT / scale_B[:, None]
    return outcome_advantages_BT + dense_BT.to(outcome_advantages_BT.dtype)


def usefulness_gate(
    teacher_log_probs_BT: Tensor,
    turn_BT: Tensor,
    returns_S: Tensor,
    rival_S: Tensor,
    *,
    over_tokens: bool,
    temperature: float,
    tau: float,
    normalize: bool,
) -> Tensor:
    """Gate of every token from the usefulness of its turn; levels "tasks" and "states".

    Args:
        teacher_log_probs_BT: Float [B, T], nats.
        turn_BT: int64 [B, T], turn of each sampled token, -1 elsewhere.
        returns_S: Float [S], return that each turn is judged by.
        rival_S: int64 [S], which turns are compared: a task's ("tasks"), a state's ("states").
        over_tokens: Whether the centre is the mean over tokens ("states") instead of over turns.
        temperature: Softness of the split, nats.
        tau: τ, per unit of return.
        normalize: Whether U is standardised, as in `turn_gate`.

    Returns:
        Float64 [B, T], 0 outside every turn.
    """
    alignment_S = turn_means(teacher_log_probs_BT, turn_BT, len(returns_S))
    centre = masked_mean(teacher_log_probs_BT, turn_BT >= 0) if over_tokens else alignment_S.mean()
    useful_S = usefulness(alignment_S, returns_S, rival_S, centre=centre, temperature=temperature)
    return spread_turns(turn_gate(useful_S, tau=tau, normalize=normalize), turn_BT)


def adrs_shaping(
    outcome_advantages_BT: Tensor,
    teacher_log_probs_BT: Tensor,
    turn_BT: Tensor,
    scale_B: Tensor,
    mask_BT: Tensor,
    *,
    gate_BT: Tensor | None,
    num_turns: int,
    per_turn: bool,
    eta: float,
) -> Shaping:
    """ADRS's advantages, and how much the reward changed.

    Args:
        outcome_advantages_BT: Float [B, T], the GRPO advantage.
        teacher_log_probs_BT: Float [B, T], nats.
        turn_BT: int64 [B, T], turn of each sampled token, -1 elsewhere.
        scale_B: Float [B], what the outcome was divided by.
        mask_BT: Response mask, bool [B, T].
        gate_BT: Float [B, T]; None for no gate.
        num_turns: S.
        per_turn: Whether each turn is centred, as in `centred_teacher_reward`.
        eta: η.
    """
    centred_BT = centred_teacher_reward(teacher_log_probs_BT, turn_BT, num_turns, per_turn=per_turn)
    reward_BT = shaping_reward(centred_BT, gate_BT, eta=eta)
    to_go_BT = rewards_to_go(reward_BT, turn_BT, num_turns)
    shaped_BT = adrs_advantages(outcome_advantages_BT, to_go_BT, scale_B)
    metrics = {
        "teacher_reward_weight": torch.tensor(eta),
        "teacher_reward_magnitude": reward_BT[mask_BT].abs().mean(),
        "advantage_change_mean": (shaped_BT - outcome_advantages_BT)[mask_BT].abs().mean(),
    }
    if gate_BT is not None:
        metrics["usefulness_gate_mean"] = gate_BT[mask_BT].mean()
        # σ(0) = 1/2: above it the teacher was of use.
        metrics["useful_share"] = (gate_BT[mask_BT] > 0.5).double().mean()
    return Shaping(advantages=shaped_BT, metrics=metrics)


def _sample_deviation(values: Tensor) -> Tensor:
    return values.std(correction=1) if values.numel() > 1 else values.new_zeros(())
