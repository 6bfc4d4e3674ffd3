"""`result.json` written where the run folder is, line by line.

Tune's logger writes into a session folder and copies from time to time: a driver that is killed
loses minutes of results whose checkpoints are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.fs
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback

from stepopsd_rllib.report.run_files import RESULTS


class ResultLines(JsonLoggerCallback):
    """Tune's JSON logger with another place for `result.json` on a local storage."""

    _trial_files: dict[Trial, Any]

    def log_trial_start(self, trial: Trial) -> None:
        """Opens the file, to append."""
        storage: Any = trial.storage
        if not isinstance(storage.storage_filesystem, pyarrow.fs.LocalFileSystem):
            super().log_trial_start(trial)
            return
        if trial in self._trial_files:
            self._trial_files[trial].close()
        trial.init_local_path()
        self.update_config(trial, trial.config)
        folder = Path(storage.trial_fs_path)
        folder.mkdir(parents=True, exist_ok=True)
        self._trial_files[trial] = (folder / RESULTS).open("at", encoding="utf-8")
