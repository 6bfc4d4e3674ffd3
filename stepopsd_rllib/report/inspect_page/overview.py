"""What the first part of a page says of each trial: curves, success by task type, time, errors."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from stepopsd_rllib.evaluation import intervals
from stepopsd_rllib.evaluation.intervals import Estimate
from stepopsd_rllib.report.curves import smoothed
from stepopsd_rllib.report.inspect_page import charts
from stepopsd_rllib.report.inspect_page.charts import Line
from stepopsd_rllib.report.inspect_page.inspected_files import InspectedTrial
from stepopsd_rllib.report.run_files import Evaluation, Wins

LEARNER = "learners/default_policy"
# Result key, title, how its values are written, lower end of the axis.
PANELS = (
    ("env_runners/task_score_mean", "Task score", charts.share, None),
    ("env_runners/episode_return_mean", "Return an episode", charts.plain, None),
    ("env_runners/valid_action_ratio", "Valid actions", charts.share, None),
    ("env_runners/turns_mean", "Turns an episode", charts.plain, None),
    ("env_runners/response_tokens_mean", "Response tokens a turn", charts.plain, None),
    (f"{LEARNER}/entropy", "Entropy of a token, nats", charts.plain, None),
    (f"{LEARNER}/effect_size", "Effect on the advantage, |Ã/A − 1|", charts.share, 0.0),
    (f"{LEARNER}/gap_std", "Standard deviation of Δ, nats", charts.plain, 0.0),
    (f"{LEARNER}/gradient_norm", "Gradient norm", charts.plain, 0.0),
    ("time_this_iter_s", "Seconds an iteration", charts.plain, 0.0),
)
TIMERS = (("sample", "sampling"), ("update", "update"), ("weight_sync", "weight sync"))
TRAINING_STYLE = 1
"""Of training success, where it stands beside the evaluations of one trial."""
_NONE = Wins(won=0, episodes=0)
_ABSENT = "–"


@dataclass(frozen=True, kw_only=True, slots=True)
class TypeRow:
    """Success on one task type: by trial, before and after, with the picture of the intervals."""

    name: str
    tasks: int
    cells: list[tuple[str, str]]
    picture: Markup


def headline(inspected: InspectedTrial) -> dict[str, str]:
    """What a run came to, in a few words."""
    trial = inspected.trial
    last = trial.results[-1] if trial.results else {}
    facts = {
        "method": str(inspected.asked.get("run", "")),
        "environment": str(trial.config.get("env") or ""),
        "model": str(trial.config.get("language_model") or ""),
        "iterations": str(last.get("training_iteration", "")),
        "time": _duration(last.get("time_total_s")),
        "version": str(inspected.asked.get("package", "")),
        "last result": _clock_time(str(last.get("date", ""))),
    }
    evaluations = trial.evaluations
    if len(evaluations) > 1:
        facts["success before"] = shown(_rate(evaluations[0].total))
    if evaluations:
        facts["success"] = shown(_rate(evaluations[-1].total))
    if len(evaluations) > 1:
        first, final = evaluations[0].total, evaluations[-1].total
        change = intervals.difference((first.won, first.episodes), (final.won, final.episodes))
        facts["change"] = shown(change, sign="+")
    if evaluations and evaluations[-1].total.score is not None:
        facts["task score"] = shown(evaluations[-1].total.score)
    return {name: value for name, value in facts.items() if value}


def panels(trials: Sequence[InspectedTrial]) -> list[Markup]:
    """The charts; a panel that no trial has anything for is left out."""
    found = [
        charts.chart("Success rate", _success(trials), write=charts.share, limits=(-0.02, 1.02))
    ]
    more = [
        (key, str(name), charts.plain, None)
        for trial in trials
        for key, name in (trial.trial.config.get("curve_metrics") or {}).items()
    ]
    for key, title, write, floor in dict.fromkeys([*PANELS, *more]):
        lines = [line for i, one in enumerate(trials) for line in _lines(one, key, i, title)]
        if lines:
            found.append(charts.chart(title, lines, write=write, floor=floor))
    return found


def type_rows(trials: Sequence[InspectedTrial]) -> list[TypeRow]:
    """Success by task type at the first and the last evaluation, all tasks in the last row.

    Where the environment grades, the same of the task scores follows.
    """
    ends = [
        (t.trial.evaluations[0], t.trial.evaluations[-1]) for t in trials if t.trial.evaluations
    ]
    names = sorted({name for _, last in ends for name in last.by_task_type})
    rows = [_type_row(name, trials, _rate) for name in [*names, ""] if ends]
    if any(last.total.score is not None for _, last in ends):
        scores = [_type_row(name, trials, _score) for name in [*names, ""]]
        rows += [replace(row, name=f"{row.name}, task score") for row in scores]
    return rows


def time_parts(inspected: InspectedTrial) -> list[tuple[str, float]]:
    """Where the seconds of all iterations went."""
    results = inspected.trial.results
    total = sum(_number(row.get("time_this_iter_s")) for row in results)
    parts = [
        (label, sum(_number(row.get(f"timers/{key}")) for row in results)) for key, label in TIMERS
    ]
    evaluations = {
        row["evaluation/iteration"]: _number(row.get("evaluation/seconds"))
        for row in results
        if "evaluation/iteration" in row
    }
    parts.append(("evaluation", sum(evaluations.values())))
    parts.append(("everything else", max(0.0, total - sum(seconds for _, seconds in parts))))
    return [part for part in parts if part[1] > 0]


def errors_by_name(inspected: InspectedTrial) -> list[tuple[str, str, int]]:
    """Status, first words of the error, and how often it happened; the most frequent first."""
    counted = Counter(
        (str(row.get("status", "")), str(row.get("error", "")).partition(":")[0][:80])
        for row in inspected.error_rows
    )
    return [(status, name, count) for (status, name), count in counted.most_common(20)]


def config_rows(trials: Sequence[InspectedTrial]) -> list[tuple[str, list[str], bool]]:
    """Every key, its value in each trial, and whether the trials differ in it."""
    keys = sorted({str(key) for trial in trials for key in trial.trial.config})
    rows = [
        (key, [_value(trial.trial.config.get(key, _ABSENT)) for trial in trials]) for key in keys
    ]
    return [(key, values, len(set(values)) > 1) for key, values in rows]


def written_rows(inspected: InspectedTrial) -> list[tuple[str, str]]:
    """The keys that the example sets, as it writes them."""
    return [(key, _value(value)) for key, value in inspected.asked.get("config", {}).items()]


def shown(estimate: Estimate, *, sign: str = "") -> str:
    """A rate with its interval, as text."""
    if not math.isfinite(estimate.value):
        return "–"
    value, low, high = (
        f"{100 * number:{sign}.1f}" for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} % [{low}, {high}]"


def _clock_time(date: str) -> str:
    """Tune's "2026-11-26_13-29-32" as a person writes it."""
    day, _, time = date.partition("_")
    return f"{day} {time.replace('-', ':')}".strip()


