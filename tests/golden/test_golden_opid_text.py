"""OPID's prompt insertion and reply parsing against the outputs of the published program."""

from __future__ import annotations

from stepopsd_rllib.teachers.analysis.analyzer_reply import parse_reply
from stepopsd_rllib.teachers.skill_insertion import episode_block, insert_skills, step_block
from tests.helpers.golden_vectors import GoldenCase, golden


@golden("opid_prompt_insertion")
def test_insertion(case: GoldenCase) -> None:
    episode_skill, step_skill = case.inputs["episode_skill"], case.inputs["step_skill"]
    prompt = insert_skills(
        case.inputs["observation"], episode_skill=episode_skill, step_skill=step_skill
    )
    if episode_skill.strip():
        prompt = prompt.replace(episode_block(episode_skill), "{EPISODE_BLOCK}")
    if step_skill.strip():
        prompt = prompt.replace(step_block(step_skill), "{STEP_BLOCK}")
    case.check(prompt, case.outputs["augmented"], "augmented")


@golden("opid_analyzer_parsing")
def test_parsing(case: GoldenCase) -> None:
    skills = parse_reply(case.inputs["analyzer_text"])
    assert (skills is not None) == case.outputs["ok"]
    if skills is not None:
        case.check(skills.episode_summary, case.outputs["episode_summary"], "episode_summary")
        case.check(skills.episode_skill, case.outputs["episode_skill"], "episode_skill")
        found = {str(turn): text for turn, text in skills.step_skills.items()}
        case.check(found, case.outputs["step_skills"], "step_skills")
