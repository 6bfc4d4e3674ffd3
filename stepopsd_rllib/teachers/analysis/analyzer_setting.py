"""The analyzer that a configuration names: rules, the policy itself, or a model at an endpoint."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, Literal

from stepopsd_envs.text_env import TextEnv

from stepopsd_rllib.teachers.analysis.analyzer import EpisodeAnalyzer
from stepopsd_rllib.teachers.analysis.endpoint_settings import EndpointSettings
from stepopsd_rllib.teachers.analysis.policy_analyzer import PolicyAnalyzer, PolicySettings
from stepopsd_rllib.teachers.analysis.rule_analyzer import RuleAnalyzer

AnalyzerSetting = Literal["rules", "policy"] | dict[str, Any]

ENGINE = "engine"
_KEYS = {
    "rules": ["max_step_skills"],
    "policy": [field.name for field in dataclasses.fields(PolicySettings)],
    "endpoint": [field.name for field in dataclasses.fields(EndpointSettings)],
}


def make_analyzer(
    setting: AnalyzerSetting, *, max_step_skills: int, env: type[TextEnv]
) -> EpisodeAnalyzer:
    """Makes an analyzer; nothing is asked yet.

    Args:
        setting: A mapping whose `engine` is "rules", "policy" (with keys of `PolicySettings`) or
            "endpoint" (the default; with keys of `EndpointSettings`, of which `model` is needed).
            The engine's name alone stands for a mapping without other keys.
        max_step_skills: Most step skills an episode, unless the setting says otherwise.
        env: Class of the environment, whose rules the engine "rules" takes.

    Raises:
        ValueError: An unknown engine, a key that it does not have, or a value that will not do.
    """
    engine, given = _engine_and_keys(setting)
    keys: dict[str, Any] = {"max_step_skills": max_step_skills} | given
    if engine == "rules":
        return RuleAnalyzer(env, **keys)
    if engine == "policy":
        return PolicyAnalyzer(PolicySettings(**keys))
    keys.setdefault("model", "")
    from stepopsd_rllib.teachers.analysis.endpoint_analyzer import EndpointAnalyzer

    return EndpointAnalyzer(EndpointSettings(**keys))


def _engine_and_keys(setting: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(setting, dict):
        _require_engine("config.analyzer", setting)
        return setting, {}
    keys = dict(setting)
    engine = keys.pop(ENGINE, "endpoint")
    _require_engine(f"config.analyzer.{ENGINE}", engine)
    for key in keys:
        if key not in _KEYS[engine]:
            owners = [other for other, known in _KEYS.items() if key in known]
            belongs = f" It belongs to engine {owners[0]!r}." if owners else ""
            raise ValueError(
                f"config.analyzer.{key} is not a key of engine {engine!r}."
                f"{belongs or _near(key, [ENGINE, *_KEYS[engine]])}"
            )
    return engine, keys


def _require_engine(key: str, value: Any) -> None:
    if not isinstance(value, str) or value not in _KEYS:
        raise ValueError(
            f"{key}={value!r}: must be 'rules', 'policy', or a mapping with an endpoint's model."
            f"{_near(value, _KEYS)}"
        )


def _near(word: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
