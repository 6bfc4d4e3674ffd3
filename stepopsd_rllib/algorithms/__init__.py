"""The algorithms, one paper a file, and the names under which Tune and tuned examples know them."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm

from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.stepopsd import StepOPSD, StepOPSDConfig

ALGORITHMS: dict[str, type[Algorithm]] = {"GRPO": GRPO, "StepOPSD": StepOPSD}

__all__ = ["ALGORITHMS", "GRPO", "GRPOConfig", "StepOPSD", "StepOPSDConfig"]
