"""Sharing of common beginnings: against every partition, and against one pass a sequence."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.scoring import passes, scorer
from stepopsd_rllib.scoring.scored_sequences import NOT_SCORED, BranchedSequence, ScoredSequence
from stepopsd_rllib.scoring.scorer import Scorer
from stepopsd_rllib.scoring.shared_prefixes import shared_prefixes
from tests.helpers.token_episodes import VOCABULARY, random_module

TOLERANCE = 1e-5  # nats, float32


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> CausalLMModule:
    return random_module(tmp_path_factory.mktemp("model"), temperature=0.7)


def common_length(rows: list[np.ndarray], limits: list[int]) -> int:
    length = 0
    while length < min(limits) and len({row[length] for row in rows}) == 1:
        length += 1
    return length


def partitions(items: list[int]):
    """Every way to split items into sets."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for i, part in enumerate(smaller):
            yield [*smaller[:i], [first, *part], *smaller[i + 1 :]]


@settings(max_examples=150)
@given(
    rows=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=0, max_size=6),
    data=st.data(),
    least_saved=st.integers(0, 6),
)
def test_no_partition_of_the_rows_saves_more(rows, data, least_saved):
    ids = [np.array(row, dtype=np.int64) for row in rows]
    limits = [data.draw(st.integers(0, len(row))) for row in rows]

    def saved(part: list[int]) -> int:
        if len(part) < 2:
            return 0
        length = common_length([ids[i] for i in part], [limits[i] for i in part])
        return max(0, (len(part) - 1) * length - least_saved)

    best = max(sum(map(saved, parts)) for parts in partitions(list(range(len(rows)))))
    found = shared_prefixes(ids, limits, least_saved=least_saved)
    members = [i for prefix in found for i in prefix.rows]
    assert len(members) == len(set(members))
    total = 0
    for prefix in found:
        chosen = list(prefix.rows)
        assert prefix.length == common_length([ids[i] for i in chosen], [limits[i] for i in chosen])
        assert saved(chosen) > 0
        total += saved(chosen)
    assert total == best


def test_ids_sort_as_numbers_whatever_their_bytes():
    ids = [np.array([256, 1]), np.array([1, 7]), np.array([256, 2]), np.array([1, 8])]
    found = shared_prefixes(ids, [2] * 4, least_saved=0)
    assert [(prefix.length, set(prefix.rows)) for prefix in found] == [(1, {1, 3}), (1, {0, 2})]


class Batch:
    """Sequences some of which begin alike; every token but the first may be scored."""

    def __init__(self, seed: int, *, num_texts: int, num_sequences: int, longest_text: int):
        rng = np.random.default_rng(seed)
        texts = [
            rng.integers(0, VOCABULARY, int(rng.integers(1, longest_text)))
            for _ in range(num_texts)
        ]
        self.sequences, end = [], 0
        for _ in range(num_sequences):
            text = texts[int(rng.integers(num_texts))]
            # Few token kinds, so that tokens beyond the text are often alike, too.
            own = rng.integers(0, 3, int(rng.integers(1, 20)))
            ids = np.concatenate((text, own)).astype(np.int64)
            is_scored = rng.random(len(ids)) < 0.5
            is_scored[: int(rng.integers(len(ids)))] = False
            target = np.where(is_scored, end + np.arange(len(ids)), NOT_SCORED)
            end += len(ids)
            self.sequences.append(ScoredSequence(ids=ids, target=target))
        self.num_targets = end
        self.num_tokens = sum(len(sequence.ids) for sequence in self.sequences)

    def scored(self, module: CausalLMModule, *, max_tokens: int) -> tuple[torch.Tensor, int]:
        policy = Scorer(module, "policy", max_tokens=max_tokens)
        scores = policy.score(self.sequences, num_tokens=self.num_targets)
        return scores.log_probs, scores.num_forwarded

    def naive(self, module: CausalLMModule) -> torch.Tensor:
        out = torch.zeros(self.num_targets)
        for sequence in self.sequences:
            with torch.no_grad():
                logits_TV = module.language_model(torch.from_numpy(sequence.ids)[None]).logits[0]
            log_probs_TV = (logits_TV / module.temperature).log_softmax(dim=-1)
            for t in range(1, len(sequence.ids)):
                if sequence.target[t] != NOT_SCORED:
                    out[sequence.target[t]] = log_probs_TV[t - 1, sequence.ids[t]]
        return out


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    num_texts=st.integers(1, 4),
    num_sequences=st.integers(1, 12),
    max_tokens=st.sampled_from([1, 60, 500, 8192]),
    pass_tokens=st.sampled_from([0, 10, 256]),
)
def test_sharing_changes_no_log_prob(
    module, seed, num_texts, num_sequences, max_tokens, pass_tokens
):
    batch = Batch(seed, num_texts=num_texts, num_sequences=num_sequences, longest_text=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "PASS_TOKENS", pass_tokens)
        ours, num_forwarded = batch.scored(module, max_tokens=max_tokens)
    assert num_forwarded <= batch.num_tokens
    assert (ours - batch.naive(module)).abs().max() <= TOLERANCE


