"""A run as data frames and figures, for a notebook: `Run("runs/my_run").evaluations`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from stepopsd_rllib.evaluation import intervals
from stepopsd_rllib.report.credit_figures import credit_histogram, episode_credit
from stepopsd_rllib.report.curves import curves_figure
from stepopsd_rllib.report.inspect_page.inspected_files import (
    InspectedTrial,
    inspected_folders,
    read_inspected,
)
from stepopsd_rllib.report.run_files import Evaluation, Wins

OF_EPISODE = ("update", "group", "rollout", "task_id", "task_type", "status", "won", "return")
NOT_OF_TOKEN = frozenset({"observation", "response", "action", "prompt", "finish_reason", "told"})
"""Fields of a turn in `credit.jsonl` that are one text, not a value a token."""
ALL = "all"
"""In place of a task type: over all tasks."""


class Run:
    """A run folder, or a trial folder, read once when a frame is first asked for.

    What is half written or of an older version is left out and named in `notes`. Every frame has
    the column `trial`, the name of the trial's folder.

    Args:
        path: The folder.

    Raises:
        ValueError: It is no run.
    """

    def __init__(self, path: str | Path):
        """Finds the trials."""
        self.path = Path(path)
        self._folders = inspected_folders(self.path)

    def __repr__(self) -> str:
        """Where it is, and how much of it there is."""
        return f"Run({str(self.path)!r}): {', '.join(self.names)}"

    @property
    def names(self) -> list[str]:
        """Of the trials."""
        return [folder.name for folder in self._folders]

    @cached_property
    def notes(self) -> list[str]:
        """What could not be read, a sentence each."""
        return [f"{one.name}: {note}" for one in self._trials for note in one.notes]

    @cached_property
    def config(self) -> pd.DataFrame:
        """Every key (rows) of every trial (columns), as the run resolved it."""
        return pd.DataFrame({one.name: pd.Series(dict(one.trial.config)) for one in self._trials})

    @cached_property
    def iterations(self) -> pd.DataFrame:
        """A row an iteration: `training_iteration` and every key of its result, joined by "/"."""
        first = "training_iteration"
        return self._frame(
            [{first: row[first], **row} for row in one.trial.results] for one in self._trials
        )

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """A row an evaluation and task type, and one for all: success with its 95 % interval.

        Columns: iteration, task_type ("all" for the sum), tasks, won, success, low, high; and
        task_score, task_score_low, task_score_high where the environment grades.
        """
        return self._frame(
            [row for found in one.trial.evaluations for row in _evaluation_rows(found)]
            for one in self._trials
        )

    @cached_property
    def evaluated(self) -> pd.DataFrame:
        """A row an evaluated episode: the rows of `evaluation.jsonl`."""
        return self._frame(one.evaluation_rows for one in self._trials)

    @cached_property
    def errors(self) -> pd.DataFrame:
        """A row an episode that broke: the rows of `errors.jsonl`."""
        return self._frame(one.error_rows for one in self._trials)

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """A row a sampled training episode: its outcome, turns and response tokens."""
        return self._frame(
            [
                {key: record.get(key) for key in OF_EPISODE}
                | {
                    "turns": len(record["turns"]),
                    "tokens": sum(len(turn.get("tokens", ())) for turn in record["turns"]),
                    "told": record.get("told", ""),
                }
                for record in one.samples
            ]
            for one in self._trials
        )

    @cached_property
    def turns(self) -> pd.DataFrame:
        """A row a turn of a sampled episode: what was seen, what was done, whether it was valid."""
        kept = ("observation", "response", "action", "is_action_valid", "finish_reason", "reward")
        return self._frame(
            [
                {key: record.get(key) for key in OF_EPISODE[:3]}
                | {"turn": k}
                | {key: turn.get(key) for key in kept}
                for record in one.samples
                for k, turn in enumerate(record["turns"])
            ]
            for one in self._trials
        )

    @cached_property
    def credit(self) -> pd.DataFrame:
        """A row a response token of a sampled episode, with all that was recorded of it.

        Columns: update, group, rollout, turn, position, token; and what the method has of:
        log_prob_gap (Δ), weight (w), group_advantage (A), advantage (Ã), behaviour_log_prob,
        old_log_prob, new_log_prob, teacher_log_prob, entropy (nats), in_span, is_scored.
        """
        return self._frame(
            [row for record in one.samples for row in _token_rows(record)] for one in self._trials
        )

    def curves(self, trial: str | None = None) -> Figure:
        """The curves of a trial, the first by default: what `curves.png` shows.

        Raises:
            ValueError: There is no such trial.
        """
        return curves_figure(self._named(trial).trial)

    def credit_histogram(self, field: str = "log_prob_gap") -> Figure:
        """How a value of the tokens is spread, over the updates sampled.

        Args:
            field: A column of `credit`.

        Raises:
            ValueError: No token has it.
        """
        return credit_histogram(self.credit, field)

    def episode_credit(
        self, update: int, group: int, rollout: int, field: str = "advantage"
    ) -> Figure:
        """One sampled episode, a row a turn, its tokens coloured by a value.

        Args:
            update: Of the episode; see `episodes`.
            group: Likewise.
            rollout: Likewise.
            field: A column of `credit`.

        Raises:
            ValueError: No such episode was sampled, or its tokens lack the value.
        """
        wanted = (update, group, rollout)
        places = zip(*(self.credit.get(key, ()) for key in OF_EPISODE[:3]), strict=True)
        found = self.credit.loc[[place == wanted for place in places]]
        if found.empty:
            raise ValueError(
                f"{self.path}: no episode of update={update}, group={group}, rollout={rollout} was "
                "sampled. See Run.episodes."
            )
        return episode_credit(found.loc[found["trial"] == found["trial"].iloc[0]], field)

    @cached_property
    def _trials(self) -> list[InspectedTrial]:
        return [read_inspected(folder, folder.name) for folder in self._folders]

    def _named(self, trial: str | None) -> InspectedTrial:
        found = [one for one in self._trials if trial in (None, one.name)]
        if not found:
            raise ValueError(f"trial={trial!r}: is none of {', '.join(self.names)}.")
        return found[0]

    def _frame(self, rows: Any) -> pd.DataFrame:
        """The rows of all trials, in order, the trial's name first."""
        found = [
            {"trial": name, **row}
            for name, of_trial in zip(self.names, rows, strict=True)
            for row in of_trial
        ]
        return pd.DataFrame(found, columns=None if found else ["trial"])


