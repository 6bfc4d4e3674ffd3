"""Packed rescoring against one forward pass a turn, spelt out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ray.rllib.core import DEFAULT_MODULE_ID

from stepopsd_rllib.connectors.hindsight import HINDSIGHT, Hindsight
from stepopsd_rllib.connectors.teacher_gap import TeacherGap
from stepopsd_rllib.episodes import AgentEpisode
from stepopsd_rllib.episodes.packing import pack_episodes
from stepopsd_rllib.models.causal_lm import CausalLMModule
from tests.helpers.dense import sampled_rows
from tests.helpers.token_episodes import VOCABULARY, random_episode, random_module

TOLERANCE = 1e-5  # nats, float32
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> CausalLMModule:
    return random_module(tmp_path_factory.mktemp("model"), temperature=TEMPERATURE)


@pytest.fixture(scope="module")
def narrow_module(tmp_path_factory) -> CausalLMModule:
    return random_module(tmp_path_factory.mktemp("narrow"), max_positions=40)


class Case:
    """Columns of random episodes, a random span in some turns of each, and random hindsight."""

    def __init__(self, seed: int, *, context: str, sizes: list[int], longest_hindsight: int):
        rng = np.random.default_rng(seed)
        self.episodes = [random_episode(rng, num_turns=n, context=context) for n in sizes]
        self.columns: dict[str, Any] = pack_episodes(self.episodes).columns()
        num_rows = len(self.columns["lengths"])
        self.columns["weights_version"] = torch.full((num_rows,), 3)
        self.columns["advantages"] = torch.ones_like(self.columns["behaviour_log_probs"])
        episode_R = self.columns["episode_index"][sampled_rows(self.columns)]
        self.spans: dict[tuple[int, int], tuple[int, int]] = {}
        step_R = torch.full_like(self.columns["turn_index"], -1)
        for n, episode in enumerate(self.episodes):
            for k, turn in enumerate(episode.turns):
                start, stop = sorted(rng.integers(0, len(turn.response_ids) + 1, 2).tolist())
                if start == stop:
                    continue
                self.spans[n, k] = (start, stop)
                is_turn_R = (self.columns["turn_index"] == k) & (episode_R == n)
                first = int(is_turn_R.nonzero()[0])
                step_R[first + start : first + stop] = k
        self.columns["step_index"] = step_R
        self.hindsights = [
            Hindsight(
                ids=tuple(
                    rng.integers(0, VOCABULARY, int(rng.integers(0, longest_hindsight))).tolist()
                )
            )
            for _ in sizes
        ]

    def packed(self, module: CausalLMModule, **settings_: Any) -> dict[tuple[int, int], Any]:
        """Gap of every span as the connector computes it; nothing else may have one."""
        connector = TeacherGap(
            **{
                "position": "suffix",
                "teacher": "stale",
                "student": "recomputed",
                "effect": lambda update: 0.04,
                "score_all": False,
                "max_tokens": 256,
                **settings_,
            }
        )
        batch = {DEFAULT_MODULE_ID: self.columns}
        connector(
            rl_module=_MultiModule(module), batch=batch, shared_data={HINDSIGHT: self.hindsights}
        )
        gap_R = self.columns["log_prob_gap"]
        assert (gap_R[self.columns["step_index"] < 0] == 0).all()
        episode_R = self.columns["episode_index"][sampled_rows(self.columns)]
        out = {}
        for n, k in self.spans:
            out[n, k] = gap_R[(self.columns["step_index"] == k) & (episode_R == n)]
        return out

    def naive(self, module: CausalLMModule, *, position: str, max_positions: int = 1024) -> dict:
        """Teacher and student of every turn, each a forward pass of its own."""
        out = {}
        for (n, k), (start, stop) in self.spans.items():
            context, span = _context(self.episodes[n], k, start), slice(start, stop)
            target = self.episodes[n].turns[k].response_ids[span].tolist()
            row_end = len(context) + len(target)
            if position == "prefix" and self.episodes[n].context == "append":
                last = max(turn for episode, turn in self.spans if episode == n)
                last_stop = self.spans[n, last][1]
                row_end = len(_context(self.episodes[n], last, last_stop))
            hindsight = list(self.hindsights[n].ids)[: max(0, max_positions - row_end)]
            told = context + hindsight if position == "suffix" else hindsight + context
            assert module.teacher is not None
            out[n, k] = _log_probs(module.teacher, told, target, module.temperature) - _log_probs(
                module.language_model, context, target, module.temperature
            )
        return out


class _MultiModule(dict):
    def __init__(self, module: CausalLMModule):
        super().__init__({DEFAULT_MODULE_ID: module})


def _context(episode: AgentEpisode, turn: int, start: int) -> list[int]:
    """All ids before a token of a response, as the policy saw them."""
    ids: list[int] = []
    for k, each in enumerate(episode.turns[: turn + 1]):
        if episode.context == "window":
            ids = []
        response = each.response_ids.tolist()
        ids += each.prompt_ids.tolist() + (response if k < turn else response[:start])
    return ids


@torch.no_grad()
def _log_probs(model: Any, context: list[int], target: list[int], temperature: float) -> Any:
    ids = torch.tensor([context + target])
    logits_TV = model(input_ids=ids, use_cache=False).logits[0, :-1] / temperature
    log_probs_TV = logits_TV.log_softmax(dim=-1)
    return torch.stack(
        [log_probs_TV[len(context) - 1 + i, token] for i, token in enumerate(target)]
    )


def _assert_equal(packed: dict, naive: dict) -> None:
    assert packed.keys() == naive.keys()
    for key, expected in naive.items():
        assert packed[key].shape == expected.shape
        assert (packed[key] - expected).abs().max() <= TOLERANCE, key


@settings(max_examples=24)
@given(
    seed=st.integers(0, 2**31),
    context=st.sampled_from(["append", "window"]),
    position=st.sampled_from(["suffix", "prefix"]),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    max_tokens=st.sampled_from([1, 40, 200, 4096]),
)
def test_packed_gaps_are_those_of_one_pass_a_turn(
    module, seed, context, position, sizes, max_tokens
):
    case = Case(seed, context=context, sizes=sizes, longest_hindsight=14)
    _assert_equal(
        case.packed(module, position=position, max_tokens=max_tokens),
        case.naive(module, position=position),
    )


@pytest.mark.parametrize("context", ["append", "window"])
@pytest.mark.parametrize("position", ["suffix", "prefix"])
def test_long_and_short_episodes_share_a_batch(module, context, position):
    case = Case(7, context=context, sizes=[50, 1, 23, 50, 2], longest_hindsight=40)
    _assert_equal(
        case.packed(module, position=position, max_tokens=2048),
        case.naive(module, position=position),
    )


@settings(max_examples=16)
@given(
    seed=st.integers(0, 2**31),
    context=st.sampled_from(["append", "window"]),
    position=st.sampled_from(["suffix", "prefix"]),
)
def test_hindsight_gives_way_where_positions_end_and_the_prefix_never(
    narrow_module, seed, context, position
):
    case = Case(seed, context=context, sizes=[4, 1, 3], longest_hindsight=60)
    assume(int(case.columns["lengths"].max()) <= 40)
    _assert_equal(
        case.packed(narrow_module, position=position),
        case.naive(narrow_module, position=position, max_positions=40),
    )


def test_the_teacher_of_the_naive_loop_differs_from_the_policy(module):
    case = Case(0, context="append", sizes=[5], longest_hindsight=14)
    gaps = torch.cat(list(case.naive(module, position="suffix").values()))
    assert gaps.abs().mean() > 0.01
