"""Playing beside a policy: it plays, the person takes over, and its likely actions are told."""

import math

import numpy as np
import pytest
from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.search_qa.env import SearchQAEnv

import stepopsd_cli
from stepopsd_rllib.commands import play_policy
from stepopsd_rllib.commands.play_policy import NO_ACTION, action_in, likely_actions
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.sampling.sampler import SampleRequest, SampleResult

WORDS = ["<action>", "</action>", "go", "look", "<end>"]
GO, LOOK, END = 2, 3, 4


class TwoWords:
    """A policy of a known law: "go" with probability 0.75, "look" with 0.25; then the end."""

    weights_version, max_context_tokens = 0, 64

    def __init__(self):
        self.waiting: list[SampleRequest] = []

    def submit(self, request):
        self.waiting.append(request)

    def is_idle(self):
        return not self.waiting

    def step(self):
        request = self.waiting.pop()
        word = GO if np.random.default_rng(request.seed).random() < 0.75 else LOOK
        chance = 0.75 if word == GO else 0.25
        return [
            SampleResult(
                request_id=request.request_id,
                token_ids=np.array([0, word, 1, END], np.int32),
                log_probs=np.log(np.array([1, chance, 1, 1], np.float32)),
                finish_reason="stop",
            )
        ]

    def load_weights(self, weights, version):
        raise NotImplementedError

    def score(self, token_ids):
        return np.full(len(token_ids) - 1, math.log(0.5), np.float32)

    def close(self):
        pass


class Words:
    """The texts of `WORDS`, as a chat format and a tokenizer give them."""

    end_of_turn_ids = (END,)

    def text(self, ids):
        return "".join(WORDS[i] for i in ids if i != END)

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [0, LOOK, 1]}


@pytest.fixture
def env():
    return ALFWorldEnv(size="tiny", think="off")


REQUEST = SampleRequest(
    request_id="0.0", prompt_ids=[2, 3], seed=7, max_tokens=8, stop_token_ids=(END,)
)


def test_shares_estimate_the_law_and_the_lower_bound_is_the_law(env):
    chat: ChatFormat = Words()  # type: ignore[assignment]
    likely = likely_actions(TwoWords(), REQUEST, chat, env, samples=400)
    assert [one.action for one in likely] == ["go", "look"]
    for one, law in zip(likely, (0.75, 0.25), strict=True):
        assert one.share.value == pytest.approx(law, abs=0.09)  # four standard errors
        assert one.share.low < one.share.value < one.share.high
        assert one.at_least == pytest.approx(law)  # there is one way to write each
    again = likely_actions(TwoWords(), REQUEST, chat, env, samples=400)
    assert [one.share for one in again] == [one.share for one in likely]


def test_a_person_asks_chooses_and_takes_over(env):
    lines = iter(["?", "2", "", "look", None])
    said: list[str] = []
    words = Words()
    beside = play_policy.PersonBeside(
        TwoWords(),
        words,  # type: ignore[arg-type]
        env,
        words,
        samples=50,
        ask=lambda: next(lines),
        say=said.append,
    )
    chosen = []
    for _ in range(3):
        beside.submit(REQUEST)
        assert not beside.is_idle()
        (result,) = beside.step()
        chosen.append(words.text(result.token_ids.tolist()))
        assert result.request_id == REQUEST.request_id and beside.is_idle()
    assert chosen[0] == "<action>look</action>"
    assert chosen[1] in ("<action>go</action>", "<action>look</action>")
    assert chosen[2] == "<action>look</action>"
    assert "1  go" in said[0] and "2  look" in said[0]
    # Four tokens, the end among them, at one half each.
    assert "(its probability of writing this: 6.2%)" in said[-1]
    beside.submit(REQUEST)
    with pytest.raises(play_policy.Left):
        beside.step()


@pytest.mark.parametrize(
    ("text", "tags", "action"),
    [
        ("<think>x</think><action> go  to\nbed 1</action>", ALFWorldEnv.action_tags, "go to bed 1"),
        ("<search>who</search>", SearchQAEnv.action_tags, "search who"),
        ("<answer>who</answer>", SearchQAEnv.action_tags, "answer who"),
        ("go to bed 1", ALFWorldEnv.action_tags, NO_ACTION),
        ("<action>go", ALFWorldEnv.action_tags, NO_ACTION),
        (" e4 ", (), "e4"),
    ],
)
def test_an_action_is_what_stands_in_the_first_action_tags(text, tags, action):
    assert action_in(text, tags) == action


def test_a_bare_command_is_written_as_the_policy_writes(env):
    assert env.response_of("look") == "<action>look</action>"
    assert ALFWorldEnv(size="tiny").response_of("look") == "<think></think><action>look</action>"


def test_a_checkpoint_of_a_real_run_plays_and_can_be_asked(real_run, monkeypatch, capsys):
    lines = iter(["?", "1", "look", "", "go"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    arguments = ["play", "--policy", str(real_run), "--split", "valid_unseen", "--samples", "16"]
    assert stepopsd_cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "of 16 responses" in out and "you: <action>look</action>" in out
    assert out.count("policy: ") == 3  # of four turns, one was the person's
    assert "turn limit after 4 turns, return 0" in out or "success after" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["play"], "name an environment"),
        (["play", "stepopsd/ALFWorld-v0", "--policy", "runs"], "which knows its own"),
        (["play", "--policy", "no_run"], "no_run: no whole checkpoint there"),
        (["play", "--policy", "no_run", "--samples", "0"], "--samples 0: draw at least 1"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, capsys):
    assert stepopsd_cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
