"""Teachers told a text in each turn's prompt: SERL and SEED; and ICSD's gate beside SDAR's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from stepopsd_envs.alfworld.env import ALFWorldEnv

from stepopsd_rllib import ALGORITHMS
from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from stepopsd_rllib.episodes.action_spans import action_spans
from stepopsd_rllib.teachers.feedback import (
    CLOSING,
    SOURCES,
    needs_anchor,
    turn_texts,
    with_told_text,
)
from stepopsd_rllib.teachers.skill_insertion import insert_skills
from tests.helpers.agents import SMALL, build_learner, update
from tests.helpers.houses import BARE
from tests.helpers.methods import method_config, method_groups
from tests.helpers.pipelines import (
    SKILLS,
    Pipeline,
    config_of,
    recorded_groups,
    run_pipeline,
    with_prompts,
    with_responses,
)

LONG = "You see a mug 1. " * 60
CONTEXTS = pytest.mark.parametrize("context", ["append", "window"])
PIECES = {
    0: ("I open it. ", "<action>", "open fridge 1", "</action>"),
    1: ("", "<action>", "go to desk 1", "</action> Done."),
    2: ("No action.", "", "", ""),
}


def acting_groups(config, context: str):
    """Recorded episodes with prompts of the chat template, and actions in tags."""
    chat = config.chat_format()
    groups = with_prompts(recorded_groups(context), chat)
    return with_responses(groups, chat.tokenizer.encode, PIECES)


@torch.no_grad()
def told_log_probs(
    pipeline: Pipeline, model, n: int, k: int, change, *, at: int | None = None
) -> list[float]:
    """Log-probs of a turn's response with a changed message of turn `at`, in one plain pass."""
    episode, chat = pipeline.episodes[n], pipeline.config.chat_format()
    prompts = [turn.prompt_ids.tolist() for turn in episode.turns]
    at = k if at is None or episode.context == "window" else at
    prompts[at] = chat.with_changed_message(prompts[at], change)
    ids: list[int] = []
    if episode.context == "append":
        ids = [i for j in range(k) for i in [*prompts[j], *episode.turns[j].response_ids.tolist()]]
    ids += prompts[k]
    response = episode.turns[k].response_ids.tolist()
    logits_TV = model(input_ids=torch.tensor([[*ids, *response]])).logits[0]
    log_probs_TV = (logits_TV / pipeline.config.temperature).log_softmax(-1)
    return [float(log_probs_TV[len(ids) - 1 + i, t]) for i, t in enumerate(response)]


@CONTEXTS
def test_serl_spelt_out(context):
    """The snapshot, told the answer to the action, weights the action's tokens alone."""
    config = config_of(
        "SERL", context=context, lambda_mix=0.8, lambda_decay_steps=20, weight_clip=0.3
    )
    pipeline = run_pipeline(config, acting_groups(config, context))
    advantages, mix = pipeline.group_advantages(), 0.8 * (1 - 4 / 20)  # 4 updates are done
    teacher = pipeline.learner.language_module.teacher
    policy = pipeline.learner.language_module.language_model
    encode = config.chat_format().tokenizer.encode
    num_weighted = 0
    for n, k in pipeline.turns():
        a, episode = advantages[n, k], pipeline.episodes[n]
        sizes = [len(encode(piece)) if piece else 0 for piece in PIECES[k % 3]]
        expected = [a] * sum(sizes)
        answers = [turn.observation for turn in episode.turns[1:]] + [episode.final_observation]
        told = f"What the environment answered:\n{answers[k]}\n\n{CLOSING}"
        if sizes[2] and a:
            scored = told_log_probs(pipeline, teacher, n, k, lambda m, told=told: f"{m}\n\n{told}")
            plain = pipeline.log_probs(policy, n, k)
            for i in range(sizes[0] + sizes[1], sizes[0] + sizes[1] + sizes[2]):
                weight = math.exp(math.copysign(1, a) * (scored[i] - plain[i]))
                weight = min(max(weight, 0.7), 1.3)
                expected[i] = a * (1 - mix + mix * weight)
                num_weighted += 1
        found = pipeline.tokens("advantages", n, k)
        assert found == pytest.approx(expected, abs=2e-5, rel=1e-4), (n, k)
    assert num_weighted > 10
    plain = pipeline.columns["group_advantages"]
    assert torch.equal(pipeline.columns["advantages"].sign(), plain.sign())


