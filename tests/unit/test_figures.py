"""Figures for papers: the estimators' values, and what is drawn from them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import floats
from matplotlib.patches import Rectangle

import stepopsd_cli
from stepopsd_rllib.report import estimators, figures
from stepopsd_rllib.report.comparison import read_methods
from stepopsd_rllib.report.heatmap import cell_interval
from tests.helpers.run_folders import write_run
from tests.unit.test_comparison import write_run as graded_run
from tests.unit.test_heatmap import trial

# Two runs of two tasks, against three runs.
FIRST = np.array([[0.2, 0.5], [0.4, 0.9]])
SECOND = np.array([[0.2, 0.1], [0.3, 0.1], [0.1, 1.0]])


def test_probability_of_improvement_counts_pairs_and_half_of_ties():
    # Task 1: 0.2 beats 0.1, ties 0.2, loses to 0.3: 1.5; 0.4 beats all: 3; (1.5 + 3) / 6 = 0.75.
    # Task 2: 0.5 beats 0.1 twice: 2; 0.9 likewise: 2; 4 / 6.
    expected = (0.75 + 4 / 6) / 2
    assert estimators.probability_of_improvement(FIRST, SECOND) == pytest.approx(expected)
    assert estimators.probability_of_improvement(SECOND, FIRST) == pytest.approx(1 - expected)
    assert estimators.probability_of_improvement(FIRST, FIRST) == 0.5


def test_a_profile_is_the_share_of_scores_above_each_threshold():
    profile = estimators.performance_profile(FIRST, np.array([0.0, 0.2, 0.45, 0.9]))
    assert profile.tolist() == [1.0, 0.75, 0.5, 0.0]


def test_the_interquartile_mean_is_that_of_the_middle_half():
    scores = np.arange(8.0).reshape(2, 4)
    assert estimators.interquartile_mean(scores) == np.mean([2, 3, 4, 5])


@given(arrays(float, (3, 4), elements=floats(0, 1)))
def test_a_band_holds_its_profile_and_an_interval_its_value(scores):
    profile, low, high = estimators.profile_band(scores, np.linspace(0, 1, 5))
    assert (np.diff(profile) <= 0).all()
    assert (low <= high).all() and (low >= 0).all() and (high <= 1).all()
    found = estimators.interval(scores, np.mean)
    assert scores.min() - 1e-9 <= found.low <= found.high <= scores.max() + 1e-9


def test_equal_runs_leave_nothing_to_resample():
    scores = np.array([[0.2, 0.8]] * 3)
    found = estimators.interval(scores, np.mean)
    assert found.value == found.low == found.high == pytest.approx(0.5)
    better = estimators.improvement_interval(scores, scores - 0.1)
    assert (better.value, better.low, better.high) == (1.0, 1.0, 1.0)


def test_estimates_and_intervals_are_those_of_rliable():
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed")
    library = pytest.importorskip("rliable.library", reason="arch is not installed")
    rng = np.random.default_rng(0)
    first, second = rng.uniform(size=(5, 6)), rng.uniform(0.1, 1.0, size=(4, 6))
    assert estimators.interquartile_mean(first) == pytest.approx(metrics.aggregate_iqm(first))
    theirs = metrics.probability_of_improvement(first, second)
    assert estimators.probability_of_improvement(first, second) == pytest.approx(theirs)
    thresholds = np.linspace(0, 1, 11)
    profile, low, high = estimators.profile_band(first, thresholds)
    profiles, bands = library.create_performance_profile({"x": first}, thresholds, reps=4000)
    assert profile == pytest.approx(profiles["x"])
    assert np.array([low, high]) == pytest.approx(bands["x"], abs=0.04)  # both are bootstraps

    def both(x, y):
        return np.array([metrics.probability_of_improvement(x, y)])

    ours = estimators.improvement_interval(first, second)
    _, intervals = library.get_interval_estimates({"xy": [first, second]}, both, reps=2000)
    assert (ours.low, ours.high) == pytest.approx(tuple(intervals["xy"][:, 0]), abs=0.04)


@pytest.fixture
def comparison(tmp_path):
    """Two methods with three seeds each."""
    for number, method in enumerate(("GRPO", "SDAR")):
        for seed in range(3):
            write_run(tmp_path / f"{method}_seed{seed}", samples=0, seed=10 * number + seed)
    return tmp_path


@pytest.mark.parametrize("file_format", figures.FORMATS)
def test_a_comparison_gives_every_figure_in_every_format(comparison, file_format, capsys):
    arguments = ["report", str(comparison), "--figures", file_format]
    assert stepopsd_cli.main(arguments) == 0
    written = sorted(path.stem for path in (comparison / "figures").glob(f"*.{file_format}"))
    assert written == [
        "cost",
        "learning_curves",
        "performance_profiles",
        "probability_of_improvement",
        "task_types",
    ]
    assert capsys.readouterr().out.count("figure      ") == 5
    if file_format == "svg":  # text stays text, so that a journal can set it
        text = (comparison / "figures" / "learning_curves.svg").read_text()
        assert ">SDAR (3 seeds)</text>" in text and ">Training iteration</text>" in text


def test_the_same_scores_give_the_same_bytes(comparison):
    methods, _ = read_methods(comparison)
    files = [
        figures.save(figures.performance_profiles(methods), comparison / f"{i}.svg").read_bytes()
        for i in range(2)
    ]
    assert files[0] == files[1]


def test_what_is_drawn_is_what_was_measured(comparison):
    methods, _ = read_methods(comparison)
    (axes,) = figures.learning_curves(methods).axes
    for line, method in zip(axes.lines, methods, strict=True):
        seeds = [[e.total.rate for e in trial.evaluations] for trial in method.trials.values()]
        assert line.get_ydata() == pytest.approx(np.mean(seeds, axis=0))
    (axes,) = figures.type_bars(methods).axes
    heights = [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
    rates = [method.type_rates() for method in methods]
    assert heights == pytest.approx(
        [np.mean(by_type[kind]) for by_type in rates for kind in sorted(by_type)]
    )
    dots = [tuple(line.get_ydata()) for line in axes.lines]
    assert dots == [tuple(by_type[kind]) for by_type in rates for kind in sorted(by_type)]
    for line in axes.lines:  # three seeds of equal rates are three dots
        assert len(set(np.asarray(line.get_xdata()))) == 3
    figure = figures.cost_against_success(methods)
    assert figure is not None
    hours = [x for line in figure.axes[0].lines for x in np.asarray(line.get_xdata())]
    assert set(hours) == {80.0 / 3600}


def test_graded_tasks_have_bars_of_their_scores(tmp_path):
    for seed in range(2):
        graded_run(tmp_path, "GRPO", seed, "a", lost_score=0.2)
        graded_run(tmp_path, "SDAR", seed, "ac", lost_score=0.6)
    methods, _ = read_methods(tmp_path)
    written = figures.write_figures(methods, "GRPO", tmp_path / "figures", "svg")
    (file,) = [path for path in written if path.stem == "task_types_score"]
    assert ">Task score, last evaluation</text>" in file.read_text()


def test_a_baseline_that_is_no_method_is_one_line(comparison, capsys):
    assert (
        stepopsd_cli.main(["report", str(comparison), "--figures", "svg", "--baseline", "x"]) == 2
    )
    assert "--baseline x: is none of GRPO, SDAR." in capsys.readouterr().err


def test_a_run_that_is_no_comparison_gives_its_curves(tmp_path):
    write_run(tmp_path / "house")
    assert stepopsd_cli.main(["report", str(tmp_path), "--figures", "pdf"]) == 0
    assert (tmp_path / "figures" / "curves_house.pdf").read_bytes().startswith(b"%PDF")


def test_a_cell_of_the_heatmap_has_an_interval():
    one, two = trial(won=6, alpha_clip=0.1), trial(won=8, alpha_clip=0.1)
    wilson = cell_interval([one])
    assert (wilson.value, round(wilson.low, 3), round(wilson.high, 3)) == (0.6, 0.313, 0.832)
    several = cell_interval([one, two])  # Student's t with one degree of freedom: 0.7 ± 1.27
    assert (several.value, several.low, several.high) == (pytest.approx(0.7), 0.0, 1.0)
    assert math.isnan(cell_interval([trial(training=(0.3,))]).low)
