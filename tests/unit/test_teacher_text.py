"""Controls: a teacher that is told another task's text, an unrelated one, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib import ALGORITHMS
from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from stepopsd_rllib.connectors.hindsight import HINDSIGHT
from stepopsd_rllib.episodes import to_rllib
from stepopsd_rllib.teachers.text_control import UNRELATED, TextControl
from tests.helpers.agents import build_learner, weights_of
from tests.helpers.methods import ACTIVE, method_config, method_groups
from tests.helpers.pipelines import run_pipeline

TOLD = sorted(name for name, a in ALGORITHMS.items() if "teacher_text" in a.config_class.declared)
# With a live teacher that is told nothing the gap is 0; these methods then are GRPO. Distillation
# losses are not: at a gap of 0 SDAR's gate is 1/2, and OPSD has no other loss.
GRPO_UNTOLD: dict[str, dict[str, Any]] = {
    "StepOPSD": {"teacher": "live", "step_normalization": "none", "lambda_mix": 0.5},
    "RLSD": {"teacher": "live", "lambda_decay_steps": 2},
    "AgentOPSD": {},
    "GRSD": {},
    "OPID": {},
    "SERL": {"teacher": "live"},
    "SEED": {},
}


def words(text: str) -> list[str]:
    return text.split()


def told(kind: str, texts: list[str], tasks: list[int], seed: int = 0) -> list[str]:
    control = TextControl(kind=kind, encode=words)  # type: ignore[arg-type]
    return control.replaced(texts, tasks, seed=seed)


batches = st.lists(
    st.tuples(st.sampled_from(["", "a", "b c", "d e f"]), st.integers(0, 2)), max_size=8
)


@given(batches, st.integers(0, 3))
def test_the_texts_of_other_tasks_take_the_place_of_the_own(pairs, seed):
    texts, tasks = [text for text, _ in pairs], [task for _, task in pairs]
    assert told("own", texts, tasks) == texts
    assert told("empty", texts, tasks) == [""] * len(texts)
    shuffled = told("shuffled", texts, tasks, seed)
    assert shuffled == told("shuffled", texts, tasks, seed)
    for own, task, new in zip(texts, tasks, shuffled, strict=True):
        others = {t for t, other in pairs if other != task and t and t != own}
        assert new in others if own and others else new == ""


def test_another_seed_draws_others():
    texts, tasks = [f"text {i}" for i in range(20)], list(range(20))
    assert told("shuffled", texts, tasks, 1) != told("shuffled", texts, tasks, 2)


@given(st.integers(0, 300))
def test_an_unrelated_text_is_as_long(size):
    (new,) = told("foreign", [" ".join(["skill"] * size)], [0])
    assert len(words(new)) == size
    assert (new + " ").startswith(UNRELATED[: len(new)][:50].split(" ")[0] if size else " ")


@pytest.fixture(scope="module")
def groups():
    return method_groups("append")


def trained(name: str, keys: dict[str, Any], groups):
    config = method_config(name, keys, "append")
    config.max_sampler_difference = None
    learner = build_learner(config)
    episodes = [to_rllib(episode) for group in groups for episode in group]
    metrics = learner.update(episodes=episodes, timesteps={})[DEFAULT_MODULE_ID]
    return weights_of(learner), metrics


def test_every_teacher_that_is_told_a_text_has_the_key():
    assert set(TOLD) == set(ALGORITHMS) - {
        *("GRPO", "SkillGRPO", "GiGPO", "HGPO", "GraphGPO", "G2PO"),
        "UCOB",  # its teacher reads what other rollouts read
    }


@pytest.mark.parametrize("name", sorted(GRPO_UNTOLD))
def test_a_live_teacher_that_is_told_nothing_is_grpo_bit_for_bit(name, groups):
    grpo, _ = trained("GRPO", {}, groups)
    keys = {**ACTIVE[name], **GRPO_UNTOLD[name]}
    untold, metrics = trained(name, {**keys, "teacher_text": "empty"}, groups)
    assert all(torch.equal(untold[key], value) for key, value in grpo.items())
    own, _ = trained(name, keys, groups)
    assert not all(torch.equal(own[key], value) for key, value in grpo.items()), "it does matter"
    assert float(metrics["teacher_text_replaced_share"].peek()) == 0


def told_by(name: str, kind: str) -> list[Any]:
    """What the teacher is told of each episode, as ids or texts."""
    keys = {**ACTIVE[name], "teacher_text": kind}
    keys |= {"skill_retrieval": "random"} if "skills" in keys else {}
    pipeline = run_pipeline(method_config(name, keys, "append"), method_groups("append"))
    if HINDSIGHT in pipeline.shared:
        return [hindsight.ids for hindsight in pipeline.shared[HINDSIGHT]]
    return [
        () if skills is None else (skills.episode_skill, *skills.step_skills.values())
        for skills in pipeline.shared[EPISODE_SKILLS]
    ]


@pytest.mark.parametrize("name", TOLD)
def test_a_control_changes_what_every_teacher_is_told(name):
    own, shuffled, foreign, empty = (
        told_by(name, kind) for kind in ("own", "shuffled", "foreign", "empty")
    )
    assert any(own) and not any(empty)
    assert foreign != own and any(foreign)
    assert shuffled != own
    assert [bool(text) for text in foreign] == [bool(text) for text in own]
