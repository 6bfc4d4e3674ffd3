"""The view of a run on a terminal: bars, time left, sparklines; plain lines elsewhere."""

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from stepopsd_rllib.commands import live_view, tuned
from stepopsd_rllib.commands.live_progress import LiveProgress, shown_progress
from stepopsd_rllib.commands.live_view import ENDED, STARTING, Followed, LiveView
from stepopsd_rllib.commands.progress import ProgressLines, StopConditions
from stepopsd_rllib.commands.run_file import PlannedTrial
from stepopsd_rllib.commands.time_left import TimeLeft

GRADED = {"success_rate": 0.25, "task_score_mean": 0.615}
ROOT = Path(__file__).parents[2]


def planned(folder: str, label: str) -> PlannedTrial:
    body = {"run": "GRPO", "env": "stepopsd/ALFWorld-v0", "stop": {"training_iteration": 40}}
    example = tuned.checked("a.yaml", "a", body | {"config": {"evaluation_interval": 10}})
    return PlannedTrial(folder=folder, label=label, example=example)


def result(i: int, *, evaluated: int | None = None) -> dict[str, Any]:
    """Ten seconds an iteration; the first has an evaluation of five minutes before it."""
    row: dict[str, Any] = {
        "training_iteration": i,
        "time_this_iter_s": 10.0 + (300.0 if i == 1 else 0.0),
        "time_total_s": 300.0 + 10.0 * i,
        "env_runners": {"success_rate": 0.1 * i, "episode_return_mean": 0.1 * i},
    }
    if evaluated is not None:
        row["evaluation"] = {
            "iteration": evaluated,
            "seconds": 300.0,
            "success_rate": 0.25,
            "success_rate_low": 0.2,
            "success_rate_high": 0.3,
            "num_episodes": 100,
        }
    return row


def drawn(view: LiveView, width: int = 120, height: int = 30) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    with console.capture() as captured:
        console.print(view)
    text = captured.get()
    return "".join(
        part.partition("m")[2] if i else part for i, part in enumerate(text.split("\x1b["))
    )


def trials_of(progress: LiveProgress, *folders: str) -> list[Any]:
    """Trials as Tune hands them over."""
    return [SimpleNamespace(custom_dirname=f, trial_id=f, config={}) for f in folders]


def test_the_first_time_left_does_not_count_the_first_evaluation():
    progress = LiveProgress(
        StopConditions({"training_iteration": 40}), lambda _: None, {"a": planned("a", "a")}
    )
    (trial,) = trials_of(progress, "a")
    view = LiveView("house", list(progress.trials.values()), began=time.monotonic())
    assert "loading the model and its engines" in drawn(view)
    progress.on_trial_start(0, [trial], trial)  # Tune's word that it is loaded
    assert "first iteration" in drawn(view)
    progress.on_trial_result(0, [trial], trial, result(1, evaluated=0))
    # 39 iterations of 10 s and four evaluations of 300 s are left; counting the first one's as
    # training would say three and a half hours.
    seconds = progress.trials["a"].seconds_left()
    assert seconds == pytest.approx(39 * 10 + 4 * 300, rel=0.5)
    text = drawn(view)
    assert " 1/40 " in text and "26:30 left" in text and "20.0%, 30.0%" in text


def test_values_are_shown_with_what_went_before():
    progress = LiveProgress(
        StopConditions({"training_iteration": 40}), lambda _: None, {"a": planned("a", "a")}
    )
    (trial,) = trials_of(progress, "a")
    for i in range(1, 9):
        progress.on_trial_result(0, [trial], trial, result(i))
    text = drawn(LiveView("house", list(progress.trials.values())))
    assert "success  80.0%  ▁▂▃▄▅▆▇█" in text


def test_where_the_environment_grades_the_score_stands_beside_success():
    for number in (1, 2):
        trials = [Followed(name=f"t{i}", stop={}, left=TimeLeft({}, {})) for i in range(number)]
        for one in trials:
            one.take(
                {**result(1), **{f"env_runners/{key}": value for key, value in GRADED.items()}}
            )
        text = drawn(LiveView("shop", trials))
        assert "success" in text and "score" in text and "61.5%" in text
    plain = Followed(name="a", stop={}, left=TimeLeft({}, {}))
    plain.take(result(1))
    assert "score" not in drawn(LiveView("house", [plain, plain]))


