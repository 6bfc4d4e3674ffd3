"""GRPO: group-relative policy optimisation for multi-turn agents (arXiv:2402.03300).

Each task is played G times. The return R of an episode is compared with its siblings,

    A = (R − mean(R_group)) / (std(R_group) + eps)

and every token that the policy sampled in the episode gets that one number. The loss is PPO's
clipped surrogate with the ratio r = exp(log π(token) − log π_old(token)),

    L = Σ w · max(−A·r, −A·clip(r, 1 − clip_low, 1 + clip_high)) + kl_coeff · KL(π ‖ π_ref) −
    entropy_coeff · H

with token weights w that are exact over all micro-batches and learners.

Departures from the papers and reference programs, and the key that restores each:

- Statistics are over episodes; the verl-agent family takes them over rows, so that an episode of
  many turns counts many times: `advantage_statistics="rows"`.
- `token-mean` divides by the tokens of the whole minibatch; the reference divides micro-batch by
  micro-batch.
- An all-equal group has advantage 0 exactly.

Named variants: Dr.GRPO (arXiv:2503.20783) is `normalize_advantages=False` with
`loss_aggregation="seq-mean-token-sum-norm"`; DAPO (arXiv:2503.14476) is `clip_high=0.28` with
`dynamic_sampling=True`; GSPO (arXiv:2507.18071) is `importance_ratio="sequence"` with
`loss_aggregation="seq-mean-token-mean"`.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.connectors.common import NumpyToTensor
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override
from torch import Tensor

from stepopsd_rllib.config_keys import FLAG, Check, is_number, key, number, one_of, or_none, whole
from stepopsd_rllib.connectors.columns import (
    ADVANTAGES,
    BEHAVIOUR_LOG_PROBS,
    OLD_LOG_PROBS,
    REFERENCE_LOG_PROBS,
    RESPONSE_MASK,
)
from stepopsd_rllib.connectors.credit_trace import CreditTrace
from stepopsd_rllib.connectors.group_advantages import GroupAdvantages
from stepopsd_rllib.connectors.row_log_probs import RowLogProbs
from stepopsd_rllib.connectors.token_batch import TokenBatch
from stepopsd_rllib.episodes import RowLayout
from stepopsd_rllib.models.causal_lm import View
from stepopsd_rllib.objectives.divergence import KL_ESTIMATORS, KLEstimator, kl_divergence
from stepopsd_rllib.objectives.reduction import AGGREGATIONS, Aggregation, weighted_sum
from stepopsd_rllib.objectives.surrogate import (
    clipped_surrogate,
    sequence_log_ratio,
    token_log_ratio,
    truncated_importance_weights,
)
from stepopsd_rllib.training.agent_algorithm import AgentAlgorithm
from stepopsd_rllib.training.agent_config import AgentConfig
from stepopsd_rllib.training.learner import TokenLearner

_RATIO_SQUARED = "sampler_importance_ratio_squared"


class GRPOConfig(AgentConfig):
    """Configuration of GRPO. Defaults follow the ALFWorld setting of the verl-agent family."""

    policy_coeff: float = key(
        1.0, number(0), "weight of the clipped surrogate; 0 leaves the other terms (OPSD)"
    )
    clip_low: float = key(
        0.2, number(0, below=1), "lower clip of the ratio", symbol="ε_lo", paper="0.2"
    )
    clip_high: float = key(
        0.2, number(0), "upper clip of the ratio", symbol="ε_hi", paper="0.2; 0.28 in DAPO"
    )
    dual_clip: float | None = key(
        3.0,
        Check(lambda v: v is None or (is_number(v, 1) and v > 1), "above 1, or none"),
        "bound of the loss of a negative advantage",
        symbol="c",
        paper="3; none in the Search-R1 family",
    )
    importance_ratio: Literal["token", "sequence"] = key(
        "token", one_of("token", "sequence"), "ratio of each token, or of the sequence (GSPO)"
    )
    loss_aggregation: Aggregation = key(
        "token-mean",
        one_of(*AGGREGATIONS),
        "mean over tokens and rows; the divisor of seq-mean-token-sum-norm is `max_context_tokens`",
    )
    advantage_statistics: Literal["episodes", "rows"] = key(
        "episodes", one_of("episodes", "rows"), "what group mean and deviation are taken over"
    )
    normalize_advantages: bool = key(
        True, FLAG, "division by the group's standard deviation", paper="false in Dr.GRPO"
    )
    advantage_eps: float = key(
        1e-6, number(above=0), "constant added to the standard deviation, unit of the return"
    )
    invalid_action_penalty: float = key(
        0.1, number(0), "return lost for each invalid action", paper="0.1; 0.01 on Search-QA"
    )
    kl_coeff: float = key(
        0.01,
        number(0),
        "weight of the KL to the frozen initial model; 0 loads none",
        symbol="β",
        paper="0.01; 0.001 on Search-QA",
    )
    kl_estimator: KLEstimator = key("k3", one_of(*KL_ESTIMATORS), "estimator of that KL")
    entropy_coeff: float = key(0.001, number(0), "weight of the entropy bonus", paper="0.001")
    dynamic_sampling: bool = key(
        False, FLAG, "new samples for groups whose returns are all equal (DAPO)"
    )
    dynamic_sampling_rounds: int = key(
        10, whole(1), "most sampling rounds of a step; the last keeps what there is", paper="10"
    )
    importance_cap: float | None = key(
        None,
        or_none(number(above=0)),
        "cap of the truncated importance weight between sampler and learner; none turns it off, "
        "its ratio is logged either way",
    )
    old_log_probs: Literal["learner", "sampler"] = key(
        "learner",
        one_of("learner", "sampler"),
        "denominator of the ratio: recomputed by the learner, or the sampler's own",
    )
    weight_decay: float = key(0.01, number(0), "AdamW weight decay", paper="0.01")
    adam_betas: tuple[float, float] = key(
        (0.9, 0.999),
        Check(
            lambda v: len(v) == 2 and all(is_number(beta, 0) and beta < 1 for beta in v),
            "two numbers in [0, 1)",
        ),
        "AdamW decay rates of the moments",
    )
    adam_eps: float = key(1e-8, number(0), "AdamW epsilon")
    lr_warmup_steps: int = key(0, whole(0), "optimizer steps of linear warm-up")
    credit_trace_interval: int = key(
        10,
        whole(0),
        "updates between samples of episodes, with the credit of every token, in `credit.jsonl`; "
        "0: none",
    )
    credit_trace_episodes: int = key(
        8, whole(1), "episodes of a sample in `credit.jsonl`; groups with an advantage come first"
    )

    @override(AgentConfig)
    def validate(self) -> None:
        """Checks the keys, and what a batch of older weights needs."""
        super().validate()
        if self.off_policy_steps and self.old_log_probs != "sampler":
            self._value_error(
                f"config.off_policy_steps=1 with old_log_probs={self.old_log_probs!r}: the "
                "learner's weights are an update ahead of those that sampled, and the ratio to its "
                "own log-probs would not correct for that. Set old_log_probs='sampler'."
            )

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> type[TokenLearner]:
        """The learner of the algorithm that the config builds."""
        return getattr(self.algo_class, "learner_class", GRPOLearner)

    @override(AlgorithmConfig)
    def build_learner_connector(
        self, input_observation_space: Any, input_action_space: Any, device: Any = None
    ) -> ConnectorV2:
        """Rows, advantages and scores, then the user's own pieces, then tensors on the device."""
        pipeline: Any = super().build_learner_connector(
            input_observation_space, input_action_space, device
        )
        for piece in reversed([*self.learner_connectors(), self.credit_trace()]):
            pipeline.prepend(piece)
        pipeline.append(NumpyToTensor(as_learner_connector=True, device=device))
        return pipeline

    def credit_trace(self) -> CreditTrace:
        """Takes the samples of `credit.jsonl`."""
        tokenizer = self.tokenizer()
        return CreditTrace(
            interval=self.credit_trace_interval,
            num_episodes=self.credit_trace_episodes,
            takes_one_step=self.takes_one_step(),
            decode=functools.partial(_decode, tokenizer),
        )

    def learner_connectors(self) -> list[ConnectorV2]:
        """The learner's connectors in order; an algorithm with another credit appends its own."""
        pieces: list[ConnectorV2] = [
            TokenBatch(),
            GroupAdvantages(
                statistics=self.advantage_statistics,
                normalize=self.normalize_advantages,
                eps=self.advantage_eps,
                penalty=self.invalid_action_penalty,
            ),
        ]
        if self.old_log_probs == "learner" and not self.takes_one_step():
            pieces.append(self.row_log_probs(OLD_LOG_PROBS, "policy"))
        if self.uses_reference():
            pieces.append(self.row_log_probs(REFERENCE_LOG_PROBS, self.reference_view()))
        return pieces

    def uses_reference(self) -> bool:
        """Whether the frozen initial model is needed."""
        return self.kl_coeff > 0

    def reference_view(self) -> View:
        """Which weights are the KL anchor: the frozen initial model's."""
        return "reference"

    def row_log_probs(self, column: str, view: View) -> ConnectorV2:
        """Scores all response tokens under one view of the module."""
        return RowLogProbs(column=column, view=view, max_tokens=self.micro_batch_tokens)

    def takes_one_step(self) -> bool:
        """Whether a training step is one optimizer step; then the old policy is the current one."""
        return self.num_epochs == 1 and self.minibatch_size is None

    @override(AgentConfig)
    def module_options(self) -> dict[str, Any]:
        """Adds the KL reference."""
        return super().module_options() | {
            "with_reference": self.uses_reference(),
            "entropy_gradient": self.entropy_coeff > 0,
        }


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))


