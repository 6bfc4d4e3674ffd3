"""When a trial will end, foreseen from its iterations so far."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

RECENT_ITERATIONS = 10
"""Iterations whose mean duration predicts the rest; episodes get shorter or longer."""


class TimeLeft:
    """Foresees the end of one trial; training and evaluations are counted apart.

    The first iteration holds the evaluation before any update, which can take longer than the
    training does: it says nothing of the iterations to come.
    """

    def __init__(self, stop: Mapping[str, float], config: Mapping[str, Any]):
        """Takes the stop conditions and the config, of which it reads how often is evaluated."""
        self._stop = stop
        self._interval = int(config.get("evaluation_interval") or 0)
        self._eval_at_start = bool(config.get("eval_at_start", True))
        self._training: deque[float] = deque(maxlen=RECENT_ITERATIONS)
        self._evaluation: float = 0.0
        self._evaluated_at: float = math.nan

    def take(self, flat: Mapping[str, Any]) -> None:
        """Learns the durations of one iteration; `flat` has nested keys joined by "/"."""
        made_at = flat.get("evaluation/iteration", math.nan)
        spent = 0.0
        if not math.isnan(made_at) and made_at != self._evaluated_at:
            self._evaluated_at = made_at
            self._evaluation = float(flat.get("evaluation/seconds", 0.0))
            # Of two evaluations in the first iteration, the result has the second.
            has_two = flat["training_iteration"] == made_at == 1 and self._eval_at_start
            spent = self._evaluation * (2 if has_two else 1)
        self._training.append(max(0.0, flat["time_this_iter_s"] - spent))

    @property
    def seconds_an_iteration(self) -> float | None:
        """Mean of the recent ones, evaluations not counted; None before the first."""
        return sum(self._training) / len(self._training) if self._training else None

    def seconds(self, flat: Mapping[str, Any]) -> float | None:
        """Seconds to the first limit that can be foreseen: iterations or time; None without one."""
        candidates = []
        mean = self.seconds_an_iteration
        if "training_iteration" in self._stop and mean is not None:
            done, last = flat["training_iteration"], self._stop["training_iteration"]
            evaluations = last // self._interval - done // self._interval if self._interval else 0
            candidates.append(max(0.0, last - done) * mean + max(0, evaluations) * self._evaluation)
        if "time_total_s" in self._stop:
            candidates.append(max(0.0, self._stop["time_total_s"] - flat["time_total_s"]))
        return min(candidates) if candidates else None
