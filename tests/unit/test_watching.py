"""The time left, the lines of `watch`, and what TensorBoard reads back."""

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

import stepopsd_cli
from stepopsd_rllib.commands import live_view, watching
from stepopsd_rllib.commands.tensorboard_samples import (
    TensorBoardSamples,
    as_markdown,
    hyper_parameters,
    write_samples,
)
from stepopsd_rllib.commands.time_left import TimeLeft
from tests.helpers.run_folders import write_run


def run_of(durations: list[float], evaluations: dict[int, float], interval: int) -> list[dict]:
    """Results of iterations that train so long, and evaluate so long after which updates."""
    results, last = [], {}
    for i, seconds in enumerate(durations, start=1):
        made = [at for at in ([0, 1] if i == 1 else [i]) if at in evaluations]
        if made:
            last = {"evaluation/iteration": made[-1], "evaluation/seconds": evaluations[made[-1]]}
        spent = seconds + sum(evaluations[at] for at in made)
        total = (results[-1]["time_total_s"] if results else 0.0) + spent
        result = {"training_iteration": i, "time_this_iter_s": spent, "time_total_s": total}
        results.append(result | last)
    return results


@pytest.mark.parametrize(
    ("num_iterations", "interval", "evaluation_seconds"),
    [(40, 20, 150.0), (60, 0, 0.0), (30, 10, 60.0), (8, 1, 30.0), (100, 50, 5.0)],
)
def test_the_first_time_left_is_right_within_half(
    num_iterations: int, interval: int, evaluation_seconds: float
):
    at = [i for i in range(1, num_iterations + 1) if interval and i % interval == 0]
    made: list[int] = [0, *at] if interval else []
    evaluations: dict[int, float] = dict.fromkeys(made, evaluation_seconds)
    # The first iteration warms up: it takes a quarter longer.
    results = run_of([10.0 * 1.25, *[10.0] * (num_iterations - 1)], evaluations, interval)
    left = TimeLeft({"training_iteration": num_iterations}, {"evaluation_interval": interval})
    for result in results:
        left.take(result)
        truth = results[-1]["time_total_s"] - result["time_total_s"]
        assert left.seconds(result) == pytest.approx(truth, rel=0.5, abs=1e-6)


def test_a_time_limit_that_comes_first_is_the_time_left_and_others_give_none():
    result = {"training_iteration": 9, "time_this_iter_s": 5.0, "time_total_s": 50.0}
    both = TimeLeft({"training_iteration": 60, "time_total_s": 80}, {})
    none = TimeLeft({"evaluation/success_rate": 0.9}, {})
    for left in (both, none):
        left.take(result)
    assert both.seconds(result) == 30.0
    assert none.seconds(result) is None


def watched(folder: Path, **console: object) -> str:
    out = io.StringIO()
    options = {"file": out, "width": 200, **console}
    assert watching.watch(str(folder), once=True, console=Console(**options)) == 0  # type: ignore
    return out.getvalue()


def test_without_a_terminal_watch_writes_a_line_an_iteration(tmp_path):
    run = {"trials": {"house": {"stop": {"training_iteration": 12}, "config": {}}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    write_run(tmp_path / "house", samples=8)
    lines = watched(tmp_path).splitlines()
    assert len(lines) == 8
    assert lines[-1].startswith("iteration  8/12  success 62.0%")
    assert lines[-1].endswith("10.0 s  0:40 left")


def test_with_a_terminal_watch_draws_bars_and_sparklines(tmp_path):
    (tmp_path / "run.json").write_text(
        json.dumps({"trials": {"house": {"stop": {"training_iteration": 12}, "config": {}}}})
    )
    write_run(tmp_path / "house", samples=8)
    shown = watched(tmp_path, force_terminal=True)
    assert "8/12" in shown and "▁" in shown and "█" in shown and "0:40" in shown


def test_watch_waits_for_the_end_of_a_line_and_ends_with_the_run(tmp_path):
    trial_folder = write_run(tmp_path / "house", samples=8)
    path = trial_folder / "result.json"
    text = path.read_text()
    path.write_text(text[:-30])
    trial = watching.WatchedTrial(trial_folder)
    assert len(trial.read_on()) == 7 and not trial.is_over
    path.write_text(text)
    trial.stop = {"training_iteration": 8}
    assert [row["training_iteration"] for row in trial.read_on()] == [8]
    assert trial.is_over


def test_a_sparkline_runs_from_the_lowest_to_the_highest():
    assert live_view.sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert live_view.sparkline([2.0, math.nan, 2.0]) == "▄▄"
    assert live_view.sparkline([]) == ""


def test_watching_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert stepopsd_cli.main(["watch", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_tensorboard_reads_histograms_texts_and_lengths_back(tmp_path):
    trial_folder = write_run(tmp_path / "house", samples=8)
    lines = (trial_folder / "credit.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    writer = SummaryWriter(str(tmp_path / "events"))
    write_samples(writer, records, 7)
    writer.close()
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"tensors": 0}).Reload()
    values = [v for r in records for turn in r["turns"] for v in turn["log_prob_gap"]]
    (event,) = events.Histograms("credit/gap")
    histogram = event.histogram_value
    assert event.step == 7
    assert (histogram.num, histogram.min, histogram.max) == pytest.approx(
        (len(values), min(values), max(values))
    )
    assert histogram.sum == pytest.approx(sum(values), abs=1e-6)
    tags = set(events.Tags()["histograms"])
    assert {"credit/weight", "credit/shaped_advantage", "episodes/response_tokens"} <= tags
    (text,) = events.Tensors("episodes/won/text_summary")
    won = next(record for record in records if record["won"])
    assert text.tensor_proto.string_val[0].decode() == as_markdown(won)


def test_hyper_parameters_are_the_keys_with_one_value():
    written = {"run": "GRPO", "lr": 1e-4, "env_config": {"size": "tiny"}, "adam_betas": [0.9, 0.99]}
    assert hyper_parameters(written) == {"run": "GRPO", "lr": 1e-4, "env_config.size": "tiny"}


def test_a_trial_writes_its_samples_once_and_its_keys_for_the_hparams_tab(tmp_path):
    storage = SimpleNamespace(
        storage_filesystem=pyarrow.fs.LocalFileSystem(), trial_fs_path=str(tmp_path / "house")
    )
    trial: Any = SimpleNamespace(trial_id="one", storage=storage)  # as Tune hands it over
    callback = TensorBoardSamples({"house": {"run": "GRPO", "lr": 1e-4}})
    callback.on_trial_start(0, [trial], trial)
    write_run(tmp_path / "house", samples=8)
    for iteration in (1, 2):
        callback.on_trial_result(0, [trial], trial, {"training_iteration": iteration})
    callback.on_trial_complete(0, [trial], trial)
    events = EventAccumulator(str(tmp_path / "house"), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in events.Histograms("credit/gap")] == [1]
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data
    assert plugin.plugin_name == "hparams"
    assert b"GRPO" in plugin.content and b"lr" in plugin.content