class GRPOLearner(TokenLearner):
    """Clipped surrogate, KL to the frozen reference, entropy bonus."""

    config: GRPOConfig

    @override(TokenLearner)
    def compute_loss_for_module(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        *,
        module_id: str,
        config: GRPOConfig,
        batch: dict[str, Any],
        fwd_out: dict[str, Tensor],
    ) -> Tensor:
        """The loss of a micro-batch: its share of the minibatch loss."""
        del module_id
        log_probs_BT, mask_BT = fwd_out["policy_log_probs"], batch[RESPONSE_MASK]
        old_BT = self.old_log_probs(batch, log_probs_BT)
        if batch["is_on_policy"]:
            self._log_sampler_difference(batch, log_probs_BT.detach())
        ratio_of = token_log_ratio if config.importance_ratio == "token" else sequence_log_ratio
        surrogate = clipped_surrogate(
            ratio_of(log_probs_BT, old_BT, mask_BT),
            batch[ADVANTAGES],
            mask_BT,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            dual_clip=config.dual_clip,
        )
        loss_BT = surrogate.loss
        if config.importance_cap is not None:
            loss_BT = loss_BT * truncated_importance_weights(
                old_BT, batch[BEHAVIOUR_LOG_PROBS], mask_BT, maximum=config.importance_cap
            )
        loss = weighted_sum(loss_BT, batch["loss_weights"])
        self.sums.add_loss("policy_loss", loss)
        loss = config.policy_coeff * loss
        self.sums.add_mean("clip_fraction", surrogate.is_clipped, mask_BT)
        self.sums.add_mean("dual_clip_fraction", surrogate.is_dual_clipped, mask_BT)
        self.sums.add_mean("approximate_kl", old_BT - log_probs_BT, mask_BT)
        self.sums.add_mean("entropy", fwd_out["entropy"], mask_BT)
        self.sums.add_mean("advantage_magnitude", batch[ADVANTAGES].abs(), mask_BT)
        if config.kl_coeff > 0:
            kl_BT = kl_divergence(
                log_probs_BT, batch[REFERENCE_LOG_PROBS], mask_BT, estimator=config.kl_estimator
            )
            self.sums.add_mean("kl_to_reference", kl_BT, mask_BT)
            loss = loss + config.kl_coeff * weighted_sum(kl_BT, batch["loss_weights"])
        if config.entropy_coeff > 0:
            loss = loss - config.entropy_coeff * weighted_sum(
                fwd_out["entropy"], batch["loss_weights"]
            )
        return loss

    def old_log_probs(self, batch: dict[str, Any], log_probs_BT: Tensor) -> Tensor:
        """Log-probs of the policy before the step, float32 [B, T], detached."""
        if self.config.old_log_probs == "sampler":
            return batch[BEHAVIOUR_LOG_PROBS]
        return batch.get(OLD_LOG_PROBS, log_probs_BT.detach())

    @override(TokenLearner)
    def rows_with_gradient(self, columns: dict[str, Tensor]) -> Tensor:
        """Rows with an advantage; all rows where KL or entropy have a gradient everywhere."""
        if self.config.kl_coeff > 0 or self.config.entropy_coeff > 0:
            return super().rows_with_gradient(columns)
        return RowLayout.of(columns).any(columns[ADVANTAGES] != 0).nonzero()[:, 0]

    @override(TokenLearner)
    def rows_with_signal(self, columns: dict[str, Tensor]) -> Tensor:
        """Rows on which a term with a weight above 0 has a gradient."""
        if self.config.policy_coeff == 0:
            columns = columns | {"advantages": torch.zeros_like(columns["advantages"])}
        return super().rows_with_signal(columns)

    def _log_sampler_difference(self, batch: dict[str, Any], learner_BT: Tensor) -> None:
        mask_BT = batch[RESPONSE_MASK]
        difference_BT = learner_BT - batch[BEHAVIOUR_LOG_PROBS]
        ratio_BT = difference_BT.clamp(-20, 20).exp()
        self.sums.add_mean("sampler_log_prob_difference_mean", difference_BT.abs(), mask_BT)
        self.sums.add_max("sampler_log_prob_difference_max", difference_BT.abs(), mask_BT)
        self.sums.add_mean("sampler_importance_ratio_mean", ratio_BT, mask_BT)
        self.sums.add_mean(_RATIO_SQUARED, ratio_BT.square(), mask_BT)

    @override(TokenLearner)
    def derived_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Adds the effective sample size, (Σ r)² / (N Σ r²): 1 where sampler and learner agree."""
        squared = metrics.pop(_RATIO_SQUARED, None)
        if squared is None:
            return metrics
        size = metrics["sampler_importance_ratio_mean"] ** 2 / squared if squared else math.nan
        return metrics | {"effective_sample_size": size}


class GRPO(AgentAlgorithm):
    """GRPO as an RLlib algorithm."""

    config_class = GRPOConfig
    learner_class: type[TokenLearner] = GRPOLearner
