"""Turn records through RLlib's episodes and back."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from stepopsd_rllib.episodes import PolicyReply, Status, Turn, from_rllib, to_rllib
from tests.helpers.agents import random_episode, same_records


@pytest.mark.parametrize("context", ["append", "window"])
@pytest.mark.parametrize("turns", [0, 1, 5])
def test_an_episode_survives_rllib_and_pickle(context, turns):
    rng = np.random.default_rng(turns)
    episode = random_episode(rng, group=7, rollout=2, turns=turns, won=True, context=context)
    episode = dataclasses.replace(episode, golden="a way", error="é", final_observation="end")
    episode = dataclasses.replace(episode, preamble="- Look first.\n\n", task_score=0.25)
    back = from_rllib(pickle.loads(pickle.dumps(to_rllib(episode))))
    assert same_records(back, episode)
    reply = PolicyReply(text="{é", shown_turns=(0, 2), requests=2, prompt_tokens=9)
    episode = dataclasses.replace(episode, reply=reply)
    back = from_rllib(pickle.loads(pickle.dumps(to_rllib(episode))))
    assert same_records(back, episode) and back.reply == reply
    changed = dataclasses.replace(back, seed=back.seed + 1)
    assert not same_records(changed, episode), "the comparison must be able to fail"


@pytest.mark.parametrize("status", list(Status))
def test_success_and_failure_end_the_task_everything_else_cuts_it_short(status):
    episode = random_episode(np.random.default_rng(0), group=0, rollout=0, turns=2)
    rllib_episode = to_rllib(dataclasses.replace(episode, status=status))
    assert rllib_episode.is_terminated == (status in (Status.SUCCESS, Status.FAILURE))
    assert rllib_episode.is_truncated != rllib_episode.is_terminated
    assert from_rllib(rllib_episode).status is status
    assert status.is_outcome != status.value.endswith("error")


def test_the_return_is_the_sum_of_rewards():
    episode = random_episode(np.random.default_rng(0), group=0, rollout=0, turns=4, won=True)
    assert episode.return_ == to_rllib(episode).get_return() == 1.0


def test_a_cut_episode_is_refused():
    rllib_episode = to_rllib(random_episode(np.random.default_rng(0), group=0, rollout=0, turns=4))
    with pytest.raises(ValueError, match=r"2 steps but 0 turn records\. It was cut on the way"):
        from_rllib(rllib_episode[0:2])
    rllib_episode.custom_data["turns"].pop()
    with pytest.raises(ValueError, match="4 steps but 3 turn records"):
        from_rllib(rllib_episode)


def test_a_turn_without_one_log_prob_a_token_is_refused():
    turn = random_episode(np.random.default_rng(0), group=0, rollout=0, turns=1).turns[0]
    fields = {field.name: getattr(turn, field.name) for field in dataclasses.fields(turn)}
    with pytest.raises(ValueError, match="the sampler must return both"):
        Turn(**(fields | {"behaviour_log_probs": turn.behaviour_log_probs[:-1]}))
    with pytest.raises(ValueError, match="0 response ids with 0 log-probs"):
        empty = np.zeros(0, np.int32)
        Turn(**(fields | {"response_ids": empty, "behaviour_log_probs": empty}))