@CONTEXTS
def test_seed_scores_behind_the_episodes_skill(context):
    config = config_of("SEED", context=context, analyzer="rules")
    pipeline = run_pipeline(config, acting_groups(config, context))
    policy = pipeline.learner.language_module.language_model
    for n, k in pipeline.turns():
        skills = pipeline.shared[EPISODE_SKILLS][n]
        assert not skills.step_skills
        expected = told_log_probs(
            pipeline,
            policy,
            n,
            k,
            lambda m, skills=skills: insert_skills(m, episode_skill=skills.episode_skill),
            at=0,
        )
        assert pipeline.tokens("teacher_log_probs", n, k) == pytest.approx(expected, abs=2e-5)
    assert torch.equal(pipeline.columns["is_scored"], pipeline.columns["response_mask"])
    assert "log_prob_gap" not in pipeline.columns, "no student pass"


@CONTEXTS
def test_icsd_moves_the_gate_of_sdar_and_keeps_its_sum(context):
    groups = method_groups(context)
    found = {}
    for name in ("SDAR", "ICSD"):
        keys = {"skills": "alfworld_brief", "skill_max_tokens": 512, "distillation_coeff": 1.0}
        config = method_config(name, keys, context)
        config.max_sampler_difference = None
        found[name] = update(build_learner(config), groups)
    sdar, icsd = found["SDAR"], found["ICSD"]
    assert icsd["gate_mean"] == pytest.approx(sdar["gate_mean"], rel=1e-5)
    assert icsd["distillation_loss"] != pytest.approx(sdar["distillation_loss"], rel=1e-3)
    assert 0 <= icsd["conflicting_gate_share"] <= 1


@CONTEXTS
def test_icsd_stands_on_gigpo_where_it_is_asked_to(context):
    keys = {"context": context, "step_weight": 0.7, "step_discount": 0.9}
    groups = recorded_groups(context)
    gigpo = run_pipeline(config_of("GiGPO", **keys, normalize_advantages=True), groups)
    icsd = run_pipeline(config_of("ICSD", **keys, **SKILLS), groups)
    assert torch.equal(gigpo.columns["advantages"], icsd.columns["advantages"])
    assert icsd.columns["is_scored"].any()


def test_the_cut_takes_the_told_text_and_never_what_opens_the_response():
    config = config_of("SERL", context="window", feedback_max_tokens=64)
    groups = [
        [
            replace(
                episode,
                turns=tuple(
                    replace(t, observation="You see a mug 1. " * 60) for t in episode.turns
                ),
            )
            for episode in group
        ]
        for group in acting_groups(config, "window")
    ]
    pipeline = run_pipeline(config, groups)
    chat = config.chat_format()
    opening = chat.first_prompt([{"role": "user", "content": ""}])[-3:]
    was_cut = False
    for n, episode in enumerate(pipeline.episodes):
        for k, text in pipeline.shared[EPISODE_SKILLS][n].step_skills.items():
            assert text.endswith(f"\n\n{CLOSING}")
            assert len(chat.tokenizer.encode(text)) <= 64 + 2
            was_cut |= text.count("mug") > 1
            prompt = chat.with_changed_message(
                episode.turns[k].prompt_ids.tolist(),
                lambda m, text=text: with_told_text(m, step_skill=text),
            )
            assert prompt[-3:] == opening
    assert was_cut


@pytest.mark.parametrize("source", [s for s in SOURCES if not needs_anchor(s)])
def test_a_context_is_there_only_with_all_of_its_parts(source):
    (won, lost, _), (alone, other), _ = recorded_groups("window")
    won, lost = replace(won, won=True), replace(lost, won=False)
    alone = replace(alone, won=False, group=7)
    episodes = [won, lost, alone, replace(other, won=False, group=8)]
    texts = turn_texts(episodes, source, message_of=lambda turn: f"asked: {turn.observation}")
    for n, episode in enumerate(episodes):
        has_peer = n == 1  # a success is no reference of its own
        for k, text in enumerate(texts[n]):
            is_last = k + 1 == len(episode.turns)
            has = {
                "feedback": True,
                "next_observation": not is_last,
                "future": not is_last,
                "success": has_peer,
            }
            options = [option.split("_and_") for option in source.split("_or_")]
            used = next((names for names in options if all(map(has.get, names))), [])
            assert bool(text) == bool(used), (n, k)
            assert ("another attempt" in text) == ("success" in used)
            assert ("environment answered" in text) == ("feedback" in used)
            assert ("asked: " in text) == ("next_observation" in used)
            assert ("done afterwards" in text) == ("future" in used)


