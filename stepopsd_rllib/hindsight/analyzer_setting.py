"""The analyzer that a configuration names: rules, or a model behind an endpoint."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, Literal

from stepopsd_rllib.hindsight.analyzer import EpisodeAnalyzer
from stepopsd_rllib.hindsight.endpoint_analyzer import EndpointAnalyzer, EndpointSettings
from stepopsd_rllib.hindsight.rule_analyzer import RuleAnalyzer

AnalyzerSetting = Literal["rules"] | dict[str, Any]


def make_analyzer(setting: AnalyzerSetting, *, max_step_skills: int) -> EpisodeAnalyzer:
    """Makes an analyzer; no request is sent yet.

    Args:
        setting: "rules", or keys of `EndpointSettings`, of which `model` is needed.
        max_step_skills: Most step skills an episode, unless the setting says otherwise.

    Raises:
        ValueError: An unknown key of an endpoint, or one without a model name.
    """
    if not isinstance(setting, dict):
        return RuleAnalyzer(max_step_skills=max_step_skills)
    known = [field.name for field in dataclasses.fields(EndpointSettings)]
    for key in setting:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"config.analyzer.{key} is not a key of an endpoint.{hint}")
    return EndpointAnalyzer(
        EndpointSettings(**{"model": "", "max_step_skills": max_step_skills} | setting)
    )
