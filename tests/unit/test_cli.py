"""The commands, run as a user does; those that train are in the end-to-end tests."""

import subprocess
import sys
from pathlib import Path

import pytest
from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.search_qa.env import SearchQAEnv

import stepopsd_cli
from stepopsd_rllib.commands import keys, play, progress

ROOT = Path(__file__).parents[2]
TINY = "tuned_examples/grpo/alfworld_tiny.yaml"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["train", TINY, "--set", "grop_size=4"], "config.grop_size is not a key of GRPOConfig"),
        (["train", TINY, "--set", "lr='1e-6'"], "config.lr='1e-6' is text. Write 1.0e-6."),
        (["train", TINY, "--set", "model=~"], "config."),
        (["train", TINY, "--set", "stop.evaluation/sucess_rate=1"], "'evaluation/success_rate'"),
        (["train", "--resume", "no_run"], "no_run: no such run folder"),
        (["train", "--resume", "tests"], "tests: is no run folder of this package (no run.json)"),
        (["runs", "no_folder"], "no_folder: is not a folder"),
        (["export", "no_checkpoint", "out"], "no_checkpoint: no whole checkpoint there"),
        (["train", TINY, "--set", "group_size=1"], "config.group_size=1: "),
        (["train", TINY, "--set", "model=/no/such/model"], "no Hugging Face model there"),
        (["keys", "StepOPDS"], "did you mean 'StepOPSD'"),
        (["keys", "StepOPSD", "alpha_clop"], "Did you mean 'alpha_clip'?"),
        (["report", "no_run"], "no_run: is not a folder"),
        (["evaluate", "no_checkpoint"], "no_checkpoint: no whole checkpoint there"),
        (["play", "stepopsd/ALFWorld-v0", "--set", "size=huge"], "size='huge'"),
        (["play", "stepopsd/AlfWorld-v0"], "ALFWorld"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_status_2(arguments, said, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert stepopsd_cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stepopsd: ")
    assert said in line


def test_the_command_line_itself_answers_with_status_2_and_no_traceback():
    command = [sys.executable, "-m", "stepopsd_cli", "trian", TINY]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "invalid choice: 'trian'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_gone_is_no_fault(tmp_path):
    code = (
        "import sys, stepopsd_cli; from stepopsd_rllib.commands import cli; "
        "cli.run = lambda options: print('x' * 10**6); "
        "sys.exit(stepopsd_cli.main(['report', 'run']))"
    )
    run = subprocess.run(
        f'"{sys.executable}" -c "{code}" 2>"{tmp_path}/err" | head -c 1; exit "${{PIPESTATUS[0]}}"',
        shell=True,
        executable="/bin/bash",
        stdout=subprocess.DEVNULL,
    )
    assert run.returncode == stepopsd_cli.NOBODY_READS
    assert "Traceback" not in (tmp_path / "err").read_text()


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(play, "play", lambda *_, **__: {}["missing"])
    with pytest.raises(KeyError):
        stepopsd_cli.main(["play", "stepopsd/ALFWorld-v0"])


def test_a_person_can_play_a_task_and_leave(monkeypatch, capsys):
    typed = iter(["inventory", "", "< dance", "<action>look</action>", "quit"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(typed))
    assert stepopsd_cli.main(["play", "stepopsd/ALFWorld-v0", "--set", "size=tiny"]) == 0
    shown = capsys.readouterr().out
    assert "Your task is to:" in shown
    assert "You are not carrying anything." in shown
    assert "tags that a model is asked for: they are added" in shown
    assert "Nothing happens." in shown
    assert "(not a valid action, and a turn is spent: 'look')" in shown  # no think tags
    assert shown.rstrip().endswith("Left after 3 turns, return 0.")


def test_bare_actions_get_tags_and_texts_with_tags_stay_as_they_are():
    house, questions = ALFWorldEnv(), SearchQAEnv()
    assert play.response_of(house, "look") == "<think></think><action>look</action>"
    assert play.response_of(questions, "<search>x</search>") == "<search>x</search>"
    assert play.response_of(questions, "who?") == "<search>who?</search>"
    assert play.response_of(questions, "Answer Lisbon") == "<answer>Lisbon</answer>"


RESULT = {
    "training_iteration": 9,
    "time_this_iter_s": 4.0,
    "time_total_s": 50.0,
    "env_runners/success_rate": 0.25,
}


def test_an_iteration_line_counts_in_equal_width_and_foresees_the_end():
    line = progress.iteration_line(RESULT, {"training_iteration": 60}, 255.0)
    assert line == "iteration  9/60  success 25.0%  4.0 s  4:15 left"


def test_a_run_can_have_columns_of_its_own():
    more = {"learners/default_policy/gate_mean": "gate", "no/such": "other"}
    result = RESULT | {"learners/default_policy/gate_mean": 0.123456}
    line = progress.iteration_line(result, {}, None, more)
    assert line == "iteration 9  success 25.0%  gate 0.1235  other -  4.0 s"


def test_keys_of_a_method_are_shown_with_range_meaning_and_source(capsys):
    assert stepopsd_cli.main(["keys", "StepOPSD"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "alpha_clip 0.2 α, half width of the trust region of the weights. In [0, 1)" in shown
    assert "clip_high 0.2 ε_hi, upper clip of the ratio." in shown and "model tiny" in shown
    assert stepopsd_cli.main(["keys", "StepOPSD", "alpha_clip"]) == 0
    assert "paper        0.2; 0.05 in the reduced-clip runs" in capsys.readouterr().out
    assert stepopsd_cli.main(["keys"]) == 0
    assert "GiGPO" in capsys.readouterr().out


def test_the_page_of_all_keys_is_up_to_date():
    written = (ROOT / keys.PAGE).read_text(encoding="utf-8")
    assert written == keys.page() + "\n", "run: stepopsd keys --markdown > docs/configuration.md"


def test_episodes_that_broke_are_seen_in_the_line():
    errors = {"env_runners/status/tool_error": 3.0, "env_runners/status/sampler_error": 0.0}
    line = progress.iteration_line(RESULT | errors, {})
    assert line == "iteration 9  success 25.0%  not counted: tool_error 3 (errors.jsonl)  4.0 s"
    rates = {f"evaluation/success_rate{end}": 0.5 for end in ("", "_low", "_high")}
    evaluation = {"evaluation/iteration": 0, "evaluation/num_episodes": 2, **rates}
    line = progress.evaluation_line(evaluation | {"evaluation/status/tool_error": 1})
    assert line.endswith("50.0% [50.0%, 50.0%] of 2 tasks, not counted: tool_error 1")
    line = progress.evaluation_line(evaluation | {"evaluation/num_split_tasks": 134})
    assert line.endswith("50.0% [50.0%, 50.0%] of 2 of 134 tasks")
    graded = {"mean": 0.6, "low": 0.5, "high": 0.7}
    graded = {f"evaluation/task_score_{name}": value for name, value in graded.items()}
    line = progress.evaluation_line(evaluation | graded)
    assert line.endswith("of 2 tasks, task score 60.0% [50.0%, 70.0%]")
    evaluation |= {"evaluation/num_episodes": 0, "evaluation/status/tool_error": 3}
    assert progress.evaluation_line(evaluation).endswith("no task was counted (tool_error 3)")


def test_hours_are_shown_where_there_are_some():
    assert [progress.clock(seconds) for seconds in (5, 65.4, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_a_criterion_whose_result_never_comes_is_named_and_ends_a_run_that_has_no_other():
    said = []
    stop = progress.StopConditions({"env_runners/reward": 0.5}, said.append)
    assert not stop("a", {"training_iteration": 1})
    assert stop("a", {"env_runners": {"rewards": 0.1}})
    assert said == [
        "stop.env_runners/reward: no result has this; did you mean 'env_runners/rewards'?"
    ]
    said.clear()
    stop = progress.StopConditions(
        {"env_runners/reward": 0.5, "training_iteration": 9}, said.append
    )
    assert not any(stop("a", {"env_runners": {"rewards": 0.1}}) for _ in range(3))
    assert len(said) == 1


def test_stop_conditions_reach_nested_results_and_interrupts():
    stop = progress.StopConditions({"evaluation/success_rate": 0.5})
    assert not stop("a", {"training_iteration": 1})
    assert not stop("a", {"evaluation": {"success_rate": 0.4}})
    assert stop("a", {"evaluation": {"success_rate": 0.5}})
    stop.num_running = 1
    stop.interrupt()
    assert stop("a", {"training_iteration": 1})
    assert not stop.stop_all()
    stop.num_running = 0
    assert stop.stop_all()
