"""The algorithms, one paper a file, and the names under which Tune and tuned examples know them."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm

ALGORITHMS: dict[str, type[Algorithm]] = {}
