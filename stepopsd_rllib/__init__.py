"""Credit assignment for multi-turn language-model agents on Ray RLlib.

Importing this package registers its algorithms with Ray Tune under their class names, so that
`Tuner("GRPO", param_space={...})` finds them.
"""

from __future__ import annotations

from ray.tune import register_trainable

from stepopsd_rllib.algorithms import (
    ALGORITHMS,
    GRPO,
    GRPOConfig,
    StepOPSD,
    StepOPSDConfig,
)

__all__ = ["ALGORITHMS", "GRPO", "GRPOConfig", "StepOPSD", "StepOPSDConfig"]

for _name, _algorithm in ALGORITHMS.items():
    register_trainable(_name, _algorithm)