def _success(trials: Sequence[InspectedTrial]) -> list[Line]:
    lines: list[Line] = []
    for i, one in enumerate(trials):
        label = one.name if len(trials) > 1 else ""
        x, y = one.trial.series("env_runners/success_rate")
        if len(trials) == 1 and x:
            lines.append(
                Line(x=x, y=y, style=TRAINING_STYLE, is_faint=True, label="training tasks")
            )
            lines.append(
                Line(x=x, y=smoothed(y), style=TRAINING_STYLE, label="training tasks, smoothed")
            )
        evaluations = one.trial.evaluations
        if evaluations:
            rates = [_rate(evaluation.total) for evaluation in evaluations]
            lines.append(
                Line(
                    x=[evaluation.iteration for evaluation in evaluations],
                    y=[rate.value for rate in rates],
                    low=[rate.low for rate in rates],
                    high=[rate.high for rate in rates],
                    style=i,
                    has_dots=True,
                    label=f"{label} evaluation".strip(),
                )
            )
        elif len(trials) > 1 and x:
            lines.append(Line(x=x, y=smoothed(y), style=i, label=f"{label} training tasks"))
    return lines


def _lines(one: InspectedTrial, key: str, style: int, title: str) -> list[Line]:
    x, y = one.trial.series(key)
    if not any(math.isfinite(value) for value in y):
        return []
    return [
        Line(x=x, y=y, style=style, is_faint=True, label=one.name),
        Line(x=x, y=smoothed(y), style=style, label=f"{one.name}: {title}, smoothed"),
    ]


def _type_row(
    name: str, trials: Sequence[InspectedTrial], estimate: Callable[[Wins], Estimate]
) -> TypeRow:
    cells: list[tuple[str, str]] = []
    marks: list[tuple[float, float, float, int]] = []
    tasks = 0
    for i, one in enumerate(trials):
        evaluations = one.trial.evaluations
        if not evaluations:
            cells.append(("–", "–"))
            continue
        ends = [evaluations[0], evaluations[-1]] if len(evaluations) > 1 else [evaluations[-1]]
        rates = [estimate(_wins(evaluation, name)) for evaluation in ends]
        tasks = max(tasks, _wins(ends[-1], name).episodes)
        cells.append((shown(rates[0]) if rates[1:] else "", shown(rates[-1])))
        # One trial: before in grey, after in its colour. Several: what each came to.
        kept = [(rate, 6 if k == 0 and rates[1:] else i) for k, rate in enumerate(rates)]
        for rate, style in kept if len(trials) == 1 else kept[-1:]:
            marks.append((rate.value, rate.low, rate.high, style))
    return TypeRow(name=name or "all", tasks=tasks, cells=cells, picture=charts.whiskers(marks))


def _wins(evaluation: Evaluation, name: str) -> Wins:
    return evaluation.by_task_type.get(name, _NONE) if name else evaluation.total


def _rate(wins: Wins) -> Estimate:
    return intervals.rate(wins.won, wins.episodes)


def _score(wins: Wins) -> Estimate:
    return intervals.UNKNOWN if wins.score is None else wins.score


def _number(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if is_number else 0.0


def _duration(seconds: Any) -> str:
    minutes, rest = divmod(round(_number(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _value(value: Any) -> str:
    # The address of a function differs from run to run and says nothing.
    text = "none" if value is None else re.sub(r" at 0x[0-9a-f]+>", ">", str(value))
    return text if len(text) <= 200 else f"{text[:200]} …"
