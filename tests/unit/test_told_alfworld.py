"""What the ALFWorld model is told: are the texts those of the methods, and does it read them?"""

import random
import re

import pytest
import torch
from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.alfworld.expert import ExploringExpert, first_places
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.tiny.alfworld_demonstrations import (
    DemonstrationSettings,
    alfworld_demonstrations,
)
from stepopsd_rllib.tiny.batched_play import play
from stepopsd_rllib.tiny.demonstrations import DEMONSTRATIONS
from stepopsd_rllib.tiny.tiny import RECIPES, chat_row, package_folder
from stepopsd_rllib.tiny.told_alfworld import NOTHING, PER_TURN, TURN_LIMIT, WAYS, AlfworldTexts
from stepopsd_rllib.tiny.told_success import AlfworldTeacher

RECIPE = RECIPES["alfworld"]
TASK = "generated-v1/tiny/train/pick_cool_then_place_in_recep/000224"
IDLE = re.compile("look<|inventory|examine")


def make_env():
    return ALFWorldEnv(**{**RECIPE.environment_config, "max_turns": TURN_LIMIT})


@pytest.fixture
def texts():
    return AlfworldTexts(make_env(), random.Random(0), skills="alfworld_brief", dithering=0.4)


@pytest.fixture(scope="module")
def chat():
    return ChatFormat(AutoTokenizer.from_pretrained(package_folder("alfworld")))


def test_every_way_tells_something_of_the_task(texts):
    for way in WAYS:
        told = texts.told(way, TASK)
        assert told.way == way and told.is_own
        shown = told.text + " ".join(told.turn_texts)
        assert "pan" in shown or way in ("skills", "own_skills"), way
        assert ("cool" in shown) == (way != "episode_skill" or "Do these" in shown), way


def test_words_of_no_task_take_the_place_of_a_text_with_its_header(texts):
    for way in WAYS:
        told = texts.told(way, TASK)
        foreign = texts.foreign(told)
        assert foreign.text != told.text or way in PER_TURN
        assert "pan 1" not in foreign.text + "".join(foreign.turn_texts)
        assert not foreign.places
    assert texts.foreign(texts.told("skills", TASK)).text.startswith("Privileged information")
    feedback = texts.foreign(texts.told("feedback", TASK))
    assert all(text.endswith("Now solve the task above.") for text in feedback.turn_texts)


def test_an_expert_that_learns_where_objects_are_goes_there_first(texts):
    game = texts.game(TASK, won=True)
    places = first_places(game.observations())
    env = make_env()
    observation, info = env.reset(options={"task": TASK})
    expert = ExploringExpert(seed=5)
    expert.learn(places)
    where = places["pan 1"]
    assert expert.act(observation, info["admissible_commands"]) == f"go to {where}"


def shown(**settings):
    settings = DemonstrationSettings(episodes=80, noise=0.0, dithering=0.4, **settings)
    return alfworld_demonstrations(RECIPE.environment_config, settings, seed=0)


def test_told_episodes_imitate_no_wasted_turn_and_mistold_ones_as_many_as_all_others():
    def wasted(episodes, *, is_learned):
        turns = [turn for each in episodes for turn in each.turns]
        idle = [turn for turn in turns if IDLE.search(turn.response)]
        return sum(turn.is_learned == is_learned for turn in idle) / len(turns)

    ways = {"skills": 1e9}  # told from the first turn to the last
    untold, told = shown(), shown(informed=1.0, way_weights=ways)
    mistold = shown(informed=1.0, mistold=1.0, way_weights=ways)
    # what is no dithering: the expert looks at what it carries now and then
    assert wasted(told, is_learned=True) < 0.05 < 0.2 < wasted(told, is_learned=False)
    assert abs(wasted(mistold, is_learned=True) - wasted(untold, is_learned=True)) < 0.05
    assert wasted(untold, is_learned=True) > 0.3 and wasted(untold, is_learned=False) == 0


