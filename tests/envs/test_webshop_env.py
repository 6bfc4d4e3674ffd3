"""WebShop as the contract sees it: sessions, rewards, messages, and what a user can get wrong."""

from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stepopsd_envs import HistoryTurn, check_text_env
from stepopsd_envs.webshop.env import WebShopEnv
from stepopsd_envs.webshop.protocol import MAX_WINDOW_CHARACTERS


def make(**keys: Any) -> WebShopEnv:
    env = gym.make("stepopsd/WebShop-v0", **keys).unwrapped
    assert isinstance(env, WebShopEnv)
    return env


def started(**keys: Any) -> tuple[WebShopEnv, str, dict[str, Any]]:
    env = make(**{"think": "off", **keys})
    observation, info = env.reset(options={"task": env.tasks("train")[0]})
    return env, observation, info


def golden_actions(info: dict[str, Any]) -> list[str]:
    return [line.removeprefix("> ") for line in info["golden_rollout"].splitlines()]


def play(env: WebShopEnv, actions: list[str]) -> tuple[str, float, bool, bool, dict[str, Any]]:
    reply: Any = None
    for action in actions:
        reply = env.step(f"<action>{action}</action>")
    return reply


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"size": "small", "observation_mode": "text_rich", "show_reviews": True},
        {"instructions": False, "show_attributes": True},
    ],
)
def test_it_keeps_the_contract(keys: dict[str, Any]):
    check_text_env(make(**keys))


def test_gymnasium_finds_no_fault():
    check_env(make(), skip_render_check=True)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_the_golden_rollout_wins_and_pays_the_largest_return(scale: float):
    env, _, info = started(reward_scale=scale)
    _, reward, terminated, truncated, last = play(env, golden_actions(info))
    assert (terminated, truncated) == (True, False)
    assert last["won"] and last["task_score"] == 1.0
    assert reward == scale == WebShopEnv.largest_return({"reward_scale": scale})


def test_a_near_miss_has_a_score_but_no_reward_unless_the_score_is_paid():
    env, _, info = started()
    actions = golden_actions(info)
    incomplete = [*actions[:2], "click[buy now]"]  # no option chosen
    _, reward, terminated, _, last = play(env, incomplete)
    assert terminated and reward == 0.0 and not last["won"]
    assert 0.0 < last["task_score"] < 1.0
    assert last["score_parts"]["options"] == 0.0
    paying, _, _ = started(reward="score", reward_scale=2.0)
    assert play(paying, incomplete)[1] == pytest.approx(2.0 * last["task_score"])


def test_an_episode_without_a_purchase_is_cut_off_with_score_zero():
    env, _, _ = started(max_turns=3)
    replies = [env.step("<action>search[rug]</action>") for _ in range(3)]
    assert [reply[3] for reply in replies] == [False, False, True]
    assert not replies[-1][2] and replies[-1][4]["task_score"] == 0.0
    with pytest.raises(RuntimeError, match="Call reset first"):
        env.step("<action>search[rug]</action>")


@pytest.mark.parametrize(
    "action",
    ["click[no such button]", "click[buy now]", "click[search]", "search[]", "dance", ""],
)
def test_an_action_that_the_page_does_not_have_changes_nothing_and_counts_as_invalid(action: str):
    env, observation, _ = started()
    after, reward, terminated, truncated, info = env.step(f"<action>{action}</action>")
    assert (after, reward, terminated, truncated) == (observation, 0.0, False, False)
    assert not info["is_executed"] and not info["is_action_valid"]
    lenient, _, _ = started(validity="format")
    assert lenient.step(f"<action>{action}</action>")[4]["is_action_valid"]


@pytest.mark.parametrize("query", ["x" * 10_000, " ", "the of and", "日本", '"a" AND (b:c', "<r>"])
def test_any_query_is_a_search(query: str):
    env, _, _ = started()
    observation, _, _, _, info = env.step(f"<action>search[a{query}]</action>")
    assert info["is_executed"]
    assert "Page 1 (Total results: " in observation


@settings(max_examples=25, deadline=None)
@given(responses=st.lists(st.text(max_size=40), max_size=6))
def test_no_response_breaks_a_session(responses: list[str]):
    env, _, _ = started()
    for response in responses:
        _, _, terminated, truncated, _ = env.step(f"<action>click[{response}]</action>{response}")
        assert not terminated
        if truncated:
            break


