"""What trackers and TensorBoard have of a real run of Ray Tune: the values of its result.json."""

import importlib.util
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import ray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stepopsd_rllib.commands import storage, trackers, trials, tuned
from stepopsd_rllib.commands.run_file import TRAIN, Run, planned
from stepopsd_rllib.report.run_files import flat_result

ITERATIONS = 2
NAMES = {"wandb": "wandb", "mlflow": "mlflow", "comet": "comet_ml", "aim": "aim"}
EXAMPLE = {
    "run": "StepOPSD",
    "env": "stepopsd/ALFWorld-v0",
    "stop": {"training_iteration": ITERATIONS},
    "config": {
        "env_config": {
            "size": "tiny",
            "max_turns": 4,
            "think": "off",
            "instructions": False,
            "show_admissible_commands": False,
        },
        "model": "tiny",
        "sampler": "transformers",
        "max_response_tokens": 16,
        "max_context_tokens": 512,
        "groups_per_step": 2,
        "group_size": 2,
        "hindsight": "peer",
        "hindsight_max_tokens": 128,
        "credit_trace_interval": 1,
        "evaluation_interval": 1,
        "eval_num_tasks": 4,
    },
}


def is_installed(service: str) -> bool:
    return importlib.util.find_spec(NAMES[service]) is not None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run folder of a run that told every tracker that is installed, and where these wrote."""
    folder = tmp_path_factory.mktemp("tracked")
    log_to = {
        "wandb": "wandb:houses,mode=offline",
        "mlflow": f"mlflow:houses,tracking_uri={folder / 'mlruns'}",
        "comet": "comet:houses,online=false",
        "aim": "aim:houses",
    }
    body = EXAMPLE | {"log_to": [log_to[name] for name in NAMES if is_installed(name)]}
    example = tuned.checked("houses.yaml", "houses", body)
    trackers.require("log_to", example.log_to)
    where = storage.open_storage(str(folder / "runs"))
    name = storage.reserve(where, "houses", "houses")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    said: list[str] = []
    try:
        todo = Run(kind=TRAIN, trials=planned(example, [""]))
        ended, _, _ = trials.run_trials(todo, where, name, said.append)
    finally:
        ray.shutdown()
        os.environ.pop("WANDB_MODE", None)
    assert [trial.status for trial in ended] == ["TERMINATED"], said
    assert not [line for line in said if "goes on without it" in line], said
    return folder / "runs" / "houses"


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


def test_tensorboard_has_the_numbers_of_the_results(run):
    (folder,) = {path.parent for path in run.glob("*/result.json")}
    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()["scalars"]
    expected = results_of(run)
    found: list[dict[str, float]] = [{} for _ in expected]
    for tag in tags:
        for row, event in zip(found, events.Scalars(tag)[-ITERATIONS:], strict=False):
            row[tag.removeprefix("ray/tune/")] = event.value
    left_out = {"pid", "timestamp", "time_total_s", "training_iteration", "timesteps_total"}
    rows = [{k: v for k, v in row.items() if k not in left_out} for row in expected]
    require_equal(found, rows)


def test_tensorboard_has_the_credit_of_a_real_run(run):
    (folder,) = {path.parent for path in run.glob("*/result.json")}
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


def test_wandb_offline_has_the_numbers_of_the_results(run):
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    store = DataStore()
    store.open_for_scan(str(file))
    found = []
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {}
            for item in record.history.item:
                row[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            found.append(row)
    config_keys = {"pid"}
    expected = [{k: v for k, v in r.items() if k not in config_keys} for r in results_of(run)]
    require_equal(found, expected)


def test_mlflow_has_the_numbers_of_the_results(run):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=str(run.parents[1] / "mlruns"))
    experiment = client.get_experiment_by_name("houses")
    assert experiment is not None
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["env"] == EXAMPLE["env"]
    found: list[dict[str, float]] = [{} for _ in range(ITERATIONS)]
    for key in logged.data.metrics:
        for metric in client.get_metric_history(logged.info.run_id, key):
            found[metric.step - 1][key] = metric.value
    require_equal(found, results_of(run))


def test_comet_offline_has_the_numbers_of_the_results(run):
    pytest.importorskip("comet_ml", reason="comet_ml is not installed")
    (file,) = run.glob("comet/*.zip")
    found: list[dict[str, float]] = [{} for _ in range(ITERATIONS)]
    with zipfile.ZipFile(file) as archive:
        for line in archive.read("messages.json").decode().splitlines():
            metric = json.loads(line).get("payload", {}).get("metric")
            if metric and metric.get("metricName"):
                found[int(metric["step"]) - 1][metric["metricName"]] = metric["metricValue"]
    require_equal(found, results_of(run))


def test_aim_has_the_numbers_of_the_results(run):
    pytest.importorskip("aim", reason="aim is not installed")
    from aim.sdk import Repo

    found: list[dict[str, float]] = [{} for _ in range(ITERATIONS)]
    for logged in Repo(str(run)).iter_runs():
        for metric in logged.metrics():
            _, (values, _, _) = metric.data.numpy()
            for row, value in zip(found, values, strict=True):
                row[metric.name.removeprefix("ray/tune/")] = value
    left_out = {"pid", "timestamp", "time_total_s", "training_iteration"}
    expected = [{k: v for k, v in r.items() if k not in left_out} for r in results_of(run)]
    require_equal(found, expected)
