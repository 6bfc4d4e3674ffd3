"""The checker of the text contract: it plays an environment and names the first breach."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepopsd_envs.text_env import SPLITS, HistoryTurn, TextEnv
from stepopsd_envs.text_space import UnicodeText

_MAX_TURNS_CHECKED = 1000

_INFO_TYPES: dict[str, type] = {
    "task_id": str,
    "task_type": str,
    "won": bool,
    "is_action_valid": bool,
    "action": str,
}
_OPTIONAL_INFO_TYPES: dict[str, type] = {
    "tool_error": str,
    "anchor": str,
    "golden_rollout": str,
    "task_score": float,
}


class TextEnvContractError(AssertionError):
    """An environment breaks the text contract."""


def check_text_env(env: TextEnv, responses: Sequence[str] | None = None) -> None:
    """Plays `env` and raises `TextEnvContractError` where it breaks the contract.

    Run it beside `gymnasium.utils.env_checker.check_env`, which knows nothing of tasks,
    messages and info keys.

    Args:
        env: The environment, fresh.
        responses: Texts to play in turn, over and over until the episode ends; by default texts
            that no environment can execute.
    """
    _check_description(type(env))
    responses = responses or ("", "no tag at all", "<action>é\n中</action>", "<search>x</search>")
    seen: dict[str, str] = {}
    for split in SPLITS:
        tasks = env.tasks(split)
        _require(isinstance(tasks, tuple) and len(tasks) > 0, f"tasks({split!r}) is no full tuple")
        _require(list(tasks) == sorted(set(tasks)), f"tasks({split!r}) is unsorted or repeats")
        for task in tasks:
            _require(task not in seen, f"task {task!r} is in {split} and in {seen.get(task)}")
            seen[task] = split
        for task in (*tasks[:1], *tasks[-1:]):
            _require(
                _transcript(env, task, responses) == _transcript(env, task, responses),
                f"task {task!r} played twice with one seed gave two transcripts",
            )
    _require_refusal("an unknown split", env.tasks, "no_such_split")
    _require_refusal("an unknown task", env.reset, options={"task": "no such task"})
    _require_refusal("an unknown reset option", env.reset, options={"tusk": env.tasks("train")[0]})
    draws = [env.reset(seed=7)[1]["task_id"] for _ in range(2)]
    _require(draws[0] == draws[1], "reset(seed=7) drew two different tasks")
    _require(seen[draws[0]] == "train", "reset without a task drew one that is not in train")


def _check_description(env: type[TextEnv]) -> None:
    """What the class says of itself must be such that a method can use it."""
    for name in (
        "action_tags",
        "answer_tags",
        "action_calls",
        "contexts",
        "refusals",
        "exploring_commands",
        "moving_commands",
        "task_phrases",
        "turn_phrases",
    ):
        value = getattr(env, name)
        if name == "refusals" and value is None:
            continue
        _require(
            isinstance(value, tuple) and all(isinstance(text, str) and text for text in value),
            f"{name}={value!r} is no tuple of strings that say something",
        )
    for name, whole in (("answer_tags", "action_tags"), ("moving_commands", "exploring_commands")):
        more = set(getattr(env, name)) - set(getattr(env, whole))
        _require(not more, f"{name} names {sorted(more)}, which {whole} does not")
    policies = set(TextEnv.contexts)
    _require(
        set(env.contexts) <= policies and len(env.contexts) > 0,
        f"contexts={env.contexts!r} must name some of {sorted(policies)}",
    )
    for name, path in env.skill_libraries.items():
        is_library = (Path(path) / "general.md").is_file() or Path(path).suffix == ".json"
        _require(
            is_library and Path(path).exists(),
            f"skill_libraries[{name!r}]={str(path)!r} is no folder with a general.md, nor a JSON "
            "bank",
        )


def _transcript(env: TextEnv, task: str, responses: Sequence[str]) -> list[Any]:
    observation, info = env.reset(seed=3, options={"task": task})
    _check_info(info)
    _require(info["task_id"] == task, f"reset to {task!r} gave task_id {info['task_id']!r}")
    _require(info["action"] == "" and not info["won"], "reset gave an action or a win")
    _require_text("observation", observation)
    _require_text("first_message", env.first_message(observation, info))
    _require_text("response_of", env.response_of("x"))
    if env.says("skill_categories"):
        _check_categories(env, env.skill_categories(info["task_type"], observation))
    lines: list[Any] = [observation]
    history: list[HistoryTurn] = []
    for index in range(_MAX_TURNS_CHECKED):
        before = observation
        response = responses[index % len(responses)]
        turn = env.end_turn(response)
        _require_text("end_turn", turn)
        _require(response.startswith(turn), "end_turn gave a text that is no beginning")
        observation, reward, terminated, truncated, info = env.step(turn)
        _check_info(info)
        _require_text("observation", observation)
        _require(type(reward) is float, f"the reward is a {type(reward).__name__}, not a float")
        _require(
            type(terminated) is bool and type(truncated) is bool,
            "terminated and truncated must be bool",
        )
        _require(not (terminated and truncated), "a turn is both terminated and truncated")
        _require("tool_error" not in info or truncated, "a tool_error must be truncated")
        lines.append((observation, reward, terminated, truncated, dict(info)))
        if terminated or truncated:
            return lines
        history.append(HistoryTurn(index=index, observation=before, action=info["action"]))
        for shown in ([], history[-1:], history[-3:]):
            _require_text("window_message", env.window_message(shown, observation, info))
        _require_text("append_message", env.append_message(observation, info))
    raise TextEnvContractError(f"task {task!r} had no end after {_MAX_TURNS_CHECKED} turns")


def _check_categories(env: TextEnv, categories: Any) -> None:
    _require(isinstance(categories, tuple), f"skill_categories gave {categories!r}, not a tuple")
    for name, path in env.skill_libraries.items():
        if Path(path).is_dir():
            missing = [part for part in categories if not (Path(path) / f"{part}.md").is_file()]
            _require(not missing, f"skill library {name!r} lacks the categories {missing}")


def _check_info(info: Mapping[str, Any]) -> None:
    for key, kind in _INFO_TYPES.items():
        _require(key in info, f"info lacks {key!r}")
        _require(type(info[key]) is kind, f"info[{key!r}]={info[key]!r} is no {kind.__name__}")
    for key, kind in _OPTIONAL_INFO_TYPES.items():
        if key in info:
            _require(type(info[key]) is kind, f"info[{key!r}]={info[key]!r} is no {kind.__name__}")


def _require_text(what: str, value: Any) -> None:
    _require(UnicodeText().contains(value), f"{what} is a {type(value).__name__}, not a text")


def _require_refusal(what: str, function: Any, *args: Any, **kwargs: Any) -> None:
    try:
        function(*args, **kwargs)
    except ValueError:
        return
    raise TextEnvContractError(f"{what} is not refused with a ValueError")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise TextEnvContractError(otherwise)