def test_a_text_before_every_sequence_is_forwarded_once(module):
    text = np.arange(300) % VOCABULARY
    own = [np.array([1, 2, 3, n]) for n in range(20)]
    sequences = [
        ScoredSequence(ids=np.concatenate((text, ids)), target=np.array([-1] * 303 + [n]))
        for n, ids in enumerate(own)
    ]
    scores = Scorer(module, "policy", max_tokens=4096).score(sequences, num_tokens=len(own))
    # Text and three tokens once, less the one that predicts the scored token; two tokens each.
    assert scores.num_forwarded == 302 + 20 * 2


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), max_tokens=st.sampled_from([1, 50, 700, 8192]))
def test_branches_of_several_histories_and_their_likely_tokens(module, seed, max_tokens):
    rng = np.random.default_rng(seed)
    sequences, flat, end = [], [], itertools.count()
    for _ in range(int(rng.integers(1, 5))):
        history = rng.integers(0, VOCABULARY, int(rng.integers(2, 40)))
        branches = []
        for _ in range(int(rng.integers(1, 8))):
            start = int(rng.integers(1, len(history) + 1))
            ids = rng.integers(0, VOCABULARY, int(rng.integers(2, 30)))
            target = np.array([NOT_SCORED, *(next(end) for _ in ids[1:])])
            branches.append((start, ScoredSequence(ids=ids, target=target)))
            flat.append((np.concatenate((history[:start], ids)), start, target))
        sequences.append(BranchedSequence(history=history, branches=tuple(branches)))
    num_targets = next(end)
    model = module.language_model
    policy = Scorer(module, "policy", max_tokens=max_tokens)
    scores = policy.score(sequences, num_tokens=num_targets, top=3)
    out, top = scores.log_probs, scores.top
    assert top is not None
    for ids, start, target in flat:
        with torch.no_grad():
            logits_TV = model(torch.from_numpy(ids)[None]).logits[0] / module.temperature
        log_probs_TV = logits_TV.log_softmax(dim=-1)[start:-1]
        expected = log_probs_TV.gather(1, torch.from_numpy(ids[start + 1 :])[:, None])[:, 0]
        assert (out[target[1:]] - expected).abs().max() <= TOLERANCE
        likely = log_probs_TV.topk(3).values
        assert (top.log_probs[target[1:]] - likely).abs().max() <= TOLERANCE


def test_a_model_that_forgets_shares_nothing_and_refuses_branches(module):
    batch = Batch(3, num_texts=1, num_sequences=12, longest_text=60)
    expected = batch.naive(module)
    config = module.language_model.config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "PASS_TOKENS", 0)
        patch.setattr(scorer, "keeps_all_keys", lambda model: False)
        ours, num_forwarded = batch.scored(module, max_tokens=4096)
    assert num_forwarded == batch.num_tokens
    assert (ours - expected).abs().max() <= TOLERANCE
    assert scorer.keeps_all_keys(module.language_model)
    sliding = SimpleNamespace(
        config=SimpleNamespace(layer_types=["full_attention", "sliding_attention"])
    )
    assert not scorer.keeps_all_keys(sliding)  # pyright: ignore[reportArgumentType]
    history = BranchedSequence(
        history=np.array([1, 2]),
        branches=((1, ScoredSequence(ids=np.array([1, 2]), target=np.array([-1, 0]))),),
    )
    with pytest.MonkeyPatch.context() as patch:
        kinds = ["full_attention", "sliding_attention"]
        patch.setattr(module.language_model.config, "layer_types", kinds)
        with pytest.raises(ValueError, match="sliding_attention"):
            Scorer(module, "policy", max_tokens=10).score([history], num_tokens=1)
    assert config.layer_types


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_a_branch_whose_first_token_is_scored_starts_a_token_earlier(module, seed):
    """A token is predicted by the one before it, so that one has to be part of the branch."""
    rng = np.random.default_rng(seed)
    history = rng.integers(0, VOCABULARY, 12)
    starts = rng.integers(2, 13, 3).tolist()
    ends, branches = itertools.count(), []
    for start in starts:
        ids = rng.integers(0, VOCABULARY, int(rng.integers(1, 8)))
        target = np.array([next(ends) for _ in ids])
        branches.append((start, ScoredSequence(ids=ids, target=target)))
    sequence = BranchedSequence(history=history, branches=tuple(branches))
    assert all(branch.target[0] == NOT_SCORED for _, branch in sequence.branches)
    scores = Scorer(module, "policy", max_tokens=500).score([sequence], num_tokens=next(ends))
    for start, branch in branches:
        ids = np.concatenate((history[:start], branch.ids))
        with torch.no_grad():
            logits_TV = module.language_model(torch.from_numpy(ids)[None]).logits[0]
        log_probs_TV = (logits_TV / module.temperature).log_softmax(dim=-1)[start - 1 : -1]
        expected = log_probs_TV.gather(1, torch.from_numpy(branch.ids)[:, None])[:, 0]
        assert (scores.log_probs[branch.target] - expected).abs().max() <= TOLERANCE


def test_a_branch_continues_something():
    branch = ScoredSequence(ids=np.array([1]), target=np.array([0]))
    with pytest.raises(ValueError, match="starts at token 0 of a history of 2 tokens"):
        BranchedSequence(history=np.array([1, 2]), branches=((0, branch),))


def test_a_view_judges_in_evaluation_mode_and_gives_the_mode_back(module):
    module.train()
    with module.view("policy") as model:
        assert not any(part.training for part in model.modules())
    assert all(part.training for part in module.language_model.modules())
    with module.view("teacher") as model:
        assert model is module.teacher


def test_a_module_says_which_view_it_has_not(module):
    scorer_ = Scorer(module, "reference", max_tokens=10)
    with pytest.raises(ValueError, match="without a reference"):
        scorer_.score([], num_tokens=0)
    with pytest.raises(ValueError, match="'student' is no view"):
        Scorer(module, "student", max_tokens=10).score([], num_tokens=0)  # pyright: ignore[reportArgumentType]
