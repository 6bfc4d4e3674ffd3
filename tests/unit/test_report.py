import dataclasses
import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from stepopsd_rllib.report import run_files, tables
from stepopsd_rllib.report.curves import draw_curves, smoothed
from stepopsd_rllib.report.run_files import Evaluation, Wins


def result(iteration: int, evaluated_at: int, wins: dict[str, tuple[int, int]]) -> dict:
    """A result of the documented form; wins are task type -> (won, episodes)."""
    won, episodes = (sum(pair[i] for pair in wins.values()) for i in (0, 1))
    return {
        "training_iteration": iteration,
        "time_this_iter_s": 7.5,
        "env_runners": {
            "success_rate": 0.2 + 0.01 * iteration,
            "episode_return_mean": 0.2,
            "valid_action_ratio": 0.9,
            "turns_mean": 11.0,
        },
        "learners": {"default_policy": {"entropy": 1.2}},
        "evaluation": {
            "iteration": evaluated_at,
            "num_wins": won,
            "num_episodes": episodes,
            "success_rate": won / episodes,
            "task_type": {
                name: {"num_wins": pair[0], "num_episodes": pair[1]} for name, pair in wins.items()
            },
        },
        "config": {"eval_split": "valid_unseen", "env": "stepopsd/ALFWorld-v0"},
    }


BEFORE = {"pick_and_place_simple": (3, 20), "look_at_obj_in_light": (2, 20)}
AFTER = {"pick_and_place_simple": (14, 20), "look_at_obj_in_light": (9, 20)}


