"""Credit assignment for multi-turn language-model agents on Ray RLlib.

Importing this package registers its algorithms with Ray Tune under their class names, so that
`Tuner("GRPO", param_space={...})` finds them, and the environments of `stepopsd_envs` with
Gymnasium under their ids.
"""

from __future__ import annotations

import stepopsd_envs  # noqa: F401  (registers the ids of its environments)
from ray.tune import register_trainable

from stepopsd_rllib import algorithms
from stepopsd_rllib.algorithms import *  # noqa: F403  (its public names are this package's)
from stepopsd_rllib.algorithms import ALGORITHMS

__all__ = ["ALGORITHMS"]
__all__ += algorithms.__all__

for _name, _algorithm in ALGORITHMS.items():
    register_trainable(_name, _algorithm)
