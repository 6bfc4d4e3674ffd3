"""Skill prompts scored on shared history equal the same prompts written out and scored alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from stepopsd_rllib.connectors.skill_log_probs import SkillLogProbs
from stepopsd_rllib.connectors.token_batch import TokenBatch
from stepopsd_rllib.episodes import to_rllib
from stepopsd_rllib.objectives.opid import route_skills
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeSkills
from stepopsd_rllib.teachers.skill_insertion import insert_skills
from tests.helpers.agents import build_learner, random_episode, small_config
from tests.helpers.dense import dense

EPISODE_SKILL, STEP_SKILL = "Open the fridge first.", "Go to the fridge now."
SKILLS = EpisodeSkills(
    episode_summary="", episode_skill=EPISODE_SKILL, step_skills={0: STEP_SKILL, 2: STEP_SKILL}
)


@pytest.mark.parametrize("context", ["append", "window"])
@pytest.mark.parametrize("routing", ["step_priority", "additive"])
def test_shared_history_scores_as_prompts_written_out(context, routing):
    config = small_config(context=context)
    chat = config.chat_format()
    first = chat.first_prompt([{"role": "user", "content": "Your task is to: put it.\nGo."}])
    later = (
        first
        if context == "window"
        else small_config().chat_format().continuation("You see it.", response_ended=False)
    )
    recorded = random_episode(
        np.random.default_rng(0), group=0, rollout=0, turns=3, context=context
    )
    turns = [
        replace(turn, prompt_ids=np.asarray(later if k else first, dtype=np.int32))
        for k, turn in enumerate(recorded.turns)
    ]
    episode = replace(recorded, turns=tuple(turns))
    learner = build_learner(config)
    shared: dict = {}
    batch = TokenBatch()(rl_module=None, batch={}, episodes=[to_rllib(episode)], shared_data=shared)
    shared[EPISODE_SKILLS] = [SKILLS]
    piece = SkillLogProbs(
        route=lambda skill: route_skills(
            skill, episode_weight=1.0, step_weight=1.0, routing=routing
        ),
        chat=chat,
        insert=insert_skills,
        max_tokens=4096,
    )
    written = piece(rl_module=learner.module, batch=batch, shared_data=shared)
    columns = dense(written[DEFAULT_MODULE_ID])

    def alone(k: int, **skill: str) -> torch.Tensor:
        """Log-probs of turn k's response behind its own prompt, all text before it included."""
        prompts = [turn.prompt_ids.tolist() for turn in turns]
        at = 0 if context == "append" and "episode_skill" in skill else k
        prompts[at] = chat.with_changed_message(prompts[at], lambda m: insert_skills(m, **skill))
        ids = list(prompts[k])
        if context == "append":
            ids = [i for j in range(k) for i in [*prompts[j], *turns[j].response_ids]] + ids
        size = len(turns[k].response_ids)
        ids_BT = torch.tensor([[*ids, *turns[k].response_ids]])
        mask_BT = torch.arange(ids_BT.shape[1])[None] >= len(ids)
        module = learner.language_module
        with torch.no_grad():
            scores_BT, _ = module.score(module.language_model, ids_BT, mask_BT)
        return scores_BT[0, -size:]

    for k in range(3):
        here_BT = columns["turn_index"] == k
        has_step = k in SKILLS.step_skills
        has_episode = routing == "additive" or not has_step
        plain = columns["plain_log_probs"][here_BT]
        torch.testing.assert_close(plain, alone(k), atol=1e-4, rtol=1e-4)
        for kind, is_due, skill in (
            ("step", has_step, {"step_skill": STEP_SKILL}),
            ("episode", has_episode, {"episode_skill": EPISODE_SKILL}),
        ):
            assert bool(columns[f"has_{kind}_skill"][here_BT].all()) == is_due
            if is_due:
                found = columns[f"{kind}_skill_log_probs"][here_BT]
                torch.testing.assert_close(found, alone(k, **skill), atol=1e-4, rtol=1e-4)


def test_a_prompt_without_a_change_keeps_its_ids():
    chat = small_config().chat_format()
    prompt = chat.first_prompt([{"role": "user", "content": "You see a fridge 1."}])
    later = chat.continuation("The fridge 1 is closed.", response_ended=False)
    for ids in (prompt, later):
        assert chat.with_changed_message(ids, lambda message: message) == ids
    with pytest.raises(ValueError, match="does not end with its chat template's user message"):
        chat.with_changed_message(prompt[:-3], lambda message: message)
