"""OPID: hindsight skills of each finished episode shift the outcome advantage.

An analyzer reads every finished episode and writes a skill for the episode and a few for its
decisive turns. The old policy scores each response again with a skill in the prompt; with lp_X
under the skill and r_X whether the turn was scored (X: episode skill E, step skill Z),

    S_X = sg(lp_X − lp_old) · r_X        optionally standardised, then clipped to ±c
    A   = A_outcome + w_E · S_E + w_Z · S_Z

At θ = θ_old the added term is an unbiased estimate of the gradient of KL(policy‖skilled policy). It
acts in groups without an outcome signal too, and can flip the sign of an advantage. The functions
are in `stepopsd_rllib.objectives.opid`.

Departures, and the key that restores each:

- the analyzer is rule-based by default, so that a run needs no network; the authors ask a model
  behind an endpoint: `analyzer={"model": ..., "base_url": ...}`. With `analyzer="policy"` the
  policy reads its own episodes, between rollout and update, in the engine that played them. An
  episode that the analyzer fails on keeps its outcome advantage;
- w_E = w_Z = 0.001 as in the authors' scripts; their code defaults to 1 and 0;
- with a growing chat (`context="append"`) the episode's skill stands in the first message and is
  read by all turns; the authors rebuild every prompt: `context="window"`;
- a skill beyond its budget is cut from its own end and counted; the authors cut the prompt's front.

The authors' protocol on ALFWorld is 30 turns with a window of 5. Their auxiliary loss is off in all
scripts and not part of this file.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, Self

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.shared.policy_analysis import analysis_by_policy
from stepopsd_rllib.algorithms.shared.skill_teacher import require_room
from stepopsd_rllib.config_keys import KeyCheck, is_int, is_number
from stepopsd_rllib.connectors.episode_analysis import EpisodeAnalysis
from stepopsd_rllib.connectors.skill_log_probs import SkillLogProbs
from stepopsd_rllib.objectives.opid import (
    SkillRoute,
    opid_advantages,
    opid_diagnostics,
    route_skills,
    skill_shift,
)
from stepopsd_rllib.rollout.policy_analysis import PolicyAnalysis
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeAnalyzer
from stepopsd_rllib.teachers.analysis.analyzer_setting import AnalyzerSetting, make_analyzer
from stepopsd_rllib.teachers.skill_insertion import insert_skills
from stepopsd_rllib.training.keys import UNSET, set_given


class OPIDConfig(GRPOConfig):
    """Configuration of OPID; defaults follow the authors' scripts."""

    def __init__(self, algo_class: type | None = None):
        """Sets the defaults."""
        super().__init__(algo_class=algo_class or OPID)
        self.episode_skill_weight = 0.001
        self.step_skill_weight = 0.001
        self.skill_routing: Literal["step_priority", "additive"] = "step_priority"
        self.normalize_skill_advantages = False
        self.skill_advantage_clip: float | None = None
        self.analyzer: AnalyzerSetting = "rules"
        self.max_step_skills = 5
        self.skill_max_tokens = 256

    @override(GRPOConfig)
    def training(
        self,
        *,
        episode_skill_weight: float = UNSET,
        step_skill_weight: float = UNSET,
        skill_routing: str = UNSET,
        normalize_skill_advantages: bool = UNSET,
        skill_advantage_clip: float | None = UNSET,
        analyzer: str | dict[str, Any] = UNSET,
        max_step_skills: int = UNSET,
        skill_max_tokens: int = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Sets analyzer and skill advantages.

        Args:
            episode_skill_weight: w_E (0.001). 0 for both weights is GRPO.
            step_skill_weight: w_Z (0.001).
            skill_routing: "step_priority": the step's skill where there is one, else the episode's;
                "additive": the episode's everywhere, and the step's too.
            normalize_skill_advantages: Standardise S_X over the scored tokens.
            skill_advantage_clip: c, nats (standard deviations if normalised), or none.
            analyzer: "rules"; "policy", or a mapping with `engine: policy` and keys of
                `PolicySettings`; or the keys of `EndpointSettings`, of which `model` is needed.
            max_step_skills: K, step skills an episode (5; 2 on Search-QA).
            skill_max_tokens: Cap of one skill; what exceeds it is cut from its end and counted.
            kwargs: Keys of GRPO and RLlib.

        Returns:
            This config.
        """
        set_given(self, locals())
        return super().training(**kwargs)

    @override(GRPOConfig)
    def validate(self) -> None:
        """Checks the keys, and that the analyzer can be made."""
        self.require(_RANGES)
        super().validate()
        self.make_analyzer()
        if self.uses_skills():
            self.policy_analysis()
            require_room(self, "skill_max_tokens")

    def uses_skills(self) -> bool:
        """Whether a skill has a weight."""
        return self.episode_skill_weight > 0 or self.step_skill_weight > 0

    def route(self, step_skill: str) -> SkillRoute:
        """Which skills a turn of an analysed episode is scored under."""
        return route_skills(
            step_skill,
            episode_weight=self.episode_skill_weight,
            step_weight=self.step_skill_weight,
            routing=self.skill_routing,
        )

    def make_analyzer(self) -> EpisodeAnalyzer:
        """The analyzer that the key names."""
        return make_analyzer(
            self.analyzer, max_step_skills=self.max_step_skills, env=self.env_class()
        )

    @override(GRPOConfig)
    def policy_analysis(self) -> PolicyAnalysis | None:
        """Every episode that can be trained on."""
        if not self.uses_skills():
            return None
        return analysis_by_policy(
            self,
            self.make_analyzer(),
            lambda episodes: [episode for episode in episodes if episode.is_trainable],
        )

    @override(GRPOConfig)
    def learner_connectors(self) -> list[ConnectorV2]:
        """GRPO's pieces, then analysis, rescoring, skill advantages."""
        pieces = super().learner_connectors()
        if not self.uses_skills():
            return pieces
        chat = self.chat_format()
        return [
            *pieces,
            EpisodeAnalysis(
                analyzer=self.make_analyzer(),
                chat=chat,
                max_tokens=self.skill_max_tokens,
            ),
            SkillLogProbs(
                route=self.route,
                chat=chat,
                insert=functools.partial(
                    insert_skills,
                    task_phrases=self.env_class().task_phrases,
                    turn_phrases=self.env_class().turn_phrases,
                ),
                max_tokens=self.micro_batch_tokens,
            ),
            SkillAdvantages(config=self),
        ]


_RANGES: list[KeyCheck] = [
    ("episode_skill_weight", lambda v: is_number(v, 0), "a number, at least 0"),
    ("step_skill_weight", lambda v: is_number(v, 0), "a number, at least 0"),
    (
        "skill_routing",
        lambda v: v in ("step_priority", "additive"),
        "'step_priority' or 'additive'",
    ),
    ("normalize_skill_advantages", lambda v: isinstance(v, bool), "true or false"),
    (
        "skill_advantage_clip",
        lambda v: v is None or (is_number(v, 0) and v > 0),
        "a number above 0, or none",
    ),
    ("max_step_skills", lambda v: is_int(v, 0), "a whole number, at least 0"),
    ("skill_max_tokens", lambda v: is_int(v, 1), "a whole number of tokens, at least 1"),
]


class SkillAdvantages(ConnectorV2):
    """Adds the weighted shifts to `advantages`; keeps the outcome's as `group_advantages`."""

    def __init__(self, *, config: OPIDConfig, **kwargs: Any):
        """Keeps the knobs."""
        super().__init__(**kwargs)
        self.config = config

    @override(ConnectorV2)
    def __call__(
        self, *, batch: dict[str, Any], metrics: MetricsLogger | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Adds, and logs how much of the advantage the skills make up."""
        config, columns = self.config, batch[DEFAULT_MODULE_ID]
        shift = {
            kind: skill_shift(
                columns[f"{kind}_skill_log_probs"],
                columns["plain_log_probs"],
                columns[f"has_{kind}_skill"],
                normalize=config.normalize_skill_advantages,
                clip=config.skill_advantage_clip,
            )
            for kind in ("episode", "step")
        }
        outcome_BT = columns["group_advantages"] = columns["advantages"]
        weights = {
            "episode_weight": config.episode_skill_weight,
            "step_weight": config.step_skill_weight,
        }
        columns["advantages"] = opid_advantages(
            outcome_BT, shift["episode"], shift["step"], **weights
        )
        if metrics is not None:
            skill_BT = opid_advantages(
                torch.zeros_like(outcome_BT), shift["episode"], shift["step"], **weights
            )
            values = opid_diagnostics(outcome_BT, skill_BT, columns["response_mask"])
            mask_BT = columns["response_mask"]
            values["skill_advantage_mean"] = skill_BT[mask_BT].mean()
            values["skill_advantage_magnitude"] = skill_BT[mask_BT].abs().mean()
            for name, value in values.items():
                metrics.log_value((DEFAULT_MODULE_ID, name), float(value), window=1)
        return batch


class OPID(GRPO):
    """OPID as an RLlib algorithm."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> OPIDConfig:
        """The default config."""
        return OPIDConfig()
