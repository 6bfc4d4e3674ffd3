"""`stepopsd keys`: the keys of a method with default, range and meaning; and the page of all."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from stepopsd_rllib.algorithms import ALGORITHMS
from stepopsd_rllib.algorithms.grpo import GRPOConfig
from stepopsd_rllib.commands.tuned import TunedExample, algorithm_class
from stepopsd_rllib.config_keys import Key
from stepopsd_rllib.training.agent_config import AgentConfig
from stepopsd_rllib.training.keyed_config import KeyedConfig
from stepopsd_rllib.training.rllib_keys import HONOURED, IGNORED, spelled

PAGE = "docs/configuration.md"
"""Where the page of all keys stands; `stepopsd keys --markdown` writes it."""

_INTRODUCTION = """\
<!-- Written by `stepopsd keys --markdown`; the keys are declared in the code. -->
# Configuration

Every key has a default, a range that `validate()` checks, and a meaning. It is set in a tuned
example (`config: {clip_high: 0.28}`), on the command line (`--set clip_high=0.28`), or in Python
(`GRPOConfig().training(clip_high=0.28)`, `config.clip_high = 0.28`). A name that is no key is
refused with the nearest one. `stepopsd keys METHOD` shows the keys of a method, `stepopsd keys
METHOD KEY` one of them, and `help(StepOPSDConfig.training)` the same in Python.
"""


def show(method: str | None, key: str | None) -> str:
    """The text of `stepopsd keys [METHOD [KEY]]`.

    Args:
        method: One of ours, or "module:Class"; None lists ours.
        key: One key of it; None lists all.

    Raises:
        ValueError: No such method, or no such key of it.
    """
    if method is None:
        return "Keys of one method: stepopsd keys METHOD\n" + "\n".join(
            f"  {name:<11}{_summary(_config(name))}" for name in ALGORITHMS
        )
    config = _config(method)
    if key is None:
        return _table(config)
    found = [item for item in config.declared.values() if key in (item.name, item.argument)]
    if not found:
        raise config().unknown_key(key)
    return _one(config, found[0])


def page() -> str:
    """All keys in Markdown: the agent's, GRPO's, what each method adds, and RLlib's."""
    agent = [item for item in AgentConfig.declared.values() if item.section == "agent"]
    rllib = [item for item in AgentConfig.declared.values() if item.section != "agent"]
    parts = [
        _INTRODUCTION,
        "## The agent\n\nOf every method; in Python with `.agent(...)`.\n",
        _markdown(agent),
        "## Optimizer and seed\n\nRLlib's own keys that have a default or a range of their own "
        "here; `.training(...)` and `.debugging(seed=...)`.\n",
        _markdown(rllib),
    ]
    for name in ALGORITHMS:
        config = _config(name)
        base = GRPOConfig if config is not GRPOConfig else AgentConfig
        added = [
            item
            for item in config.declared.values()
            if item.name not in base.declared or item.default != base.declared[item.name].default
        ]
        more = "" if config is GRPOConfig else " What it adds to GRPO, or starts with otherwise."
        parts += [f"## {name}\n\n{_summary(config)}{more}\n", _markdown(added)]
    return "\n".join([*parts, _rllib_page()])


def _config(method: str) -> type[KeyedConfig]:
    example = TunedExample(source="stepopsd keys", name=method, run=method, env=None, stop={})
    config = type(algorithm_class(example).get_default_config())
    if not issubclass(config, KeyedConfig):
        raise ValueError(f"stepopsd keys: {method} declares no keys: its config is RLlib's own.")
    return config


def _summary(config: type[KeyedConfig]) -> str:
    """First line of the method's file, which says what it is."""
    return (sys.modules[config.__module__].__doc__ or config.__name__).splitlines()[0]


def _table(config: type[KeyedConfig]) -> str:
    """All keys in columns; the method's own come last, where the terminal shows them."""
    width = max(80, shutil.get_terminal_size().columns)
    keys = list(config.declared.values())
    left = max(len(item.argument) for item in keys) + 2
    middle = max(len(_written(item.default)) for item in keys) + 2
    indent = " " * (left + middle)
    lines = [f"{'key':<{left}}{'default':<{middle}}meaning, range"]
    for item in keys:
        head = f"{item.argument:<{left}}{_written(item.default):<{middle}}"
        lines += textwrap.wrap(
            item.description,
            width=width,
            initial_indent=head,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _one(config: type[KeyedConfig], item: Key) -> str:
    owner = next(
        base for base in config.__mro__ if item.name in vars(base).get("_declared_here", ())
    )
    rows = [
        ("key", item.argument),
        ("default", _written(item.default)),
        ("must be", item.check.requirement),
        ("meaning", item.meaning),
        ("symbol", item.symbol),
        ("paper", item.paper),
        ("type", item.type),
        ("set with", f"{config.__name__}().{item.section}({item.argument}=...)"),
        ("declared in", f"{owner.__module__}.{owner.__qualname__}"),
    ]
    return "\n".join(f"{name:<13}{value}" for name, value in rows if value)


def _markdown(keys: Iterable[Key]) -> str:
    rows = [
        (
            f"`{item.argument}`",
            f"`{_written(item.default)}`",
            item.check.requirement,
            item.symbol,
            item.meaning,
            item.paper,
        )
        for item in keys
    ]
    return _markdown_table(("Key", "Default", "Must be", "Symbol", "Meaning", "Paper"), rows)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped) + "\n"


def _rllib_page() -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in IGNORED.items():
        reasons.setdefault(reason, []).append(f"`{spelled(name)}`")
    return "\n".join(
        [
            "## RLlib's keys\n\nThese act as RLlib documents them:\n",
            *(
                f"- {what}: {', '.join(f'`{spelled(name)}`' for name in sorted(names))}"
                for what, names in HONOURED.items()
            ),
            "\nThese have no effect here, and a value other than RLlib's default is refused:\n",
            _markdown_table(
                ("Keys", "Why, and what to use instead"),
                [(", ".join(sorted(names)), reason) for reason, names in reasons.items()],
            ),
        ]
    )


def _written(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)
