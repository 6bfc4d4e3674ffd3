"""`report.Run`: frames that hold what the files hold, and figures; the notebook's cells run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from stepopsd_rllib.report import Run
from tests.helpers.run_folders import write_run

NOTEBOOK = Path(__file__).parents[2] / "docs" / "look_at_a_run.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    for seed, name in enumerate(("first", "second")):
        write_run(run / name, samples=16, seed=seed)
    return run


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_token_of_every_sample_is_a_row(folder):
    run = Run(folder)
    records = [r for name in run.names for r in lines_of(folder / name / "credit.jsonl")]
    turns = [turn for record in records for turn in record["turns"]]
    for field in ("log_prob_gap", "weight", "advantage", "in_span"):
        assert run.credit[field].tolist() == [v for turn in turns for v in turn[field]]
    assert run.credit["token"].tolist() == [t for turn in turns for t in turn["tokens"]]
    assert len(run.turns) == len(turns) and len(run.episodes) == len(records)
    assert sum(run.episodes["tokens"].tolist()) == len(run.credit)
    assert run.turns["action"].tolist() == [turn["action"] for turn in turns]


def test_iterations_and_evaluations_are_those_of_the_files(folder):
    run = Run(folder)
    results = lines_of(folder / "second" / "result.json")
    mine: Any = run.iterations[run.iterations["trial"] == "second"]
    rates = [row["env_runners"]["success_rate"] for row in results]
    assert mine["env_runners/success_rate"].tolist() == rates
    rows = lines_of(folder / "first" / "evaluation.jsonl")
    of_first: Any = run.evaluations[run.evaluations["trial"] == "first"]
    first = of_first.set_index(["iteration", "task_type"])
    won = [row["won"] for row in rows if row["iteration"] == 8]
    last: Any = first.loc[(8, "all")]
    assert (last["won"], last["tasks"]) == (sum(won), len(won))
    assert float(last["low"]) < float(last["success"]) < float(last["high"])
    assert run.config.loc["language_model"].tolist() == ["tiny", "tiny"]
    assert set(run.errors["status"]) == {"tool_error"}


def test_figures_are_figures_and_a_mistake_names_what_there_is(folder):
    run = Run(folder)
    assert isinstance(run.curves(), Figure) and isinstance(run.credit_histogram("weight"), Figure)
    first = run.episodes.iloc[0]
    place = (int(first["update"]), int(first["group"]), int(first["rollout"]))
    assert isinstance(run.episode_credit(*place, field="log_prob_gap"), Figure)
    with pytest.raises(ValueError, match="This run has log_prob_gap, weight"):
        run.credit_histogram("wieght")
    with pytest.raises(ValueError, match="rollout=99 was sampled"):
        run.episode_credit(1, 0, 99)
    with pytest.raises(ValueError, match="trial='third': is none of first, second"):
        run.curves("third")


def test_a_run_without_episodes_or_half_written_still_has_frames(tmp_path):
    write_run(tmp_path / "house", samples=8)
    (tmp_path / "house" / "credit.jsonl").unlink()
    (tmp_path / "house" / "evaluation.jsonl").unlink()
    with (tmp_path / "house" / "result.json").open("a") as file:
        file.write('{"training_iteration": 9, "time_th')
    run = Run(tmp_path)
    assert len(run.iterations) == 8
    assert run.credit.empty and run.evaluations.empty and run.episodes.empty
    assert any("credit.jsonl is missing" in note for note in run.notes)
    with pytest.raises(ValueError, match="No episode was sampled"):
        run.credit_histogram()
    with pytest.raises(ValueError, match="is not a folder"):
        Run(tmp_path / "nowhere")


def test_the_notebook_runs_on_a_real_run(real_run, monkeypatch, tmp_path):
    shutil.copytree(real_run, tmp_path / "runs" / "stepopsd_alfworld")
    monkeypatch.chdir(tmp_path)
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    assert len(cells) >= 6
    names: dict[str, Any] = {}
    for cell in cells:
        source = "".join(line for line in cell["source"] if not line.startswith("%"))
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert len(names["run"].credit) > 100
