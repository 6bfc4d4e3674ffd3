"""Verdicts, equal compute, parts and protocols of a comparison, from files with known numbers."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from stepopsd_rllib.commands import comparison as command
from stepopsd_rllib.commands.learning_rates import RateChoice, best_rates
from stepopsd_rllib.report import comparison as report
from stepopsd_rllib.report.budget_verdicts import verdict_tables, verdicts_by_budget
from stepopsd_rllib.report.comparison_parts import finished, missing, one_plan
from stepopsd_rllib.report.equal_compute import at_equal_compute, compute_table, compute_used
from stepopsd_rllib.report.protocol import require_one_protocol
from stepopsd_rllib.report.verdict_figure import COLORS, VERDICTS, draw_verdicts
from stepopsd_rllib.report.verdicts import (
    Kind,
    bootstrap_p,
    holm,
    judge,
    probability_of_improvement,
    verdicts,
    words,
)

ROOT = Path(__file__).parents[2]
TASKS = [f"task{n}" for n in range(40)]
KINDS = ("heat", "cool")
PLAN = {"file": "abc", "methods": ["GRPO", "SDAR", "OPID"], "seeds": [0, 1, 2], "margin": 0.05}


def write_trial(
    run: Path,
    method: str,
    seed: int,
    rates: dict[int, float],
    *,
    seconds: float = 1.0,
    tokens: float = 100.0,
    config: dict | None = None,
) -> None:
    """A trial that wins the first tasks of the list: `rates` is iteration -> share."""
    folder = run / report.trial_folder(method, seed)
    folder.mkdir(parents=True)
    rows = [
        {
            "iteration": at,
            "split": "valid_unseen",
            "task_id": task,
            "task_type": KINDS[n % 2],
            "won": n < rate * len(TASKS),
            "return": 0.0,
            "turns": 3,
            "status": "success",
        }
        for at, rate in rates.items()
        for n, task in enumerate(TASKS)
    ]
    results = [
        {
            "training_iteration": i,
            "num_updates_lifetime": i,
            "timers": {"sample": seconds / 2, "update": seconds / 4, "weight_sync": seconds / 4},
            "learners": {
                "default_policy": {
                    "update_tokens_forwarded": tokens,
                    "teacher_tokens_forwarded": tokens,
                }
            },
            "config": {"env": "house", "eval_split": "valid_unseen", "lr": 4e-4} | (config or {}),
        }
        for i in range(1, max(rates) + 1)
    ]
    for name, lines in (("evaluation.jsonl", rows), ("result.json", results)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run_file(run: Path, plan: dict, **trial: object) -> None:
    body = {"stop": {"training_iteration": 4}, "model": "m", "tasks": "t"} | trial
    trials = {folder.name: body for folder in run.iterdir() if folder.is_dir()}
    (run / "run.json").write_text(json.dumps({"package": "1", "plan": plan, "trials": trials}))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    for seed in range(3):
        write_trial(folder, "GRPO", seed, {0: 0.2, 2: 0.4, 4: 0.5 + 0.01 * seed})
        write_trial(folder, "SDAR", seed, {0: 0.2, 2: 0.3, 4: 0.8}, seconds=2.0, tokens=300.0)
        write_trial(folder, "OPID", seed, {0: 0.2, 2: 0.4, 4: 0.5 + 0.01 * seed})
    write_run_file(folder, PLAN)
    return folder


def named(run) -> dict[str, report.Method]:
    return {method.name: method for method in report.read_methods(run)[0]}


def test_holms_correction_is_the_one_worked_by_hand():
    # sorted 0.01 0.03 0.04 times 3 2 1 is 0.03 0.06 0.04, and none falls below the one before it
    assert holm([0.01, 0.04, 0.03], 3) == pytest.approx([0.03, 0.06, 0.06])
    # a plan of five: the missing two count as p = 1
    assert holm([0.01, 0.04, 0.03], 5) == pytest.approx([0.05, 0.12, 0.12])
    assert holm([], 5) == []


def test_p_is_twice_the_smaller_tail_and_never_0():
    means = np.array([-1.0, *[1.0] * 98, 0.0])
    assert bootstrap_p(means) == pytest.approx(2 * 3 / 101)
    assert bootstrap_p(np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap_p(np.zeros(9)) == 1.0


def test_the_probability_of_improvement_equals_a_slow_loop(run):
    methods = named(run)
    found, (low, high) = probability_of_improvement(methods["SDAR"], methods["GRPO"])
    wins = [
        1.0 if ours > theirs else 0.5 if ours == theirs else 0.0
        for kind in KINDS
        for ours in methods["SDAR"].type_rates()[kind]
        for theirs in methods["GRPO"].type_rates()[kind]
    ]
    assert found == pytest.approx(np.mean(wins)) == 1.0
    assert (low, high) == (1.0, 1.0)
    same, _ = probability_of_improvement(methods["OPID"], methods["GRPO"])
    assert same == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0.3, (0.2, 0.4), 0.001, 2), "too few seeds for a verdict (2): interval [+20.0, +40.0]"),
        ((0.3, (0.2, 0.4), 0.001, 5), "better by 30.0 points: interval [+20.0, +40.0]"),
        ((-0.3, (-0.4, -0.2), 0.001, 5), "worse by 30.0 points: interval [-40.0, -20.0]"),
        ((0.01, (-0.03, 0.04), 0.6, 5), "no difference above 5 points: interval [-3.0, +4.0]"),
        ((0.01, (-0.03, 0.06), 0.6, 5), "no evidence of a difference: interval [-3.0, +6.0]"),
        # the correction decides, not the interval alone
        ((0.04, (0.01, 0.07), 0.08, 5), "no evidence of a difference: interval [+1.0, +7.0]"),
    ],
)
def test_the_words_follow_the_rule(arguments, said):
    difference, interval, p, seeds = arguments
    kind = judge(difference, interval, p, seeds=seeds)
    assert words(kind, difference, interval, seeds=seeds) == said


def test_a_method_that_wins_more_is_better_and_an_equal_one_is_not(run):
    methods = named(run)
    opid, sdar = verdicts(list(methods.values()), methods["GRPO"], planned=2)
    assert (opid.name, sdar.name) == ("OPID", "SDAR")
    assert sdar.words.startswith("better by 28.3 points")
    assert sdar.p < 0.01 and sdar.seeds == 3
    assert opid.words == "no difference above 5 points: interval [+0.0, +0.0]"


def test_compute_adds_up_and_leaves_evaluations_out(run):
    trial = named(run)["SDAR"].trials[0]
    assert compute_used(trial, "seconds") == {0: 0, 1: 2, 2: 4, 3: 6, 4: 8}
    assert compute_used(trial, "tokens") == {0: 0, 1: 600, 2: 1200, 3: 1800, 4: 2400}


def test_a_method_of_twice_the_time_is_seen_half_way(run):
    limited, budget = at_equal_compute(list(named(run).values()), "seconds")
    assert budget == 4
    found = {method.name: method for method in limited}
    assert list(found["SDAR"].iterations) == [2, 2, 2]
    assert found["SDAR"].seed_rates() == [0.3, 0.3, 0.3]
    assert list(found["GRPO"].iterations) == [4, 4, 4]
    # three times the tokens: only the evaluation before any training is within the budget
    limited, _ = at_equal_compute(list(named(run).values()), "tokens")
    assert {method.name: next(iter(method.iterations)) for method in limited}["SDAR"] == 0
    tables = verdict_tables(verdicts_by_budget(list(named(run).values()), "GRPO", PLAN))
    assert "better by 28.3" in tables[0] and "equal iterations" in tables[0]
    assert "equal seconds (4 a run)" in tables[1] and "worse by" in tables[1]
    assert "equal tokens (800 a run)" in tables[2] and "SDAR" not in tables[2]
    assert tables[3].startswith("against GRPO, equal tokens (800 a run): no verdict on SDAR, whose")
    assert "8 (2.00x)" in compute_table(list(named(run).values()), "GRPO")


def test_runs_that_say_nothing_of_compute_have_the_table_of_iterations_alone(tmp_path):
    write_trial(tmp_path / "r", "GRPO", 0, {0: 0.1, 1: 0.2})
    write_trial(tmp_path / "r", "SDAR", 0, {0: 0.1, 1: 0.2})
    file = tmp_path / "r" / "GRPO_seed0" / "result.json"
    row = json.loads(file.read_text())
    del row["timers"], row["learners"]
    file.write_text(json.dumps(row) + "\n")
    methods, _ = report.read_methods(tmp_path / "r")
    assert at_equal_compute(methods, "seconds")[0] == []
    assert len(verdict_tables(verdicts_by_budget(methods, "GRPO", {}))) == 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"eval_split": "valid_seen"}, "config.eval_split is 'valid_seen'.*'valid_unseen'"),
        ({"env": "other"}, "config.env is 'other'"),
        ({"lr": 1.0}, None),
    ],
)
def test_runs_of_two_protocols_are_refused_by_name(run, tmp_path, config, said):
    other = tmp_path / "other"
    write_trial(other, "GiGPO", 0, {0: 0.2, 4: 0.5}, config=config)
    write_run_file(other, PLAN)
    methods, _ = report.read_methods(run, other)
    if said is None:
        require_one_protocol(methods)
        return
    with pytest.raises(ValueError, match=f"other/GiGPO_seed0|run/.*{said}") as refusal:
        require_one_protocol(methods)
    assert "GiGPO_seed0" in str(refusal.value) and "two protocols" in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tasks", "u", r"the lists of tasks \(data\)"),
        ("model", "n", "the files of the model"),
        ("stop", {"training_iteration": 5}, "stop"),
    ],
)
def test_runs_of_other_data_models_or_length_are_refused(run, tmp_path, key, value, said):
    other = tmp_path / "other"
    write_trial(other, "GiGPO", 0, {0: 0.2, 5: 0.5})
    write_run_file(other, PLAN, **{key: value})
    with pytest.raises(ValueError, match=said):
        require_one_protocol(report.read_methods(run, other)[0])


def test_runs_of_one_method_with_two_learning_rates_are_refused(run, tmp_path):
    other = tmp_path / "other"
    write_trial(other, "GRPO", 7, {0: 0.2, 4: 0.5})
    write_run_file(run, PLAN, config={"lr": 4e-4, "seed": 0})
    write_run_file(other, PLAN, config={"lr": 2e-4, "seed": 7})
    with pytest.raises(ValueError, match=r"other/GRPO_seed7: config.lr is 0.0002, that of run/"):
        require_one_protocol(report.read_methods(run, other)[0])


def test_runs_of_two_versions_are_refused(run, tmp_path):
    other = tmp_path / "other"
    write_trial(other, "GiGPO", 0, {0: 0.2, 4: 0.5})
    write_run_file(other, PLAN)
    body = json.loads((other / "run.json").read_text()) | {"package": "2"}
    (other / "run.json").write_text(json.dumps(body))
    with pytest.raises(ValueError, match=r"GiGPO_seed0: the version .* is '2', that of .* '1'"):
        require_one_protocol(report.read_methods(run, other)[0])


def test_parts_are_merged_and_what_is_missing_is_named(run, tmp_path, capsys):
    part = tmp_path / "part"
    write_trial(part, "GRPO", 7, {0: 0.2, 4: 0.5})
    write_run_file(part, PLAN)
    command.show([run, part])
    said = capsys.readouterr().out
    assert "4: 50.0% to" in said  # GRPO has four seeds now
    assert "left out" not in said
    plan = PLAN | {"seeds": [0, 1, 2, 3]}
    (line,) = missing(plan, report.read_methods(run)[0])
    assert line.startswith("3 of 12 planned") and "GRPO_seed3, SDAR_seed3, OPID_seed3" in line


def test_the_same_trial_twice_is_refused(run, tmp_path):
    part = tmp_path / "part"
    write_trial(part, "GRPO", 0, {0: 0.2, 4: 0.5})
    with pytest.raises(ValueError, match="is the same trial of another folder"):
        report.read_methods(run, part)


def test_parts_of_two_files_are_refused(run, tmp_path):
    part = tmp_path / "part"
    write_trial(part, "GRPO", 7, {0: 0.2, 4: 0.5})
    write_run_file(part, PLAN | {"file": "def"})
    with pytest.raises(ValueError, match="a part of another comparison"):
        one_plan([run, part])


def test_unfinished_runs_do_not_count(tmp_path):
    folder = tmp_path / "run"
    write_trial(folder, "GRPO", 0, {0: 0.2, 4: 0.5})
    write_trial(folder, "GRPO", 1, {0: 0.2, 2: 0.9})
    write_run_file(folder, PLAN)
    methods, notes = finished(*report.read_methods(folder), folders=[folder])
    assert list(methods[0].outcomes) == [0]
    assert notes == ["GRPO_seed1 is unfinished (2 of 4 iterations)"]


FILE = """
tiny:
  base: tuned_examples/grpo/alfworld_tiny.yaml
  seeds: [0, 1]
  stop: {training_iteration: 2}
  config: {evaluation_interval: 2}
  margin: 0.03
  learning_rate: {grid: [4.0e-4, 2.0e-4], seeds: [100], split: valid_seen}
  methods:
    GRPO: {}
    half: {run: SDAR, gate_beta: 0.0, skills: alfworld_brief, skill_max_tokens: 512}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "tiny.yaml"
    path.write_text(FILE)
    return path