@pytest.fixture
def trial_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "GRPO_0"
    folder.mkdir(parents=True)
    rows = [result(1, 0, BEFORE), result(2, 0, BEFORE), result(3, 3, AFTER)]
    (folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_folder_leads_to_its_trials(trial_folder):
    assert run_files.trial_folders(trial_folder.parent) == [trial_folder]
    assert run_files.trial_folders(trial_folder) == [trial_folder]


def test_a_repeated_evaluation_is_read_once(trial_folder):
    evaluations = run_files.read_trial(trial_folder).evaluations
    assert [evaluation.iteration for evaluation in evaluations] == [0, 3]
    assert evaluations[0].total == Wins(won=5, episodes=40)
    assert evaluations[1].by_task_type["look_at_obj_in_light"] == Wins(won=9, episodes=20)


def test_episode_rows_count_before_the_results_and_errors_not_at_all(trial_folder):
    row = {"iteration": 0, "task_type": "pick", "won": True, "status": "success", "task_id": "a"}
    rows = [
        row,
        row,  # a resumed trial writes it again
        row | {"task_id": "b", "won": False, "status": "turn_limit"},
        row | {"task_id": "c", "won": False, "status": "environment_error"},
        row | {"iteration": 5, "task_type": "look", "task_id": "d"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (trial_folder / "evaluation.jsonl").write_text(text)
    first, last = run_files.read_trial(trial_folder).evaluations
    assert (first.iteration, first.total) == (0, Wins(won=1, episodes=2))
    assert (last.iteration, last.by_task_type) == (5, {"look": Wins(won=1, episodes=1)})


def test_series_follow_the_iterations(trial_folder):
    iterations, entropy = run_files.read_trial(trial_folder).learner_series("entropy")
    assert iterations == [1.0, 2.0, 3.0]
    assert entropy == [1.2, 1.2, 1.2]


def test_a_last_line_cut_short_is_left_out(trial_folder):
    with (trial_folder / "result.json").open("a") as file:
        file.write('{"training_iteration": 4, "time_th')
    assert len(run_files.read_trial(trial_folder).results) == 3


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(trial_folder):
    path = trial_folder / "result.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "not json", lines[2]]))
    with pytest.raises(ValueError, match=r"result\.json:2: not JSON"):
        run_files.read_trial(trial_folder)


def test_a_resumed_trial_keeps_the_later_of_two_results(trial_folder):
    with (trial_folder / "result.json").open("a") as file:
        file.write(json.dumps(result(2, 0, BEFORE) | {"time_this_iter_s": 1.0}) + "\n")
    trial = run_files.read_trial(trial_folder)
    assert trial.series("time_this_iter_s") == ([1.0, 2.0, 3.0], [7.5, 1.0, 7.5])


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="so it is not a run folder"):
        run_files.trial_folders(tmp_path)


def test_the_table_compares_first_and_last_evaluation(trial_folder):
    table = tables.success_table(run_files.read_trial(trial_folder).evaluations)
    lines = table.splitlines()
    assert "before (iteration 0)" in lines[0]
    assert "after (iteration 3)" in lines[0]
    assert lines[-1].startswith("all")
    # Both types have 20 tasks, so both averages are the same; their intervals are not.
    assert lines[-2].startswith("mean of the types") and lines[-2].count("%") == lines[-1].count(
        "%"
    )
    assert "12.5%" in lines[-2] and "57.5%" in lines[-2] and "+45.0%" in lines[-2]
    assert "12.5%" in lines[-1]
    assert "57.5%" in lines[-1]
    assert "+45.0%" in lines[-1]
    assert len({len(line) for line in lines if set(line) == {"-"}}) == 1


def test_a_task_type_that_one_evaluation_lacks_has_no_difference(trial_folder):
    rows = [result(1, 0, BEFORE), result(2, 2, AFTER | {"pick_two_obj_and_place": (1, 2)})]
    (trial_folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = tables.success_table(run_files.read_trial(trial_folder).evaluations)
    (line,) = [line for line in table.splitlines() if line.startswith("pick_two")]
    assert line.endswith("-")


def test_a_single_type_has_no_mean_of_the_types(trial_folder):
    evaluation = Evaluation(
        iteration=3, total=Wins(won=1, episodes=4), by_task_type={"nq": Wins(won=1, episodes=4)}
    )
    for table in (tables.single_table(evaluation), tables.success_table([evaluation, evaluation])):
        assert "mean of the types" not in table


def test_tasks_that_broke_are_named_under_the_table(trial_folder):
    row = {"iteration": 0, "task_type": "nq", "won": True, "status": "success", "task_id": "a"}
    rows = [row, *(row | {"task_id": str(n), "status": "tool_error"} for n in range(3))]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (trial_folder / "evaluation.jsonl").write_text(text)
    [evaluation] = run_files.read_trial(trial_folder).evaluations
    for table in (tables.success_table([evaluation]), tables.success_table([evaluation] * 2)):
        assert "Not counted: 3 tasks of the evaluation after 0 iterations (tool_error 3)." in table


def test_errors_of_an_evaluation_are_read_from_results_too():
    row = result(1, 0, BEFORE)
    row["evaluation"]["status"] = {"success": 5, "tool_error": 2, "sampler_error": 0}
    assert run_files.evaluation_of(row).errors == {"tool_error": 2}


def test_without_an_evaluation_the_table_says_how_to_get_one():
    assert "evaluation_interval" in tables.success_table([])


def test_smoothing_keeps_a_constant_and_moves_half_way_in_one_half_life():
    assert smoothed([0.3] * 5) == pytest.approx([0.3] * 5)
    step = smoothed([0.0] * 200 + [1.0] * 3)
    assert step[-1] == pytest.approx(0.5, abs=1e-6)


def test_the_picture_is_drawn_and_not_blank(trial_folder):
    path = draw_curves(run_files.read_trial(trial_folder))
    assert path == trial_folder / "curves.png"
    pixels = imread(path)
    assert pixels.shape[0] > 600
    assert pixels.std() > 0.05


def test_a_run_can_have_panels_of_its_own(trial_folder):
    trial = run_files.read_trial(trial_folder)
    plain = imread(draw_curves(trial)).shape
    more = {"time_this_iter_s": "A title", "no/such/metric": "Another"}
    trial = dataclasses.replace(trial, config={**trial.config, "curve_metrics": more})
    extended = imread(draw_curves(trial))
    assert extended.shape[0] == pytest.approx(1.5 * plain[0], abs=2)
    lowest = extended[-extended.shape[0] // 3 :]
    third = lowest.shape[1] // 3
    assert (lowest[:, :third] < 0.9).any() and not (lowest[:, 2 * third + 60 :] < 0.9).any()


def test_graded_tasks_show_their_mean_score_with_an_interval(trial_folder):
    scores = {0: (0.0, 0.5, 0.25, 0.25), 3: (1.0, 0.5, 1.0, 1.0)}
    rows = [
        {
            "iteration": iteration,
            "split": "valid_unseen",
            "task_id": f"task {index}",
            "task_type": "beauty" if index < 2 else "garden",
            "won": score == 1.0,
            "task_score": score,
            "return": 0.0,
            "turns": 3,
            "status": "success" if score == 1.0 else "failure",
        }
        for iteration, of_task in scores.items()
        for index, score in enumerate(of_task)
    ]
    path = trial_folder / "evaluation.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluations = run_files.read_trial(trial_folder).evaluations
    table = tables.success_table(evaluations)
    success, score = table.split("\n\n")
    assert success.splitlines()[0].startswith("task type") and "+75.0%" in success
    assert score.splitlines()[0].startswith("task score")
    assert "25.0% [0.0%, 57.5%]" in score.splitlines()[-1]
    assert "87.5% [47.7%, 100.0%]" in score.splitlines()[-1] and "+62.5%" in score
    single = tables.single_table(evaluations[-1]).splitlines()
    assert single[0].split()[-2:] == ["task", "score"]
    assert "87.5% [47.7%, 100.0%]" in single[-1]


def test_the_score_of_an_evaluation_is_read_from_a_result_too():
    row = result(1, 0, BEFORE)
    row["evaluation"] |= {"task_score_mean": 0.4, "task_score_low": 0.3, "task_score_high": 0.5}
    graded = run_files.evaluation_of(row).total.score
    assert graded is not None and (graded.value, graded.low, graded.high) == (0.4, 0.3, 0.5)
    assert run_files.evaluation_of(result(1, 0, BEFORE)).total.score is None
