"""What is known before a run goes on: where each trial stands, what may change, what is refused."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

import stepopsd_cli
from stepopsd_rllib.commands import interruption, resume, run_file, standing, storage, tuned
from stepopsd_rllib.commands.progress import StopConditions
from tests.unit.test_checkpoint_files import write_checkpoint

BODY = {
    "run": "GRPO",
    "env": "stepopsd/ALFWorld-v0",
    "stop": {"training_iteration": 4},
    "config": {"model": "tiny", "lr": {"grid_search": [1.0e-4, 2.0e-4]}},
}


@pytest.fixture
def run(tmp_path):
    """A run folder of two trials: one after two iterations and a half, one that never began."""
    where = storage.open_storage(str(tmp_path))
    example = tuned.checked("mine.yaml", "mine", BODY)
    storage.reserve(where, "a", "x")
    planned = run_file.Run(kind="train", trials=run_file.planned(example, ["", ""]))
    run_file.write(where, "a", planned)
    trial = tmp_path / "a" / "GRPO_00000"
    trial.mkdir()
    rows = [{"training_iteration": n, "time_total_s": 1.0} for n in (1, 2, 3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (trial / "result.json").write_text(lines + '{"training_iter')
    (trial / "errors.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (trial / "progress.csv").write_text("training_iteration,x\n1,a\n2,b\n3,c\n4")
    checkpoint = write_checkpoint(trial, 1)
    description = json.loads((checkpoint / "stepopsd.json").read_text())
    (checkpoint / "stepopsd.json").write_text(
        json.dumps(description | {"file_bytes": {"errors.jsonl": 9}})
    )
    from stepopsd_rllib.training.checkpoint_files import write_manifest

    write_manifest(checkpoint)
    return where, planned, trial


def standing_of(run, number):
    where, planned, trial = run
    return standing.standing(where, "a", planned.trials[number], print, Path(trial))


def test_a_run_file_is_read_as_it_was_written(run):
    where, planned, _ = run
    assert run_file.parse(Path(where.path, "a", "run.json").read_bytes(), "a") == planned
    assert [trial.folder for trial in planned.trials] == ["GRPO_00000", "GRPO_00001"]
    assert [trial.label for trial in planned.trials] == ["lr=0.0001", "lr=0.0002"]


def test_a_trial_goes_on_from_its_newest_whole_checkpoint(run):
    first, second = standing_of(run, 0), standing_of(run, 1)
    assert (Path(str(first.checkpoint)).name, first.iteration) == ("checkpoint_000001", 2)
    assert not first.is_finished
    assert (second.checkpoint, second.iteration, second.is_finished) == (None, 0, False)


def test_what_was_written_after_the_checkpoint_is_taken_out(run):
    where, _, trial = run
    standing.cut_files(where, "a", "GRPO_00000", standing_of(run, 0))
    rows = [json.loads(line) for line in (trial / "result.json").read_text().splitlines()]
    assert [row["training_iteration"] for row in rows] == [1, 2]
    assert (trial / "errors.jsonl").read_text() == '{"a": 1}\n'
    assert (trial / "progress.csv").read_text() == "training_iteration,x\n1,a\n2,b\n"


def test_tensorboard_forgets_what_will_come_again(run):
    where, _, trial = run
    for begin in (1, 3):  # iterations 1 to 3, then from 3 on again, and a second restart
        with SummaryWriter(trial) as writer:
            for iteration in range(begin, begin + 3):
                writer.add_scalar("loss", 10.0 * begin, iteration)
        standing.cut_files(where, "a", "GRPO_00000", standing_of(run, 0))
        time.sleep(1.1)  # names of event files have seconds
    with SummaryWriter(trial) as writer:
        writer.add_scalar("loss", 5.0, 3)
    shown = EventAccumulator(str(trial)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in shown] == [(1, 10.0), (2, 10.0), (3, 5.0)]


def test_a_half_written_checkpoint_is_not_left_behind(run):
    (run[2] / "checkpoint.partial").mkdir()
    standing_of(run, 0)
    assert not (run[2] / "checkpoint.partial").exists()


def test_a_trial_that_met_its_stop_is_finished_until_the_stop_is_raised(run):
    where, planned, _ = run
    lower = resume.with_overrides(planned, ["stop.training_iteration=2"], "a")
    assert standing.standing(where, "a", lower.trials[0], print, Path()).is_finished
    assert not standing_of(run, 0).is_finished


@pytest.mark.parametrize("override", ["lr=1e-3", "group_size=4", "seed=3", "env_config.size=small"])
def test_what_the_run_learns_may_not_change(run, override):
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=f"--set {override}: {key} decides what the run learns"):
        resume.with_overrides(run[1], [override], "a")


def test_how_it_is_computed_may_change(run):
    overrides = ["num_env_runners=2", "stop.training_iteration=9", "preemption_grace_s=5"]
    changed = resume.with_overrides(run[1], overrides, "a")
    assert changed.example.stop == {"training_iteration": 9}
    assert changed.example.preemption_grace_s == 5
    assert changed.trials[1].example.config == {"model": "tiny", "lr": 2.0e-4, "num_env_runners": 2}


def refused(capsys, *arguments) -> str:
    assert stepopsd_cli.main(["train", "--resume", *map(str, arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stepopsd: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_run_that_cannot_go_on_is_one_line(run, capsys, tmp_path):
    where = run[0]
    folder = tmp_path / "a"
    content = json.loads((folder / "run.json").read_text())

    def with_run(**changes):
        (folder / "run.json").write_text(json.dumps(content | changes))

    with_run(package="99.0")
    assert "was written by stepopsd-rllib 99.0" in refused(capsys, folder)
    (folder / "run.json").write_text("{")
    assert "its run.json is damaged" in refused(capsys, folder)
    changed = json.loads(json.dumps(content["trials"]))
    changed["GRPO_00000"]["model"] = "0123"
    with_run(trials=changed)
    assert "is not the model that the run began with" in refused(capsys, folder)
    changed = json.loads(json.dumps(content["trials"]))
    changed["GRPO_00000"]["config"]["model"] = "/gone"
    with_run(trials=changed)
    assert "no Hugging Face model there" in refused(capsys, folder)
    with_run()
    with storage.locked(where, "a"):
        assert "another process trains there" in refused(capsys, folder)
    one = {"GRPO_00000": json.loads(json.dumps(content["trials"]))["GRPO_00000"]}
    one["GRPO_00000"]["stop"] = {"training_iteration": 2}
    with_run(trials=one)
    assert "is finished (training_iteration=2)" in refused(capsys, folder)
    assert "lr decides" in refused(capsys, folder, "--set", "lr=1")


def test_runs_are_listed_with_state_iteration_and_checkpoint(run, capsys, tmp_path):
    assert stepopsd_cli.main(["runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    first, second = [line for line in shown.splitlines() if line.startswith("a/")]
    assert first.split()[:3] == ["a/GRPO_00000", "stopped", "3/4"]
    assert "after 2 iterations" in first
    assert second.split()[:3] == ["a/GRPO_00001", "stopped", "0/4"]
    assert "stepopsd train --resume RUN" in shown


def test_an_alarm_that_another_has_set_is_not_the_end_of_a_grace():
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    try:
        with interruption.ending_early(StopConditions({}), 30.0, heard.append) as ended:
            os.kill(os.getpid(), signal.SIGALRM)
        assert heard == [signal.SIGALRM] and not ended.is_over
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_signal_asks_the_trials_to_end_and_the_grace_ends_the_rest():
    said = []
    stop = StopConditions({"training_iteration": 9})
    with interruption.ending_early(stop, 30.0, said.append) as ended:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat themselves
    assert (ended.status, ended.is_over, stop.is_interrupted) == (143, False, True)
    stop = StopConditions({"training_iteration": 9})
    with interruption.ending_early(stop, 0.05, said.append) as ended:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
    assert (ended.status, ended.is_over) == (130, True)
    assert said[-1].endswith("the last checkpoint stands.")
    again = interruption.ending_early(StopConditions({}), 30.0, said.append)
    with pytest.raises(KeyboardInterrupt), again:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