def test_a_part_keeps_the_plan_of_the_whole(file):
    whole = command.read(file)
    part = whole.part(["half"], [1])
    assert list(part.methods) == ["half"]
    assert part.methods["half"].config["seed"] == {"grid_search": [1]}
    plan = whole.plan()
    assert plan["methods"] == ["GRPO", "half"] and plan["seeds"] == [0, 1]
    assert plan["margin"] == 0.03 and plan["baseline"] == "GRPO"
    with pytest.raises(ValueError, match=r"--only SDAR: is not in .* It has GRPO, half"):
        whole.part(["SDAR"], [])
    with pytest.raises(ValueError, match="--seeds 5: is not in"):
        whole.part([], [5])


def test_every_method_tries_every_rate_on_other_seeds_and_tasks(file):
    whole = command.read(file)
    assert whole.rates is not None
    tried = command.examples_of_choice(whole.methods, whole.rates)
    assert list(tried) == ["GRPO lr=0.0002", "GRPO lr=0.0004", "half lr=0.0002", "half lr=0.0004"]
    for label, example in tried.items():
        assert example.config["eval_split"] == "valid_seen"
        assert example.config["seed"] == {"grid_search": [100]}
        assert example.config["lr"] == float(label.rpartition("=")[2])
    assert tried["half lr=0.0002"].config["gate_beta"] == 0.0