def test_thinking_is_required_unless_switched_off():
    env, _, _ = started(think="required")
    assert not env.step("<action>search[rug]</action>")[4]["is_action_valid"]
    assert env.step("<think>ok</think><action>search[rug]</action>")[4]["is_action_valid"]
    reply = env.step("<think>好</think><action>search[rug]</action>")
    assert not reply[4]["is_action_valid"] and reply[4]["is_executed"]


def test_a_session_forgets_options_when_the_product_is_left():
    env, _, info = started()
    search, product, first, *_ = golden_actions(info)
    play(env, [search, product, first, "click[< prev]", product])
    *_, last = play(env, ["click[buy now]"])
    assert last["score_parts"]["options"] == 0.0


def test_rich_observations_mark_what_was_clicked():
    env, _, info = started(observation_mode="text_rich")
    search, product, first, *_ = golden_actions(info)
    value = first.removeprefix("click[").removesuffix("]")
    observation, *_ = play(env, [search, product])
    assert f"  [button] {value} [button_]" in observation
    observation, *_ = play(env, [first])
    assert observation.startswith(f"You have clicked {value}.\n")
    assert f"  [clicked button] {value} [clicked button_]" in observation


def test_messages_hold_task_actions_and_phrases_for_advice():
    env, observation, info = started(think="required")
    message = env.first_message(observation, info)
    assert f"Your task is to: {info['instruction']}." in message
    assert "'search[<your query>]'," in message
    assert all(phrase in message for phrase in (*env.task_phrases, *env.turn_phrases))
    bare, observation, info = started(instructions=False)
    assert bare.first_message(observation, info) == f"{info['instruction']}\nSearch"


def test_a_window_shows_the_last_turns_without_repeating_the_task():
    env, observation, info = started(think="required")
    after, _, _, _, later = env.step("<action>search[rug]</action>")
    history = [HistoryTurn(index=0, observation=observation, action="search[rug]")]
    message = env.window_message(history, after, later)
    assert "[Observation 1: ''Search'', Action 1: 'search[rug]']" in message
    assert message.count(info["instruction"]) == 1
    assert "This is step 2." in message


def test_a_window_that_grows_too_long_drops_its_history():
    env, _, _ = started(think="required")
    after, _, _, _, info = env.step("<action>search[rug]</action>")
    history = [HistoryTurn(index=0, observation="x" * MAX_WINDOW_CHARACTERS, action="a")]
    assert "Steps taken" not in env.window_message(history, after, info)


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("search red rug", "search[red rug]"),
        ("Click Buy Now", "click[buy now]"),
        ("search[red rug]", "search[red rug]"),
        ("red rug", "search[red rug]"),
        ("click rug", "click[rug]"),
        ("search", "click[search]"),
        ("search[]", "search[]"),
    ],
)
def test_a_person_may_type_plainly(line: str, action: str):
    env = make()
    env.reset(seed=0)
    info = env.step(env.response_of(line))[4]
    assert info["action"] == action


def test_a_person_may_type_the_beginning_of_a_name():
    env = make()
    env.reset(seed=0)
    env.step(env.response_of(env.goal.name))
    for line, action in (
        ("NEXT", "click[next >]"),
        ("prev", "click[< prev]"),
        ("< Prev", "click[< prev]"),
        ("b", "click[b]"),  # of several
        ("back", "click[back to search]"),
    ):
        assert env.step(env.response_of(line))[4]["action"] == action
    env.step(env.response_of(env.goal.name))
    env.step(env.response_of(env.goal.asin))
    assert env.step(env.response_of("buy"))[2]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"size": "huge"}, "size='huge' is none of 'tiny', 'small', 'full'"),
        ({"observation_mod": "text"}, "Did you mean 'observation_mode'"),
        ({"max_turns": 0}, "max_turns=0 must be a whole number above 0"),
        ({"goals": "human"}, "goals='human' with data='generated'"),
        ({"split_sizes": [1]}, r"split_sizes=\[1\] must be two whole numbers above 0"),
        ({"strict_options": "no"}, "strict_options='no' must be true or false"),
        ({"data": "no/such/folder"}, "neither 'generated' nor a folder with WebShop's files"),
        ({"goal_seed": -1}, "goal_seed=-1 must be a whole number, at least 0"),
        ({"nouns": "spacey"}, "Did you mean 'spacy'"),
    ],
)
def test_a_wrong_key_is_one_line(keys: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message) as error:
        make(**keys).tasks("train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", ["tiny-s00000-g9999999", "tiny-s09999-g0000000", "x", ""])
def test_an_unknown_task_names_a_known_one(task: str):
    with pytest.raises(ValueError, match="One is 'tiny-s00000-g"):
        make().reset(options={"task": task})
