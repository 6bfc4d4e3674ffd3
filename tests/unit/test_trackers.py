"""What trackers and TensorBoard have of a real run of Ray Tune: the values of its result.json."""

import json
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stepopsd_rllib.report.run_files import flat_result
from tests.helpers.real_run import EXAMPLE, ITERATIONS


def results_of(run: Path) -> list[dict[str, float]]:
    """The finite numbers of each line of result.json."""
    (file,) = run.glob("*/result.json")
    rows = [flat_result(json.loads(line)) for line in file.read_text().splitlines()]
    assert len(rows) == ITERATIONS
    return [
        {k: v for k, v in row.items() if type(v) in (int, float) and math.isfinite(v)}
        for row in rows
    ]


def require_equal(found: list[dict[str, Any]], expected: list[dict[str, float]]) -> None:
    """Every number of every result, and no result more."""
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert len(theirs) > 100
        missing = {key for key in theirs if key not in mine}
        assert not missing
        assert {key: mine[key] for key in theirs} == pytest.approx(theirs, rel=1e-6)


def test_tensorboard_has_the_numbers_of_the_results(real_run):
    (folder,) = {path.parent for path in real_run.glob("*/result.json")}
    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()["scalars"]
    expected = results_of(real_run)
    by_step: dict[int, dict[str, float]] = {}
    for tag in tags:
        for event in events.Scalars(tag):
            by_step.setdefault(event.step, {})[tag.removeprefix("ray/tune/")] = event.value
    found = [by_step[step] for step in sorted(by_step)]
    left_out = {"pid", "timestamp", "time_total_s", "training_iteration", "timesteps_total"}
    rows = [{k: v for k, v in row.items() if k not in left_out} for row in expected]
    require_equal(found, rows)


def test_tensorboard_has_the_credit_of_a_real_run(real_run):
    (folder,) = {path.parent for path in real_run.glob("*/result.json")}
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "histograms": 0}).Reload()
    records = [json.loads(line) for line in (folder / "credit.jsonl").read_text().splitlines()]
    values: dict[int, list[float]] = {}
    for record in records:
        for turn in record["turns"]:
            values.setdefault(record["update"], []).extend(turn["log_prob_gap"])
    found = events.Histograms("credit/gap")
    assert len(found) == len(values) == ITERATIONS
    for event, numbers in zip(found, values.values(), strict=True):
        histogram = event.histogram_value
        assert (histogram.num, histogram.min, histogram.max) == pytest.approx(
            (len(numbers), min(numbers), max(numbers))
        )
    assert "_hparams_/session_start_info" in events.summary_metadata


def records_of(file: Path) -> list[bytes]:
    """The records of a file of wandb, which its client has no reader for any more.

    LevelDB's log behind a head of 7 bytes: blocks of 32 KiB, in them fragments with a checksum of 4
    bytes, a length of 2 and a type: 1 whole, 2 first, 3 middle, 4 last of a record.
    """
    data, at, block = file.read_bytes(), 7, 32 * 2**10
    assert data[:4] == b":W&B"
    records, parts = [], []
    while at + 7 <= len(data):
        if block - at % block < 7:  # too little for a head: padding
            at += block - at % block
            continue
        checksum, size, kind = struct.unpack_from("<IHB", data, at)
        if checksum == size == kind == 0:
            break
        parts.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):
            records.append(b"".join(parts))
            parts = []
    return records


def test_wandb_offline_has_the_numbers_of_the_results(real_run):
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = real_run.glob("wandb/offline-run-*/*.wandb")
    found = []
    for data in records_of(file):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {}
            for item in record.history.item:
                row[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            found.append(row)
    config_keys = {"pid"}
    expected = [{k: v for k, v in r.items() if k not in config_keys} for r in results_of(real_run)]
    require_equal(found, expected)


def test_mlflow_has_the_numbers_of_the_results(real_run):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=str(real_run.parents[1] / "mlruns"))
    experiment = client.get_experiment_by_name("houses")
    assert experiment is not None
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["env"] == EXAMPLE["env"]
    found: list[dict[str, float]] = [{} for _ in range(ITERATIONS)]
    for key in logged.data.metrics:
        for metric in client.get_metric_history(logged.info.run_id, key):
            found[metric.step - 1][key] = metric.value
    require_equal(found, results_of(real_run))


def test_comet_offline_has_the_numbers_of_the_results(real_run):
    pytest.importorskip("comet_ml", reason="comet_ml is not installed")
    (file,) = real_run.glob("comet/*.zip")
    found: list[dict[str, float]] = [{} for _ in range(ITERATIONS)]
    with zipfile.ZipFile(file) as archive:
        for line in archive.read("messages.json").decode().splitlines():
            metric = json.loads(line).get("payload", {}).get("metric")
            if metric and metric.get("step") is not None:  # others are of the machine
                found[int(metric["step"]) - 1][metric["metricName"]] = metric["metricValue"]
    expected = [{k: v for k, v in row.items() if k != "pid"} for row in results_of(real_run)]
    require_equal(found, expected)