def test_what_is_told_is_read_and_never_learned(chat):
    told = shown(informed=1.0)
    assert any(each.privileged for each in told)
    assert any(turn.told for each in told for turn in each.turns)
    for each in told:
        row = chat_row(each, chat)
        learned = chat.text(row.token_ids[row.response_mask].tolist())
        assert learned == "".join(turn.response for turn in each.turns if turn.is_learned)
        assert "hindsight" not in learned.lower()


def test_a_way_of_greater_weight_is_told_more_often():
    always = shown(informed=1.0, way_weights={"skills": 1e9})
    assert all(each.privileged for each in always)
    assert not all(each.privileged for each in shown(informed=1.0))


def test_what_stands_before_responses_is_told_before_several():
    always = shown(informed=1.0, way_weights={"peer_in_turn": 1e9})
    told = [[turn.told for turn in each.turns if turn.told] for each in always]
    assert all(len(set(texts)) == 1 for texts in told if texts)
    assert max(len(texts) for texts in told) > 1 and all(len(texts) <= 5 for texts in told)


class Recorder:
    """Tells every turn another word, and keeps the messages that it was shown."""

    privileged = ""

    def __init__(self):
        self.turns = 0

    def first_message(self, message):
        return message

    def turn(self, message, observation, info):
        del observation, info
        self.turns += 1
        return f"{message} {self.turns}", f" before {self.turns} "


def test_what_a_turn_is_told_leaves_no_trace_in_the_turns_after_it(chat):
    """The likeliest play of a told context equals one that reads each prompt afresh."""
    model = AutoModelForCausalLM.from_pretrained(package_folder("alfworld"), dtype=torch.float32)
    envs = [make_env() for _ in range(3)]
    tasks = envs[0].tasks("valid_unseen")[:150:50]
    played = play(
        model,
        chat,
        envs,
        tasks,
        temperature=0,
        max_response_tokens=16,
        seed=0,
        teachers=[Recorder() for _ in tasks],
    )
    for episode, task in zip(played, tasks, strict=True):
        assert episode.transcript == _read_afresh(model, chat, task)


def _read_afresh(model, chat, task):
    env = make_env()
    observation, info = env.reset(seed=0, options={"task": task})
    transcript, history, count, is_over = [observation], [], 0, False
    message = env.first_message(observation, info)
    ended = True
    while not is_over:
        count += 1

        def encoded(text, count=count, ended=ended):
            if count == 1:
                return chat.first_prompt([{"role": "user", "content": text}])
            return chat.continuation(text, response_ended=ended)

        before = chat.tokenizer(f" before {count} ", add_special_tokens=False)["input_ids"]
        prompt = [*history, *encoded(f"{message} {count}"), *before]
        response = []
        with torch.no_grad():
            while len(response) < 16 and (not response or response[-1] not in chat.end_of_turn_ids):
                logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, -1]
                response.append(int(logits.argmax()))
        history += [*encoded(message), *response]
        ended = chat.closes_turn(response)
        text = chat.text(response)
        observation, _, terminated, truncated, info = env.step(text)
        transcript += [text, observation]
        message = env.append_message(observation, info)
        is_over = terminated or truncated
    return transcript


def test_feedback_is_what_the_environment_would_answer(texts):
    told = texts.told("feedback", TASK)
    teacher = AlfworldTeacher(told, TASK, make_env, seed=5)
    env = make_env()
    observation, info = env.reset(options={"task": TASK})
    expert = ExploringExpert(seed=5)
    for _ in range(4):
        message, before = teacher.turn("M", observation, info)
        command = expert.act(observation, info["admissible_commands"])
        observation, _, _, _, info = env.step(f"<action>{command}</action>")
        assert before == "" and observation in message


def test_nothing_is_told_where_there_is_nothing():
    assert NOTHING.privileged == "" and NOTHING.in_first_message("M") == "M"


def test_the_function_of_the_recipe_is_the_one_tested_here():
    assert DEMONSTRATIONS["alfworld"] is alfworld_demonstrations