def _evaluation_rows(found: Evaluation) -> list[Mapping[str, Any]]:
    parts: Sequence[tuple[str, Wins]] = [*found.by_task_type.items(), (ALL, found.total)]
    rows = []
    for name, wins in parts:
        rate = intervals.rate(wins.won, wins.episodes)
        row: dict[str, Any] = {
            "iteration": found.iteration,
            "task_type": name,
            "tasks": wins.episodes,
            "won": wins.won,
            "success": rate.value,
            "low": rate.low,
            "high": rate.high,
        }
        if wins.score is not None:
            row |= {
                "task_score": wins.score.value,
                "task_score_low": wins.score.low,
                "task_score_high": wins.score.high,
            }
        rows.append(row)
    return rows


def _token_rows(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    of_episode = {key: record.get(key) for key in OF_EPISODE[:3]}
    rows = []
    for k, turn in enumerate(record["turns"]):
        tokens = turn.get("tokens", ())
        fields = {
            key: values
            for key, values in turn.items()
            if key not in NOT_OF_TOKEN and isinstance(values, list) and len(values) == len(tokens)
        }
        fields.pop("tokens", None)
        for position, token in enumerate(tokens):
            values = {key: found[position] for key, found in fields.items()}
            rows.append({**of_episode, "turn": k, "position": position, "token": token, **values})
    return rows