def test_the_best_rate_is_taken_and_of_equal_ones_the_lowest(tmp_path):
    choice = RateChoice(grid=[2e-4, 4e-4, 8e-4], seeds=[100, 101], split="valid_seen")
    rates = {"GRPO": (0.4, 0.6, 0.6), "SDAR": (0.3, 0.2, 0.9)}
    for label, shares in rates.items():
        for rate, share in zip(choice.grid, shares, strict=True):
            for seed in choice.seeds:
                write_trial(tmp_path / "r", f"{label} lr={rate:g}", seed, {0: 0.1, 1: share})
    tried, _ = report.read_methods(tmp_path / "r")
    assert best_rates(["GRPO", "SDAR"], choice, tried) == {"GRPO": 4e-4, "SDAR": 8e-4}
    with pytest.raises(ValueError, match=r"OPID lr=0.0002: seeds .100, 101. did not end"):
        best_rates(["OPID"], choice, tried)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin: 0.03", "margin: 3", "margin=3: a share of success"),
        ("[4.0e-4, 2.0e-4]", "[4.0e-4]", "two or more different rates"),
        ("seeds: [100]", "seeds: [1]", "seeds that the comparison does not use"),
        ("split: valid_seen", "split: valid_unseen", "is compared on it"),
        ("split: valid_seen", "split: test", "choose one of"),
        (", split: valid_seen", "", "write .grid"),
        ("gate_beta: 0.0", "eval_temperature: 0.0", "methods.half.eval_temperature: a method can"),
        ("gate_beta: 0.0", "env_config: {size: full}", "methods.half.env_config: a method can"),
    ],
)
def test_an_unfair_plan_is_refused_before_anything_runs(file, old, new, message):
    file.write_text(FILE.replace(old, new))
    with pytest.raises(ValueError, match=message) as refusal:
        command.read(file)
    assert "\n" not in str(refusal.value)


def test_the_picture_has_a_colour_for_all_that_the_rule_can_say():
    assert set(COLORS) == set(get_args(Kind))


def test_the_picture_of_verdicts_is_written(tmp_path, run):
    by_budget = verdicts_by_budget(list(named(run).values()), "GRPO", PLAN)
    picture = draw_verdicts(by_budget, tmp_path / VERDICTS, "a title")
    assert picture.read_bytes().startswith(b"\x89PNG")
