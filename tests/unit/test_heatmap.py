"""The heatmap of a grid over two keys."""

from pathlib import Path

import pytest

from stepopsd_rllib.report.heatmap import cell_values, draw_heatmap, grid_keys
from stepopsd_rllib.report.run_files import Evaluation, Trial, Wins


def trial(won: int | None = None, training: tuple[float, ...] = (), **config: float) -> Trial:
    evaluations = []
    if won is not None:
        evaluations = [
            Evaluation(iteration=i, total=Wins(won=wins, episodes=10), by_task_type={})
            for i, wins in enumerate((0, won))
        ]
    return Trial(
        folder=Path("trial"),
        config={"lr": 1e-3, "teacher": "stale", "score_all": True, **config},
        results=[
            {"training_iteration": i + 1, "env_runners/success_rate": rate}
            for i, rate in enumerate(training)
        ],
        evaluations=evaluations,
    )


def test_the_keys_of_a_grid_are_the_numbers_that_differ():
    trials = [trial(alpha_clip=a, lambda_mix=b, seed=s) for a, b, s in ((0.2, 1, 0), (0.1, 0, 1))]
    assert grid_keys(trials) == ["alpha_clip", "lambda_mix"]
    assert grid_keys(trials[:1]) == grid_keys([]) == []


def test_cells_have_the_last_evaluation_of_each_seed_or_the_last_training_iterations():
    trials = [
        trial(won=6, alpha_clip=0.2, lambda_mix=0.5, seed=0),
        trial(won=8, alpha_clip=0.2, lambda_mix=0.5, seed=1),
        trial(training=(0.0,) * 5 + (0.3,) * 10, alpha_clip=0.1, lambda_mix=0.5),
        trial(alpha_clip=0.1, lambda_mix=0.0),
    ]
    cells = cell_values(trials, "alpha_clip", "lambda_mix")
    assert cells == {(0.2, 0.5): [0.6, 0.8], (0.1, 0.5): [pytest.approx(0.3)]}


def test_a_grid_of_two_keys_is_drawn_and_nothing_else_is(tmp_path):
    grid = [trial(won=w, alpha_clip=a, lambda_mix=b) for w, a, b in ((1, 0.05, 0), (9, 0.2, 1))]
    path = draw_heatmap(grid, tmp_path / "heatmap.png")
    assert path is not None and path.read_bytes().startswith(b"\x89PNG")
    one_key = [trial(won=1, alpha_clip=0.1), trial(won=1, alpha_clip=0.2)]
    assert draw_heatmap(one_key, tmp_path / "none.png") is None
    assert draw_heatmap([trial(alpha_clip=a, lambda_mix=a) for a in (0, 1)], tmp_path / "n") is None
    assert not (tmp_path / "none.png").exists()
