"""Comparisons: the file, and tables from run files whose numbers are known."""

import json
from pathlib import Path

import numpy as np
import pytest

from stepopsd_rllib.commands import comparison
from stepopsd_rllib.report import comparison as report
from stepopsd_rllib.report.budget_verdicts import verdict_tables, verdicts_by_budget
from stepopsd_rllib.report.comparison_curves import draw_comparison

ROOT = Path(__file__).parents[2]
TASKS = {"a": "heat", "b": "heat", "c": "cool", "d": "cool"}
FILE = """
tiny:
  base: tuned_examples/grpo/alfworld_tiny.yaml
  seeds: [0, 1]
  stop: {training_iteration: 2}
  config: {evaluation_interval: 2}
  methods:
    GRPO: {}
    half: {run: SDAR, gate_beta: 0.0, skills: alfworld_brief, skill_max_tokens: 512}
"""


def write_run(
    folder: Path,
    method: str,
    seed: int,
    won: str,
    iteration: int = 4,
    lost_score: float | None = None,
) -> None:
    trial = folder / report.trial_folder(method, seed)
    trial.mkdir(parents=True)
    rows = [
        {
            "iteration": at,
            "split": "valid_unseen",
            "task_id": task,
            "task_type": kind,
            "won": at == iteration and task in won,
            "return": 0.0,
            "turns": 3,
            "status": "success",
            **({} if lost_score is None else {"task_score": 1.0 if task in won else lost_score}),
        }
        for at in (0, iteration)
        for task, kind in TASKS.items()
    ]
    results = [
        {"training_iteration": i, "env_runners": {"success_rate": i / 10}} for i in range(1, 5)
    ]
    for name, lines in (("evaluation.jsonl", rows), ("result.json", results)):
        (trial / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run_folder(tmp_path):
    for seed, (grpo, sdar) in enumerate((("a", "ab"), ("ac", "abc"))):
        write_run(tmp_path, "GRPO", seed, grpo)
        write_run(tmp_path, "SDAR", seed, sdar)
    return tmp_path


def test_scores_are_read_by_seed_and_task(run_folder):
    (grpo, sdar), left_out = report.read_methods(run_folder)
    assert left_out == []
    assert grpo.scores([0, 1], ["a", "b", "c", "d"]).tolist() == [[1, 0, 0, 0], [1, 0, 1, 0]]
    assert sdar.seed_rates() == [0.5, 0.75]
    assert sdar.type_rates() == {"cool": [0.0, 0.5], "heat": [1.0, 1.0]}
    # Sorted rates 0, 0.5, 1, 1: the middle half is 0.5 and 1.
    assert report.interquartile_mean(sdar) == 0.75


def test_the_paired_difference_is_taken_within_seeds_and_tasks(run_folder):
    (grpo, sdar), _ = report.read_methods(run_folder)
    mean, (low, high), better, worse = report.paired_difference(sdar, grpo)
    # Task b alone differs, in both seeds: only the draw of tasks can move the mean.
    assert (mean, better, worse) == (0.25, 1, 0)
    assert low == 0.0 and high == 0.75


def test_methods_without_a_common_seed_cannot_be_paired(tmp_path):
    write_run(tmp_path, "GRPO", 0, "a")
    write_run(tmp_path, "SDAR", 1, "a")
    (grpo, sdar), _ = report.read_methods(tmp_path)
    with pytest.raises(ValueError, match="no seed, or no evaluation task, in common"):
        report.paired_difference(sdar, grpo)


def test_an_interval_knows_of_runs_and_of_tasks():
    def width(scores) -> float:
        low, high = report.bootstrap_interval(np.array(scores, dtype=float))
        assert low <= np.mean(scores) <= high
        return high - low

    assert width([[1, 1], [1, 1]]) == 0.0
    # Runs that agree leave the spread of the tasks, runs that win all or nothing that of runs.
    by_task, by_run = [[1, 0] * 20] * 3, [[1] * 40, [0] * 40, [1] * 40]
    assert 0.2 < width(by_task) < 0.4
    assert width(by_run) > 0.6
    assert 0.2 < width(by_task[:1]) < 0.4


def test_tables_and_picture_show_every_method(run_folder):
    methods, _ = report.read_methods(run_folder)
    table = report.comparison_table(methods, "GRPO")
    assert "minus GRPO, paired" in table and "+25.0%" in table and "1 : 0" in table
    assert "heat" in report.type_table(methods)
    assert report.type_table(methods).splitlines()[-1].split() == (
        ["mean", "of", "the", "above", "37.5%", "62.5%"]
    )
    assert draw_comparison(methods, run_folder / "c.png", "tiny").stat().st_size > 10_000


def test_graded_tasks_have_a_second_table_of_their_scores(tmp_path):
    for seed, won in enumerate(("a", "ac")):
        write_run(tmp_path, "GRPO", seed, won, lost_score=0.2)
        write_run(tmp_path, "SDAR", seed, "", lost_score=0.6)
    (grpo, sdar), _ = report.read_methods(tmp_path)
    success, score = report.comparison_table([grpo, sdar], "GRPO").split("\n\n")
    assert "success, 95 %" in success and "-37.5%" in success and "0 : 2" in success
    # GRPO: (1 + 3 x 0.2 + 2 + 2 x 0.2) / 8; SDAR 0.6 everywhere; better at b and d, worse at a only
    # (c: 1 with one seed, 0.2 with the other: 0.6).
    grpo_line, sdar_line = score.splitlines()[-2:]
    assert "task score, 95 %" in score and "50.0% [" in grpo_line
    assert "60.0% [60.0%, 60.0%]" in sdar_line and "+10.0%" in sdar_line and "2 : 1" in sdar_line
    success, score = report.type_table([grpo, sdar]).split("\n\n")
    assert success.splitlines()[-1].split()[-2:] == ["37.5%", "0.0%"]
    assert score.startswith("task score") and score.splitlines()[-1].split()[-2:] == [
        "50.0%",
        "60.0%",
    ]


def test_graded_tasks_have_verdicts_on_their_scores_too(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "GRPO", seed, "ab", lost_score=0.2)
        write_run(tmp_path, "SDAR", seed, "ab", lost_score=0.6)
    methods, _ = report.read_methods(tmp_path)
    table = verdict_tables(verdicts_by_budget(methods, "GRPO", {}))[0].splitlines()
    assert [line.split("  ")[0] for line in table[-2:]] == ["SDAR", "SDAR, task score"]
    # Success is equal; of four tasks, two lost ones have 0.4 more.
    assert "+0.0, +0.0]" in table[-2]
    assert "20.0 points" in table[-1] or "[+0.0, +40.0]" in table[-1]


def test_a_last_evaluation_is_needed(tmp_path):
    write_run(tmp_path, "GRPO", 0, "a")
    (tmp_path / "GRPO_seed0" / "evaluation.jsonl").write_text("")
    with pytest.raises(ValueError, match="nothing to compare"):
        report.read_methods(tmp_path)
    write_run(tmp_path, "SDAR", 0, "a")
    (sdar,), left_out = report.read_methods(tmp_path)
    assert (sdar.name, left_out) == ("SDAR", ["GRPO_seed0"])
    with pytest.raises(ValueError, match="is not a folder"):
        report.read_methods(tmp_path / "nowhere")


def test_a_file_becomes_one_experiment_a_method_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "tiny.yaml"
    path.write_text(FILE)
    read = comparison.read(path)
    assert read.baseline == "GRPO"
    assert read.methods["half"].run == "SDAR"
    assert read.methods["half"].config["gate_beta"] == 0.0
    assert read.methods["GRPO"].config["seed"] == {"grid_search": [0, 1]}
    assert all(example.stop == {"training_iteration": 2} for example in read.methods.values())
    assert all(e.config["evaluation_interval"] == 2 for e in read.methods.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1]", "seeds: 2", "seeds=2: write whole numbers"),
        ("  seeds", "  sees: 1\n  seeds", "sees is not a key of a comparison"),
        ("gate_beta: 0.0", "gate_bet: 0.0", "gate_bet is not a key of SDARConfig"),
        ("gate_beta: 0.0", "step_weight: 1.0", "It belongs to .*GiGPOConfig"),
        ("run: SDAR", "run: SDARR", "run='SDARR' is not an algorithm"),
        ("GRPO: {}", "half2: {seed: 3}", "no seed in a method"),
        ("base: tuned", "base: no", "no such file"),
        ("evaluation_interval: 2", "evaluation_interval: 3", "would not end with an evaluation"),
        ("evaluation_interval: 2", "evaluation_interval:", "would not end with an evaluation"),
        ("{evaluation_interval: 2}", "[2]", "write keys that all methods get"),
    ],
)
def test_a_mistake_is_one_line_with_the_file(tmp_path, monkeypatch, old, new, message):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "tiny.yaml"
    path.write_text(FILE.replace(old, new))
    with pytest.raises(ValueError, match=message) as refusal:
        comparison.read(path)
    assert "\n" not in str(refusal.value)