def test_a_grid_is_a_table_with_a_bar_for_all():
    planned_trials = {name: planned(name, f"lr={name}") for name in "abcd"}
    progress = LiveProgress(
        StopConditions({"training_iteration": 4}), lambda _: None, planned_trials
    )
    for followed in progress.trials.values():
        followed.stop = {"training_iteration": 4}
    trials = trials_of(progress, *"abcd")
    for trial in trials[:3]:
        progress.on_trial_start(0, trials, trial)
    for i in range(1, 5):
        progress.on_trial_result(0, trials, trials[0], result(i))
    progress.on_trial_complete(0, trials, trials[0])
    progress.on_trial_result(0, trials, trials[1], result(1))
    text = drawn(LiveView("sweep", list(progress.trials.values())), width=110)
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("lr=")}
    assert "ended" in rows["lr=a"] and "4/4" in rows["lr=a"] and "1/4" in rows["lr=b"]
    assert "started" in rows["lr=c"] and "pending" in rows["lr=d"]
    assert "5/16" in text and "1 ended, 1 running, 1 started, 1 pending" in text


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_large_grid_fits_any_terminal(width):
    def followed(i: int) -> Followed:
        one = Followed(
            name=f"a_long_key={i} another_long_key={i}",
            stop={"training_iteration": 40},
            left=TimeLeft({"training_iteration": 40}, {}),
        )
        one.enter(ENDED if i < 30 else STARTING)
        return one

    text = drawn(LiveView("sweep", [followed(i) for i in range(50)]), width=width, height=20)
    lines = text.splitlines()
    assert len(lines) <= 20 and all(len(line) <= width for line in lines)
    assert "another_long_key=30" in text or "a_long_key=30" in text  # what goes on comes first
    assert "not shown" in text


def test_an_evaluation_that_results_repeat_counts_once():
    one = Followed(name="a", stop={}, left=TimeLeft({}, {}))
    for i in range(1, 9):
        one.take(
            {"training_iteration": i, "time_this_iter_s": 1.0, "time_total_s": i}
            | {"evaluation/iteration": i // 4, "evaluation/success_rate": 0.1 * (i // 4)}
        )
    numbers = live_view._numbers(one.rows, "evaluation/success_rate")
    assert numbers == pytest.approx([0.0, 0.1, 0.2])


def test_without_a_terminal_there_are_lines(capsys):
    stop = StopConditions({"training_iteration": 40})
    plain = Console(file=io.StringIO(), force_terminal=False)
    with shown_progress("house", {"a": planned("a", "a")}, stop, print, plain) as progress:
        assert type(progress) is ProgressLines
        (trial,) = [SimpleNamespace(custom_dirname="a", trial_id="a", config={})]
        progress.on_trial_result(0, [trial], trial, result(3))  # type: ignore[list-item,arg-type]
    assert capsys.readouterr().out.startswith("iteration  3/40  success 30.0%")


SCRIPT = """
import os, sys, time
sys.path[:0] = {paths!r}
from types import SimpleNamespace
from stepopsd_rllib.commands.live_progress import shown_progress
from stepopsd_rllib.commands.progress import StopConditions
from tests.unit.test_live_view import planned, result
stop = StopConditions({{"training_iteration": 40}})
with shown_progress("house", {{"a": planned("a", "a")}}, stop, print) as progress:
    trial = SimpleNamespace(custom_dirname="a", trial_id="a", config={{}})
    progress.on_trial_start(0, [trial], trial)
    for i in range(1, 6):
        progress.on_trial_result(0, [trial], trial, result(i, evaluated=0))
    print("a word of a worker")
    os.write(2, b"a word of a library" + bytes([10]))
    time.sleep(1.2)
print("the tables")
"""


def test_on_a_real_terminal_the_view_moves_and_words_stay_above_it():
    master, slave = pty.openpty()
    script = SCRIPT.format(paths=[str(ROOT), str(ROOT / "envs")])
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=slave, stderr=slave, env=environment, close_fds=True
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the other side has ended
            break
        if not chunk:
            break
        seen += chunk
    assert process.wait() == 0
    text = seen.decode()
    assert "\x1b[?25l" in text and text.rstrip().endswith("the tables")
    assert "\x1b[?25h" in text  # the cursor is back
    assert "5/40" in text and "evaluation after 0 iterations: 25.0%" in text
    assert text.index("a word of a worker") < text.index("the tables")
    # In place of the view, which is erased before and drawn again below.
    assert text[: text.index("a word of a library")].endswith("\x1b[2K")
    assert text.count("gone") >= 2  # drawn again while nothing came