def visits():
    """Two episodes of a group that meet in one state, one of another group that sees it too."""
    (one, two, _), (other, _), _ = recorded_groups("window")

    def played(episode, won: bool, *steps: tuple[str, str, str], **changes):
        turns = [
            replace(turn, anchor=anchor, action=action, observation=seen, reward=0.0)
            for turn, (anchor, action, seen) in zip(episode.turns, steps, strict=False)
        ]
        turns[-1] = replace(turns[-1], reward=float(won))
        return replace(
            episode, turns=tuple(turns), won=won, final_observation="The end.", **changes
        )

    hall, desk = ("hall", "Go  to Desk 1", "A hall."), ("desk", "take mug 1", "A\ndesk.")
    return [
        played(one, True, hall, desk, group=0),
        played(two, False, ("hall", "open safe 1", "A hall."), ("hall", "go to desk 1", "Locked.")),
        played(other, False, hall, desk, group=1),
    ]


def test_a_state_tells_each_action_and_each_answer_to_it_once():
    first, second, other = visits()
    second = replace(second, group=0)
    told = turn_texts([first, second, other], "anchor_feedback", message_of=lambda turn: "")
    hall = (
        "What all attempts at this task tried in this very state:\n"
        "- go to desk 1: A desk.\n"
        "- go to desk 1: The end.\n"
        "- open safe 1: Locked."
    )
    assert told[0][0] == told[1][0] == told[1][1] == hall
    assert told[0][1].splitlines()[1:] == ["- take mug 1: The end."]
    assert told[2][0].splitlines()[1:] == ["- go to desk 1: A desk."]


@pytest.mark.parametrize(
    ("source", "best", "safe"),
    [
        ("anchor_future", "> take mug 1", "> go to desk 1"),
        ("anchor_next_observation", "A desk.", "Locked."),
    ],
)
def test_a_state_tells_how_each_action_fared(source, best, safe):
    first, second, _ = visits()
    second = replace(second, group=0)
    (text, _), _ = turn_texts([first, second], source, message_of=lambda turn: turn.observation)
    assert text.splitlines()[1:] == [
        "- go to desk 1: tried 2 times, 1 won, mean return 0.50",
        f"  best (won, return 1): {best}",
        "  worst (lost, return 0)",
        "- open safe 1: tried 1 times, 0 won, mean return 0.00",
        f"  best (lost, return 0): {safe}",
    ]


def test_a_turn_whose_state_has_no_name_is_told_nothing():
    first = replace(visits()[0], turns=(replace(visits()[0].turns[0], anchor=""),))
    assert turn_texts([first], "anchor_future", message_of=lambda turn: "") == [[""]]


def test_serl_refuses_states_without_names_where_its_context_needs_them():
    config = config_of("SERL", context="append", teacher_context="anchor_future")
    with pytest.raises(ValueError, match="SERL compares turns taken from one state"):
        config.check_first_task({})
    off = config_of("SERL", context="append", teacher_context="anchor_future", lambda_mix=0.0)
    off.check_first_task({})


def test_actions_stand_in_the_environments_own_tags():
    text = "I look. <search>who wrote it</search>"
    assert action_spans(text) == []
    (span,) = action_spans(text, ("search", "answer"))
    assert text[slice(*span)] == "who wrote it"
    opened = "<answer>Lisbon"
    assert [opened[a:b] for a, b in action_spans(opened, ("search", "answer"))] == ["Lisbon"]


def test_an_environment_without_action_tags_is_refused():
    class Free(ALFWorldEnv):
        """Houses in which any text acts."""

        action_tags = ()

    config = ALGORITHMS["SERL"].get_default_config()
    config.environment(Free, env_config=BARE)
    config.update_from_dict(SMALL)
    with pytest.raises(ValueError, match=r"^config.env: .* Free names no action_tags .* use RLSD"):
        config.validate()
    config.lambda_mix = 0.0
    config.validate()
