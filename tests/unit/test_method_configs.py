"""Configs of the methods: tuned examples, published settings, one clear line for a mistake."""

import dis
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.search_qa.env import SearchQAEnv

from stepopsd_rllib import ALGORITHMS
from stepopsd_rllib.commands import tuned
from stepopsd_rllib.reference import sdar_settings
from stepopsd_rllib.teachers.skill_retrieval import SkillChoice
from stepopsd_rllib.teachers.skills import environment_library
from tests.helpers.agents import SMALL

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "sdar",
    "opsd",
    "skill_sd",
    "skill_grpo",
    "rlsd",
    "agentopsd",
    "gigpo",
    "hgpo",
    "graphgpo",
    "g2po",
    "serl",
    "icsd",
    "seed",
    "opid",
    "grsd",
    "adrs",
    "ucob",
)
SETTINGS = {
    "": sdar_settings.SDAR,
    "_opsd_as_coded": sdar_settings.OPSD_AS_CODED,
    "_grpo_opsd_as_coded": sdar_settings.GRPO_OPSD_AS_CODED,
}


CROWDED = {"max_context_tokens": 2048, "max_response_tokens": 1100}
NO_WEIGHT = {"episode_skill_weight": 0.0, "step_skill_weight": 0.0}


def policy(**keys):
    return {"engine": "policy", **keys}


def config_of(example: str) -> Any:
    (config,) = tuned.configs(tuned.read(f"tuned_examples/{example}.yaml"))
    return config


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_tiny_example_is_valid(folder):
    files = sorted((ROOT / "tuned_examples" / folder).glob("*_tiny*.yaml"))
    assert files
    for file in files:
        assert tuned.configs(tuned.read(file))


@pytest.mark.parametrize("suffix", SETTINGS)
def test_the_published_settings_of_one_loss(suffix):
    config = config_of(f"sdar/alfworld_tiny{suffix}")
    expected = SETTINGS[suffix]
    assert config.policy_coeff == expected.policy_coefficient
    assert config.distillation_coeff == expected.distillation_coefficient
    assert (config.gate, config.gate_beta) == (expected.gate, expected.gate_beta)


def test_opsd_acts_alone_or_beside_grpo():
    alone = config_of("opsd/alfworld_tiny")
    assert (alone.policy_coeff, alone.distillation_coeff) == (0.0, 1.0)
    beside = config_of("opsd/alfworld_tiny_grpo")
    assert beside.policy_coeff == 1.0
    assert beside.distillation_coeff == sdar_settings.SDAR.distillation_coefficient


def test_the_comparison_on_search_qa_is_valid():
    from stepopsd_rllib.commands import comparison

    read = comparison.read("tuned_examples/compare/search_qa_tiny.yaml")
    assert {"GRPO", "OPSD", "OPSD as coded", "SDAR", "UCOB"} <= set(read.methods)


