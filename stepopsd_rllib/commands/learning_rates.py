"""The learning rate of each method of a comparison, chosen for all by one rule from one grid.

The file names the grid before anything runs:

    learning_rate: {grid: [2.0e-4, 4.0e-4, 8.0e-4], seeds: [100], split: valid_seen}

Every method runs with every rate and with seeds and evaluation tasks that the comparison itself
does not use. The rate with the highest mean success at the last evaluation is taken, of equal ones
the lowest. The runs of a choice are in a folder of their own for each method,
`<comparison>_learning_rate_<method>`, which all parts of the comparison share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from stepopsd_envs.text_env import SPLITS

from stepopsd_rllib.commands.tuned import TunedExample
from stepopsd_rllib.report.comparison import Method

KEYS = ("grid", "seeds", "split")


@dataclass(frozen=True, kw_only=True, slots=True)
class RateChoice:
    """How learning rates are chosen.

    Attributes:
        grid: The rates tried, ascending.
        seeds: Seeds of these runs.
        split: Evaluation tasks of these runs.
    """

    grid: Sequence[float]
    seeds: Sequence[int]
    split: str


def rate_choice(
    source: str, value: Any, *, seeds: Sequence[int], methods: Mapping[str, TunedExample]
) -> RateChoice | None:
    """Reads `learning_rate`; None where a file has none.

    Args:
        source: The file; messages start with it.
        value: The value as written.
        seeds: Seeds of the comparison.
        methods: Methods of the comparison, with their configs.

    Raises:
        ValueError: It is written wrongly, or what it chooses by is what is compared.
    """
    if value is None:
        return None
    what = f"{source}: learning_rate={value!r}"
    if not isinstance(value, dict) or set(value) != set(KEYS):
        raise ValueError(f"{what}: write {{grid: [2.0e-4, 4.0e-4], seeds: [100], split: ...}}.")
    grid, own_seeds, split = (value[key] for key in KEYS)
    is_grid = isinstance(grid, list) and all(type(rate) is float and rate > 0 for rate in grid)
    if not is_grid or len(set(grid)) < 2 or len(set(grid)) < len(grid):
        raise ValueError(f"{what}: grid: write two or more different rates, such as 2.0e-4.")
    if not isinstance(own_seeds, list) or not own_seeds or set(own_seeds) & set(seeds):
        raise ValueError(f"{what}: seeds: write seeds that the comparison does not use.")
    if split not in SPLITS:
        raise ValueError(f"{what}: split: choose one of {', '.join(SPLITS)}.")
    for label, example in methods.items():
        if split == example.config.get("eval_split"):
            raise ValueError(
                f"{what}: split: {label} is compared on it, so the choice would see the results. "
                "Choose another one."
            )
        if "lr" in example.config and isinstance(example.config["lr"], dict):
            raise ValueError(f"{source}: methods.{label}.lr: the grid chooses it. Leave it out.")
    return RateChoice(grid=sorted(grid), seeds=own_seeds, split=split)


def rates_folder(comparison: str, label: str) -> str:
    """Name of the run folder in which a method's rates are tried."""
    return f"{comparison}_learning_rate_{label}"


def rate_label(label: str, rate: float) -> str:
    """Name of a method with a rate."""
    return f"{label} lr={rate:g}"


def examples_of_choice(
    methods: Mapping[str, TunedExample], choice: RateChoice
) -> dict[str, TunedExample]:
    """Every method with every rate, on the tasks and seeds of the choice."""
    shared = {"eval_split": choice.split, "seed": {"grid_search": list(choice.seeds)}}
    return {
        rate_label(label, rate): _with(example, {**shared, "lr": rate})
        for label, example in methods.items()
        for rate in choice.grid
    }


def best_rates(
    labels: Sequence[str], choice: RateChoice, tried: Sequence[Method]
) -> dict[str, float]:
    """Label -> rate, by the rule of the module's docstring.

    Raises:
        ValueError: A run of the choice is missing.
    """
    by_name = {method.name: method for method in tried}
    chosen = {}
    for label in labels:
        rates = {}
        for rate in choice.grid:
            method = by_name.get(rate_label(label, rate))
            missing = sorted(set(choice.seeds) - set(method.outcomes if method else ()))
            if method is None or missing:
                raise ValueError(
                    f"{rate_label(label, rate)}: seeds {missing} did not end, so no learning rate "
                    f"can be chosen for {label}. Go on with that run first (--resume)."
                )
            rates[rate] = float(np.mean(method.seed_rates()))
        chosen[label] = max(choice.grid, key=lambda rate: rates[rate])  # the first, if equal
    return chosen


def with_rates(
    methods: Mapping[str, TunedExample], chosen: Mapping[str, float]
) -> dict[str, TunedExample]:
    """The methods with their rates."""
    return {label: _with(example, {"lr": chosen[label]}) for label, example in methods.items()}


def _with(example: TunedExample, keys: Mapping[str, Any]) -> TunedExample:
    return dataclasses.replace(example, config={**example.config, **keys})
