"""Episodes of the embedded model in generated houses: what is recorded, and what breaks whom."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from stepopsd_envs.text_env import HistoryTurn

from stepopsd_rllib.environments import make_text_env
from stepopsd_rllib.episodes import AgentEpisode, Status
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest, RolloutSettings, TurnLoop
from stepopsd_rllib.sampling.sampler import Sampler
from tests.helpers.agents import small_config
from tests.helpers.houses import BARE, SLOW_SECONDS, FaultyHouse, OneThreadHouse

SETTINGS = {
    "context": "append",
    "window_turns": 2,
    "max_response_tokens": 12,
    "max_context_tokens": 512,
    "temperature": 1.0,
    "top_p": 1.0,
}


@pytest.fixture(scope="module")
def sampler() -> Iterator[Sampler]:
    sampler = small_config().make_sampler()
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return small_config().chat_format()


@pytest.fixture(scope="module")
def tasks() -> tuple[str, ...]:
    return make_text_env("stepopsd/ALFWorld-v0", BARE).tasks("train")


@pytest.fixture
def play(sampler, chat):
    loops = []

    def run(
        requests: list[EpisodeRequest],
        *,
        house: type[FaultyHouse] = FaultyHouse,
        faults: dict[str, str] | None = None,
        max_concurrent: int = 8,
        max_turns: int = 4,
        **settings,
    ) -> list[AgentEpisode]:
        loop = TurnLoop(
            make_env=lambda: house(faults=faults, max_turns=max_turns, **BARE),
            sampler=sampler,
            chat=chat,
            max_concurrent=max_concurrent,
        )
        loops.append(loop)
        return list(loop.run(requests, RolloutSettings(**(SETTINGS | settings))))

    yield run
    for loop in loops:
        loop.close()


def requests_for(tasks, count: int, *, rollouts: int = 2) -> list[EpisodeRequest]:
    return [
        EpisodeRequest(task_id=tasks[group], group=group, rollout=i, seed=100 * group + i)
        for group in range(count)
        for i in range(rollouts)
    ]


def by_place(episodes: list[AgentEpisode]) -> dict[tuple[int, int], AgentEpisode]:
    return {(episode.group, episode.rollout): episode for episode in episodes}


def texts(episode: AgentEpisode) -> list[tuple]:
    return [
        (turn.prompt_ids.tolist(), turn.response_ids.tolist(), turn.observation, turn.reward)
        for turn in episode.turns
    ]


@pytest.mark.parametrize("context", ["append", "window"])
def test_an_episode_does_not_depend_on_what_runs_beside_it(play, tasks, context):
    requests = requests_for(tasks, 4)
    together = by_place(play(requests, context=context))
    alone = by_place(play(requests[::-1], context=context, max_concurrent=1))
    assert together.keys() == alone.keys() and len(together) == len(requests)
    for place, episode in together.items():
        assert texts(episode) == texts(alone[place])
        for one, other in zip(episode.turns, alone[place].turns, strict=True):
            difference = one.behaviour_log_probs - other.behaviour_log_probs
            assert np.abs(difference).max() < 1e-4
    first, second = together[0, 0], together[0, 1]
    assert texts(first) != texts(second), "rollouts of a group must differ by their seeds"


@pytest.mark.parametrize("context", ["append", "window"])
def test_a_preamble_is_for_the_requests_that_get_one(play, tasks, chat, context):
    def preamble(request: EpisodeRequest, info, observation: str) -> str:
        assert request.task_id == info["task_id"] and observation
        return "Look first.\n\n" if request.rollout == 0 else ""

    requests = requests_for(tasks, 2)
    plain = by_place(play(requests, context=context))
    for (group, rollout), episode in by_place(
        play(requests, context=context, preamble=preamble)
    ).items():
        if rollout:
            assert episode.preamble == ""
            assert texts(episode) == texts(plain[group, rollout])
            continue
        assert episode.preamble == "Look first.\n\n"
        for k, turn in enumerate(episode.turns):
            shown = chat.tokenizer.decode(turn.prompt_ids.tolist())
            assert ("Look first." in shown) == (k == 0 or context == "window")


def test_a_growing_chat_is_what_the_template_renders(play, tasks, chat):
    for episode in play(requests_for(tasks, 3)):
        assert len(episode.turns) == 4
        env = FaultyHouse(max_turns=4, **BARE)
        observation, info = env.reset(seed=episode.group, options={"task": episode.task_id})
        messages = [{"role": "user", "content": env.first_message(observation, info)}]
        ids: list[int] = []
        for turn in episode.turns:
            assert turn.observation == observation
            ids += turn.prompt_ids.tolist()
            rendered = chat.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            assert chat.tokenizer.decode(ids) == rendered
            assert len(turn.behaviour_log_probs) == len(turn.response_ids)
            ids += turn.response_ids.tolist()
            observation, reward, *_, info = env.step(turn.response)
            assert (turn.reward, turn.action) == (reward, info["action"])
            messages += [
                {"role": "assistant", "content": turn.response},
                {"role": "user", "content": env.append_message(observation, info)},
            ]
        assert episode.final_observation == observation


def test_a_response_that_was_cut_is_closed_by_tokens_that_are_not_trained(play, tasks, chat):
    end = chat.end_of_turn_ids[0]
    (episode,) = play(requests_for(tasks, 1, rollouts=1), max_response_tokens=2)
    for turn, following in zip(episode.turns, episode.turns[1:], strict=False):
        assert turn.finish_reason == "length" and end not in turn.response_ids
        assert following.prompt_ids[0] == end


@pytest.mark.parametrize("window_turns", [0, 1, 2])
def test_a_window_prompt_shows_the_last_turns(play, tasks, chat, window_turns):
    (episode,) = play(
        requests_for(tasks, 1, rollouts=1), context="window", window_turns=window_turns
    )
    env = FaultyHouse(max_turns=4, **BARE)
    observation, info = env.reset(seed=0, options={"task": tasks[0]})
    for k, turn in enumerate(episode.turns):
        prompt = chat.tokenizer.decode(turn.prompt_ids)
        seen = [past for past in range(k) if f"{episode.turns[past].action}" in prompt]
        assert set(seen) >= set(range(max(0, k - window_turns), k))
        message = env.first_message(observation, info)
        if k:
            history = [
                HistoryTurn(index=i, observation=past.observation, action=past.action)
                for i, past in enumerate(episode.turns[:k])
            ]
            shown = history[k - window_turns :] if k > window_turns else history
            shown = shown if window_turns else []
            message = env.window_message(shown, observation, info)
        assert turn.prompt_ids.tolist() == chat.first_prompt([{"role": "user", "content": message}])
        observation, *_, info = env.step(turn.response)


def test_a_prompt_beyond_the_budget_ends_the_episode_with_its_status(play, tasks):
    (whole,) = play(requests_for(tasks, 1, rollouts=1))
    first = len(whole.turns[0].prompt_ids)
    (no_turn,) = play(requests_for(tasks, 1, rollouts=1), max_context_tokens=first)
    assert no_turn.status is Status.ENVIRONMENT_ERROR and no_turn.turns == ()
    assert "leaves no room to answer" in no_turn.error
    (one_turn,) = play(requests_for(tasks, 1, rollouts=1), max_context_tokens=first + 16)
    assert one_turn.status is Status.CONTEXT_LIMIT and len(one_turn.turns) >= 1
    used = sum(len(t.prompt_ids) + len(t.response_ids) for t in one_turn.turns)
    assert used <= first + 16
    (short,) = play(requests_for(tasks, 1, rollouts=1), max_context_tokens=first + 1)
    assert len(short.turns[0].response_ids) == 1, "a response never exceeds the context"


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        ("reset", Status.ENVIRONMENT_ERROR, "OSError: the game file is gone"),
        ("step", Status.ENVIRONMENT_ERROR, "RuntimeError: the simulator died"),
        ("tool", Status.TOOL_ERROR, "the retriever did not answer"),
    ],
)
def test_a_broken_environment_costs_its_own_episodes_only(play, tasks, fault, status, error):
    requests = requests_for(tasks, 3)
    sound = by_place(play(requests))
    mixed = by_place(play(requests, faults={tasks[1]: fault}, max_concurrent=3))
    for place, episode in mixed.items():
        if place[0] == 1:
            assert (episode.status, episode.error) == (status, error)
            assert not episode.status.is_outcome and not episode.won
        else:
            assert texts(episode) == texts(sound[place])
            assert episode.status is sound[place].status


def test_a_slow_environment_holds_nobody_back(play, tasks):
    requests = requests_for(tasks, 4, rollouts=1)
    play(requests)  # warm
    begun = time.perf_counter()
    order = [e.group for e in play(requests, faults={tasks[0]: "slow"}, max_turns=3)]
    assert order[-1] == 0 and len(order) == 4
    assert time.perf_counter() - begun >= 3 * SLOW_SECONDS


def test_copies_that_are_not_thread_safe_are_stepped_from_one_thread(play, tasks):
    FaultyHouse.threads.clear()
    play(requests_for(tasks, 3), house=OneThreadHouse)
    assert len(FaultyHouse.threads) == 1
    FaultyHouse.threads.clear()
    play(requests_for(tasks, 3), faults=dict.fromkeys(tasks[:3], "slow"), max_turns=1)
    assert len(FaultyHouse.threads) > 1
