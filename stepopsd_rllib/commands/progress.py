"""What a run shows while it trains: a line an iteration, readable in a terminal and in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.utils import flatten_dict

from stepopsd_rllib.commands.stop_keys import never_met
from stepopsd_rllib.commands.time_left import TimeLeft

# Result key, label, how the value is written.
COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("env_runners/success_rate", "success", "{:.1%}".format),
    ("env_runners/task_score_mean", "score", "{:.1%}".format),
    ("env_runners/episode_return_mean", "return", "{:.2f}".format),
    ("env_runners/valid_action_ratio", "valid", "{:.0%}".format),
    ("env_runners/turns_mean", "turns", "{:.1f}".format),
    ("learners/default_policy/entropy", "entropy", "{:.2f}".format),
    ("learners/default_policy/effect_size", "effect", "{:.2%}".format),
)


class StopConditions(tune.Stopper):
    """Ends a trial at its tuned example's `stop`, or after the iteration in which it was asked to.

    `interrupt()` makes every running trial end with a checkpoint after its present iteration and
    keeps the others from starting. A criterion whose result never comes is named once; if there is
    no other, the trial ends, with a checkpoint, rather than never.
    """

    def __init__(self, stop: Mapping[str, float], write: Callable[[str], None] | None = None):
        """Takes result keys and the numbers that end a trial when reached, and who is told."""
        self.stop = dict(stop)
        self._write = write
        self.never_met: dict[str, str] = {}
        self.is_interrupted = False
        self.num_running = 0

    def interrupt(self) -> None:
        """Asks all trials to end."""
        self.is_interrupted = True

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether this result is the trial's last."""
        del trial_id
        flat = flatten_dict(result)
        reached = any(flat.get(key, float("-inf")) >= limit for key, limit in self.stop.items())
        for key, hint in never_met(self.stop, flat).items():
            if key not in self.never_met and self._write is not None:
                self._write(f"stop.{key}: no result has this{hint or '.'}")
            self.never_met[key] = hint
        return reached or self.is_interrupted or set(self.stop) == set(self.never_met)

    def stop_all(self) -> bool:
        """Whether no further trial may start."""
        return self.is_interrupted and self.num_running == 0


def grid_label(trial: Trial) -> str:
    """What tells a trial of a grid from the others: the values that were searched over."""
    values = {key.split("/")[-1]: value for key, value in trial.evaluated_params.items()}
    return " ".join(f"{key}={value}" for key, value in values.items()) or trial.trial_id


class ProgressLines(tune.Callback):
    """Prints a line for every iteration and every evaluation of every trial.

    Args:
        stop: The stop conditions; its time and iteration limits give the time that is left.
        write: Where a line goes.
        label: What a line of one of several trials begins with.
    """

    def __init__(
        self,
        stop: StopConditions,
        write: Callable[[str], None],
        label: Callable[[Trial], str] = grid_label,
    ):
        """Remembers where lines go; see the class."""
        self._stop = stop
        self._write = write
        self._name = label
        self._left: dict[str, TimeLeft] = {}
        self._shown_evaluation: dict[str, int] = {}
        self._started = time.monotonic()

    def setup(self, *args: Any, **info: Any) -> None:
        """Says what takes the time before the first trial starts."""
        self._write("loading the model and its engines ...")

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Says that a trial has loaded its model and engines, and works on its first iteration."""
        self._stop.num_running += 1
        self.started(trial, self._label(trial, trials))

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Counts the trial out."""
        self._stop.num_running -= 1

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Counts the trial out; its error is shown at the end."""
        self._stop.num_running -= 1

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Prints the result's line, and its evaluation's where it is a new one."""
        flat = flatten_dict(result)
        label = self._label(trial, trials)
        self.result(trial, flat, label)
        made_at = flat.get("evaluation/iteration")
        if made_at is not None and self._shown_evaluation.get(trial.trial_id) != made_at:
            self._shown_evaluation[trial.trial_id] = made_at
            self._write(label + evaluation_line(flat))

    def started(self, trial: Trial, label: str) -> None:
        """A line when a trial works on its first iteration."""
        del trial
        self._write(f"{label}loaded: first iteration ...")

    def result(self, trial: Trial, flat: dict[str, Any], label: str) -> None:
        """A line for a result, nested keys joined by "/"."""
        left = self._left.setdefault(trial.trial_id, TimeLeft(self._stop.stop, trial.config))
        left.take(flat)
        more = trial.config.get("progress_metrics") or {}
        self._write(label + iteration_line(flat, self._stop.stop, left.seconds(flat), more))

    def _label(self, trial: Trial, trials: Iterable[Trial]) -> str:
        return f"[{self._name(trial)}] " if len(list(trials)) > 1 else ""


def iteration_line(
    flat: Mapping[str, Any],
    stop: Mapping[str, float],
    seconds_left: float | None = None,
    more: Mapping[str, str] | None = None,
) -> str:
    """One training iteration: number, what was learned, its duration and the time left.

    Args:
        flat: The result, nested keys joined by "/".
        stop: Result key -> number that ends the run.
        seconds_left: Until the run ends; None where that cannot be foreseen.
        more: The key `progress_metrics`: result key -> label. A result without it shows "-".
    """
    number = str(flat["training_iteration"])
    if "training_iteration" in stop:
        last = f"{stop['training_iteration']:.0f}"
        number = f"{number.rjust(len(last))}/{last}"
    parts = [f"iteration {number}"]
    parts += [f"{name} {write(flat[key])}" for key, name, write in COLUMNS if key in flat]
    parts += [f"{label} {_number(flat.get(key))}" for key, label in (more or {}).items()]
    errors = errors_in(flat, "env_runners")
    if errors:
        parts.append(f"not counted: {errors} (errors.jsonl)")
    parts.append(f"{flat['time_this_iter_s']:.1f} s")
    if seconds_left is not None:
        parts.append(f"{clock(seconds_left)} left")
    return "  ".join(parts)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, Real) else "-"


def evaluation_line(flat: Mapping[str, Any]) -> str:
    """One evaluation: success with its interval, tasks, task score, and when it was made."""
    when = f"  evaluation after {flat['evaluation/iteration']} iterations: "
    errors = errors_in(flat, "evaluation")
    if not flat["evaluation/num_episodes"]:
        return f"{when}no task was counted ({errors})"
    shown = f"{when}{_with_interval(flat, 'success_rate', '')} of {_tasks_of_all(flat)} tasks"
    if "evaluation/task_score_mean" in flat:
        shown += f", task score {_with_interval(flat, 'task_score', '_mean')}"
    return shown + (f", not counted: {errors}" if errors else "")


def _with_interval(flat: Mapping[str, Any], name: str, end: str) -> str:
    value, low, high = (flat[f"evaluation/{name}{part}"] for part in (end, "_low", "_high"))
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def _tasks_of_all(flat: Mapping[str, Any]) -> str:
    """Tasks that were counted, and of how many in the split where these are more."""
    counted = f"{flat['evaluation/num_episodes']:.0f}"
    of_all = f"{flat.get('evaluation/num_split_tasks', flat['evaluation/num_episodes']):.0f}"
    return counted if counted == of_all else f"{counted} of {of_all}"


def errors_in(flat: Mapping[str, Any], prefix: str) -> str:
    """Episodes that broke, by status, or "": they are in no rate, so they have to be seen."""
    found = {
        key.rpartition("/")[2]: count
        for key, count in flat.items()
        if key.startswith(f"{prefix}/status/") and key.endswith("_error") and count
    }
    return ", ".join(f"{status} {count:.0f}" for status, count in sorted(found.items()))


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
