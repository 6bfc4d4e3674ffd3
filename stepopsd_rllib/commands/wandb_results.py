"""Ray's W&B callback, which says when its logging process has died.

That process is an actor of its own: where it fails (no such project, no right to it), Ray's
callback goes on putting results into a queue that nobody reads.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune.experiment import Trial


class WandbResults(WandbLoggerCallback):
    """As Ray's; raises what the logging process of a trial raised."""

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Sends the result, unless nobody is there to take it."""
        future = self._trial_logging_futures.get(trial)
        if future is not None and ray.wait([future], timeout=0)[0]:
            ray.get(future)
        super().log_trial_result(iteration, trial, result)