def test_the_comparison_over_six_methods_is_valid():
    from stepopsd_rllib.commands import comparison

    read = comparison.read("tuned_examples/compare/alfworld_tiny.yaml")
    assert set(read.methods) == {"GRPO", "StepOPSD", "SDAR", "OPID", "AgentOPSD", "GiGPO"}
    assert len(read.seeds) == 3


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("SDAR", {"alpha_clip": 0.2}, "not a key of SDARConfig. It belongs to StepOPSDConfig"),
        ("SDAR", {"gate": "gab"}, "config.gate='gab': must be one of gap"),
        ("SDAR", {"skills": "alfwrld"}, "Did you mean 'alfworld'"),
        ("SDAR", {"skill_max_tokens": 4096}, "the model has 2048 positions"),
        ("OPSD", {"divergence": "kl"}, "config.divergence='kl': must be 'forward_kl', "),
        ("OPSD", {"teacher_top_tokens": 0}, "a whole number of tokens, at least 1"),
        (
            "OPSD",
            {"skill_max_tokens": 512, "teacher_top_tokens": 4096},
            r"the model has \d+ tokens. Set \d+ for",
        ),
        ("OPSD", {"distillation_coeff": 0.0}, "no loss is left"),
        ("RLSD", {"weight_clip": 1.0}, "the sign of the advantage could flip"),
        ("OPID", {"analyzer": {}}, "without a model name"),
        ("OPID", {"analyzer": {"model": "m", "base_ur": "x"}}, "Did you mean 'base_url'"),
        ("OPID", {"skill_routing": "both"}, "'step_priority' or 'additive'"),
        ("OPID", {"analyzer": {"engine": "endpoint"}}, "without a model name"),
        ("OPID", {"analyzer": "polcy"}, "'policy', or a mapping.* Did you mean 'policy'"),
        ("OPID", {"analyzer": {"engine": "polcy"}}, "analyzer.engine='polcy'.* mean 'policy'"),
        ("OPID", {"analyzer": "polcy", **NO_WEIGHT}, "config.analyzer='polcy'"),
        ("OPID", {"analyzer": {"engin": "policy"}}, "Did you mean 'engine'"),
        ("OPID", {"analyzer": policy(base_url="x")}, "It belongs to engine 'endpoint'"),
        ("OPID", {"analyzer": policy(parse_attempt=2)}, "Did you mean 'parse_attempts'"),
        ("OPID", {"analyzer": policy(temperature=0.001)}, "must be 0 .greedy., or at least 0.01"),
        ("OPID", {"analyzer": policy(temperature="hot")}, "analyzer.temperature='hot': must be a"),
        ("OPID", {"analyzer": policy(max_context_tokens=4096)}, "the model has 2048 positions"),
        ("OPID", {"analyzer": policy(max_completion_tokens=2048)}, "leaves no room for a question"),
        ("GRSD", {"analyzer": policy(max_completion_tokens=0)}, "whole number of tokens"),
        ("GRSD", {"analyzer": {"engine": "rules", "max_step_skills": -1}}, "max_step_skills=-1"),
        ("GRSD", {"analyzer": "modl"}, "'rules', 'policy', or a mapping"),
        ("AgentOPSD", {"credit_level": "step"}, "'turn' or 'token'"),
        ("ADRS", {"first_update": 30, "last_update": 20}, "lies before first_update=30"),
        ("ADRS", {"usefulness": "L3"}, "'states', 'tasks', 'tokens' or 'none'"),
        ("HGPO", {"past_states": -1}, "config.past_states=-1: must be a whole number of states"),
        ("HGPO", {"level_weights": "cod"}, "'code' or 'paper'"),
        ("GraphGPO", {"distance_discount": 0}, r"must be a number in \(0, 1\]"),
        ("GraphGPO", {"step_groups": "text"}, "'state' or 'node'"),
        ("G2PO", {"largest_return": 0}, "must be a number above 0, or none"),
        ("SERL", {"teacher_context": "judge"}, "='judge': must be one of feedback"),
        ("SERL", {"feedback_max_tokens": 1600}, "the model has 2048 positions"),
        ("SERL", {"weight_clip": 1.0}, "the sign of the advantage could flip"),
        ("ICSD", {"gate_split": 1.0}, r"config.gate_split=1.0: must be a number in \(0, 1\)"),
        ("SEED", {"analyzer": "modl"}, "'rules', 'policy', or a mapping"),
        ("SEED", {"max_step_skills": 1}, "not a key of SEEDConfig. It belongs to"),
        ("RLSD", {"teacher_text": "shufled"}, "='shufled': must be one of own"),
        ("GiGPO", {"teacher_text": "own"}, "not a key of GiGPOConfig. It belongs to"),
        ("GiGPO", {"anchor_similarity": 2.0}, r"a number in \(0, 1\], or none"),
        ("UCOB", {"informed_share": 1.5}, r"config.informed_share=1.5: must be a number in \[0, 1"),
        ("UCOB", {"informed_share": 0.1}, "of group_size=3 rollouts 0 would have skills"),
        ("UCOB", {"informed_share": 0.9}, "3 would have skills, so there are no two branches"),
        ("UCOB", {"return_gap_scale": 0}, "config.return_gap_scale=0: must be a number above 0"),
        ("UCOB", {"teacher_top_tokens": 4096}, r"the model has \d+ tokens. Set \d+ for"),
        ("UCOB", {"max_context_tokens": 2048}, "Set max_context_tokens to 2036 or less"),
        ("UCOB", CROWDED, "Set max_response_tokens to less than 1024, and max_context"),
        ("UCOB", {"skills": "alfwrld"}, "Did you mean 'alfworld'"),
        ("UCOB", {"skill_max_tokens": 100}, "not a key of UCOBConfig. It belongs to"),
    ],
)
def test_a_mistake_is_one_line(name, keys, message):
    config = ALGORITHMS[name].get_default_config()
    with pytest.raises(ValueError) as refusal:
        config.update_from_dict({**SMALL, **keys})
        config.validate()
    assert re.search(message, str(refusal.value).splitlines()[0])


def test_a_skill_file_without_an_item_is_refused(tmp_path):
    (tmp_path / "general.md").write_text("# General\n")
    config = ALGORITHMS["SDAR"].get_default_config()
    config.update_from_dict({**SMALL, "skills": str(tmp_path)})
    with pytest.raises(ValueError, match="not a single skill in it"):
        config.validate()
    bank = tmp_path / "bank.json"
    bank.write_text(json.dumps({"general": []}))
    config.skills = str(bank)
    with pytest.raises(ValueError, match="not a single skill in it"):
        config.validate()


def test_an_unknown_task_type_is_refused():
    choice = SkillChoice(environment_library(ALFWorldEnv), retrieval="task", env=ALFWorldEnv)
    with pytest.raises(ValueError, match="no ALFWorld task type in it"):
        choice.text(task_id="t", task_type="juggle", first_observation="")


def test_retrievals_choose_as_they_say():
    library = environment_library(ALFWorldEnv, "alfworld_brief")

    def text(retrieval):
        choice = SkillChoice(library, retrieval=retrieval, env=ALFWorldEnv)
        return choice.text(
            task_id="t",
            task_type="pick_heat_then_place_in_recep",
            first_observation="Your task is to: cool some mug.",
        )

    assert "microwave" in text("task") and "fridge" not in text("task")
    assert "fridge" in text("keyword") and "microwave" not in text("keyword")
    assert text("random") == text("random")
    assert "fridge" in text("all") and "microwave" in text("all")


def test_a_source_that_no_skill_category_knows_is_named_once(caplog):
    choice = SkillChoice(environment_library(SearchQAEnv), retrieval="task", env=SearchQAEnv)
    for _ in range(2):
        text = choice.text(task_id="t", task_type="medqa", first_observation="Who was it?")
        assert text == choice.library.text()
    assert [message for message in caplog.messages if "'medqa'" in message] == [
        "SearchQAEnv: no skill category knows tasks of type 'medqa', so they get the general "
        "skills alone. Add it to SearchQAEnv.skill_categories, or set skill_retrieval='keyword'."
    ]


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_ray_can_tell_an_algorithm_from_others_of_its_name(name):
    """Ray disassembles an actor's class and every class in it; a circle of them has no end."""
    dis.dis(ALGORITHMS[name], file=io.StringIO(), depth=2)
