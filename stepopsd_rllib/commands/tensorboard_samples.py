"""What TensorBoard shows of a trial beside Tune's scalars: credit, episodes, hyper-parameters.

Tune's own logger writes every number of a result. This adds histograms of Δ, w, Ã and of response
lengths, a won and a lost episode as text, each time `credit.jsonl` has a new sample, and the
example's keys for the hparams tab, in an event file of its own beside Tune's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray import tune
from ray.tune.experiment import Trial
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from stepopsd_rllib.report.inspect_page.inspected_files import SAMPLES

HISTOGRAMS = {"log_prob_gap": "gap", "weight": "weight", "advantage": "shaped_advantage"}
"""Fields of the tokens in `credit.jsonl`, and how TensorBoard calls them."""
SUFFIX = ".credit"
"""End of the event file's name, which tells it from Tune's."""
# Scalars that Tune's logger writes, by which the hparams tab sorts trials.
METRICS = tuple(
    f"ray/tune/{key}"
    for key in (
        "env_runners/success_rate",
        "env_runners/episode_return_mean",
        "evaluation/success_rate",
        "time_total_s",
    )
)


class TensorBoardSamples(tune.Callback):
    """Writes the samples of every trial as they come; a storage that is not local gets none."""

    def __init__(self, written: Mapping[str, Mapping[str, Any]]):
        """Takes the keys of the example by trial folder, with the method under `run`."""
        self._written = written
        self._writers: dict[str, SummaryWriter] = {}
        self._offsets: dict[str, int] = {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Writes the hyper-parameters, and passes over samples from before a resumption."""
        folder = _folder(trial)
        if folder is None or trial.trial_id in self._writers:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SAMPLES
        self._offsets[trial.trial_id] = path.stat().st_size if path.is_file() else 0
        writer = SummaryWriter(str(folder), filename_suffix=SUFFIX)
        self._writers[trial.trial_id] = writer
        values = hyper_parameters(self._written.get(folder.name, {}))
        events = writer.file_writer
        if values and events is not None:
            for summary in hparams(values, dict.fromkeys(METRICS, 0.0)):
                events.add_summary(summary)
            writer.flush()

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Writes the samples that have come since the last result."""
        folder, writer = _folder(trial), self._writers.get(trial.trial_id)
        if folder is None or writer is None or not (folder / SAMPLES).is_file():
            return
        with (folder / SAMPLES).open("rb") as file:
            file.seek(self._offsets[trial.trial_id])
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._offsets[trial.trial_id] += len(whole)
        records = [json.loads(line) for line in whole.splitlines()]
        if records:
            # The axis of Tune's own scalars.
            step = result.get("timesteps_total") or result["training_iteration"]
            write_samples(writer, records, step)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Closes the file."""
        self._close(trial)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Closes the file."""
        self._close(trial)

    def _close(self, trial: Trial) -> None:
        writer = self._writers.pop(trial.trial_id, None)
        if writer is not None:
            writer.close()


def write_samples(writer: SummaryWriter, records: list[dict[str, Any]], step: int) -> None:
    """Histograms over the tokens and turns of a sample, and a won and a lost episode as text."""
    turns = [turn for record in records for turn in record["turns"]]
    for field, name in HISTOGRAMS.items():
        values = [value for turn in turns for value in turn.get(field, ())]
        if values:
            writer.add_histogram(f"credit/{name}", values, step)
    if turns:
        lengths = [len(turn["tokens"]) for turn in turns]
        writer.add_histogram("episodes/response_tokens", lengths, step)
    for name, won in (("won", True), ("lost", False)):
        record = next((record for record in records if record["won"] is won), None)
        if record is not None:
            writer.add_text(f"episodes/{name}", as_markdown(record), step)
    writer.flush()


def as_markdown(record: Mapping[str, Any]) -> str:
    """An episode as Markdown; texts are indented, so that none of them is markup."""
    parts = [f"{record['status']}, return {record['return']:g}, iteration {record['update']}"]
    for k, turn in enumerate(record["turns"], start=1):
        parts += [
            f"Turn {k}",
            _indented(turn["observation"]),
            "policy:",
            _indented(turn["response"]),
        ]
    return "\n\n".join(parts)


def hyper_parameters(written: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with one value: what the hparams tab can sort by."""
    flat: dict[str, Any] = {}
    for key, value in written.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": v for name, v in hyper_parameters(value).items()}
        elif isinstance(value, (bool, int, float, str)):
            flat[key] = value
    return flat


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _folder(trial: Trial) -> Path | None:
    storage: Any = trial.storage
    if not isinstance(storage.storage_filesystem, pyarrow.fs.LocalFileSystem):
        return None
    return Path(storage.trial_fs_path)
