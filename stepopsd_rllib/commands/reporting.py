"""`stepopsd report`: tables and pictures of a run again, and figures for a paper."""

from __future__ import annotations

from pathlib import Path

from stepopsd_rllib.report import figures
from stepopsd_rllib.report.comparison import Method, read_methods
from stepopsd_rllib.report.curves import curves_figure, draw_curves
from stepopsd_rllib.report.heatmap import HEATMAP, draw_heatmap, heatmap_figure
from stepopsd_rllib.report.run_files import Trial, read_trial, trial_folders
from stepopsd_rllib.report.tables import success_table

DEFAULT_BASELINE = "GRPO"


def report(run: str, *, file_format: str | None = None, baseline: str | None = None) -> int:
    """Prints the tables of a run and draws its pictures; returns the exit status.

    Args:
        run: A run folder or one trial folder in it.
        file_format: Of figures for a paper, written into the run's folder `figures`.
        baseline: Method of a comparison that the others are set against; GRPO by default.

    Raises:
        ValueError: There is no run, or no such method in it.
    """
    trials = [read_trial(folder) for folder in trial_folders(run)]
    for trial in trials:
        print(f"{trial.folder.name}\n{success_table(trial.evaluations)}\n")
        print(f"curves      {draw_curves(trial)}\n")
    heatmap = draw_heatmap(trials, Path(run) / HEATMAP)
    if heatmap is not None:
        print(f"heatmap     {heatmap}")
    if file_format is not None:
        for path in _figures(run, trials, file_format, baseline):
            print(f"figure      {path}")
    return 0


def _figures(run: str, trials: list[Trial], file_format: str, baseline: str | None) -> list[Path]:
    folder = Path(run) / figures.FOLDER
    methods = _methods(run)
    if methods:
        names = [method.name for method in methods]
        if baseline is not None and baseline not in names:
            raise ValueError(f"--baseline {baseline}: is none of {', '.join(names)}.")
        default = DEFAULT_BASELINE if DEFAULT_BASELINE in names else names[0]
        return figures.write_figures(methods, baseline or default, folder, file_format)
    written = [
        figures.save(curves_figure(trial), folder / f"curves_{trial.folder.name}.{file_format}")
        for trial in trials
        if trial.results
    ]
    heatmap = heatmap_figure(trials)
    if heatmap is not None:
        written.append(figures.save(heatmap, folder / f"heatmap.{file_format}"))
    return written


def _methods(run: str) -> list[Method]:
    """The methods of a comparison; [] for a run that is none."""
    try:
        return read_methods(run)[0]
    except ValueError:
        return []
