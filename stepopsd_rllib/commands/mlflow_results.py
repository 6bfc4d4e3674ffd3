"""Ray's MLflow callback, with one request a result.

Ray's sends each of a result's numbers by itself, with a look-up before it: seconds an iteration for
a server on another machine. The names of a result may hold what MLflow takes in none (a task type
such as "pick (hot)").
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from numbers import Real
from typing import Any

from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.experiment import Trial
from ray.tune.utils import flatten_dict

_UNNAMEABLE = re.compile(r"[^\w\-. :/]")
_BATCH = 1000
"""Metrics that MLflow takes in one request."""


class MLflowResults(MLflowLoggerCallback):
    """As Ray's; the step of a value is its training iteration."""

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Sends all numbers of a result."""
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        del iteration
        now, step = int(time.time() * 1000), result["training_iteration"]
        metrics = [Metric(key, value, now, step) for key, value in numbers(result).items()]
        client = MlflowClient(tracking_uri=self.tracking_uri)
        for start in range(0, len(metrics), _BATCH):
            batch = metrics[start : start + _BATCH]
            client.log_batch(self._trial_runs[trial], metrics=batch, synchronous=True)


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a result by names that MLflow takes; nested keys joined by "/"."""
    flat = flatten_dict(
        {key: value for key, value in result.items() if key != "config"}, delimiter="/"
    )
    return {
        _UNNAMEABLE.sub("_", key): float(value)
        for key, value in flat.items()
        if isinstance(value, Real)
    }
