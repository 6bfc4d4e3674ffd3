"""Both samplers against a float32 forward pass of the same model, and against each other."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from stepopsd_rllib.sampling.sampler import (
    NO_VERSION,
    Sampler,
    SampleRequest,
    SampleResult,
    SamplerRefusal,
)
from stepopsd_rllib.sampling.transformers_sampler import TransformersSampler
from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

VOCABULARY = 300
CONTEXT = 512
TOLERANCE = 1e-4  # nats
NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
SAMPLERS = {"transformers": TransformersSampler, "vllm": VLLMSampler}


@dataclass
class Pair:
    """A sampler and the model whose weights it should be sampling from."""

    sampler: Sampler
    model: PreTrainedModel


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for is_tied, head in ((True, "tied"), (False, "untied")):
        config = Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=2 * CONTEXT,
            tie_word_embeddings=is_tied,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=None,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Qwen3ForCausalLM(config)
        found[head] = tmp_path_factory.mktemp(head)
        model.save_pretrained(found[head])
    return found


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((kind, head), id=f"{kind}-{head}", marks=marks)
        for kind, marks in (("transformers", []), ("vllm", NEEDS_VLLM))
        for head in ("tied", "untied")
    ],
)
def shared(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[Pair]:
    """One engine for all tests of the module, since starting one takes seconds."""
    kind, head = request.param
    torch.manual_seed(11)
    before = torch.get_rng_state()
    sampler = SAMPLERS[kind](folders[head], max_context_tokens=CONTEXT, max_concurrent=16)
    assert torch.equal(before, torch.get_rng_state()), "starting a sampler reseeds its process"
    assert sampler.weights_version == NO_VERSION
    yield Pair(sampler, load_model(folders[head]))
    sampler.close()
    sampler.close()
    with pytest.raises(RuntimeError, match="closed"):
        sampler.submit(a_request("late", [1]))


@pytest.fixture
def pair(shared: Pair, folders: dict[str, Path]) -> Pair:
    """The shared engine with the weights of the model folder."""
    head = "tied" if shared.model.config.tie_word_embeddings else "untied"
    shared.model.load_state_dict(load_model(folders[head]).state_dict())
    shared.sampler.load_weights(shared.model.state_dict(), version=0)
    return shared


def load_model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def a_request(request_id: str, prompt_ids: Sequence[int], **changes: object) -> SampleRequest:
    values = {"seed": 0, "temperature": 1.0, "top_p": 1.0, "max_tokens": 20, "stop_token_ids": ()}
    return SampleRequest(request_id=request_id, prompt_ids=prompt_ids, **(values | changes))


def prompts(count: int, *, seed: int = 0, longest: int = CONTEXT - 30) -> dict[str, list[int]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest, size=count)
    return {
        str(index): rng.integers(VOCABULARY, size=length).tolist()
        for index, length in enumerate(lengths)
    }


def sample(sampler: Sampler, requests: Sequence[SampleRequest]) -> dict[str, SampleResult]:
    for request in requests:
        sampler.submit(request)
    return drain(sampler)


def drain(sampler: Sampler) -> dict[str, SampleResult]:
    results: dict[str, SampleResult] = {}
    while not sampler.is_idle():
        results |= {result.request_id: result for result in sampler.step()}
    return results


@torch.no_grad()
def response_logits(
    model: PreTrainedModel, prompt: list[int], response: np.ndarray
) -> torch.Tensor:
    """Logits that each token of a response was drawn from, [T, V]."""
    logits_TV = model(torch.tensor([prompt + response.tolist()])).logits[0]
    return logits_TV[len(prompt) - 1 : -1]


def worst_difference(
    model: PreTrainedModel,
    asked: dict[str, list[int]],
    results: dict[str, SampleResult],
    temperature: float = 1.0,
) -> float:
    """Largest |sampler's - model's| log-prob over every token of every response, nats."""
    assert asked.keys() == results.keys()
    worst = 0.0
    for request_id, result in results.items():
        logits_TV = response_logits(model, asked[request_id], result.token_ids) / temperature
        token_T1 = torch.from_numpy(result.token_ids.astype(np.int64))[:, None]
        expected = logits_TV.log_softmax(-1).gather(1, token_T1)[:, 0].numpy()
        assert result.token_ids.dtype == np.int32
        assert result.log_probs.dtype == np.float32
        assert result.log_probs.shape == expected.shape
        worst = max(worst, float(np.abs(expected - result.log_probs).max()))
    return worst


@torch.no_grad()
def disturb(model: PreTrainedModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_a_forward_pass(pair: Pair, temperature: float) -> None:
    asked = prompts(24)  # more than run at once
    requests = [
        a_request(name, prompt, seed=int(name), temperature=temperature)
        for name, prompt in asked.items()
    ]
    results = sample(pair.sampler, requests)
    assert worst_difference(pair.model, asked, results, temperature) < TOLERANCE


def test_seeded_prompts_may_exceed_what_the_engine_takes_in_one_step(pair: Pair) -> None:
    rng = np.random.default_rng(10)  # vLLM on CPU dies when it cuts a seeded prompt in two
    asked = {str(i): rng.integers(VOCABULARY, size=CONTEXT - 30 - i).tolist() for i in range(16)}
    results = sample(pair.sampler, [a_request(n, ids, seed=int(n)) for n, ids in asked.items()])
    assert worst_difference(pair.model, asked, results) < TOLERANCE


def test_log_probs_follow_each_of_twenty_weight_updates(pair: Pair) -> None:
    asked = prompts(4, longest=200)  # the same prompts each time: stale keys and values would show
    for version in range(1, 21):
        disturb(pair.model, seed=version)
        pair.sampler.load_weights(pair.model.state_dict(), version)
        results = sample(pair.sampler, [a_request(name, ids) for name, ids in asked.items()])
        assert worst_difference(pair.model, asked, results) < TOLERANCE, f"after update {version}"
        assert pair.sampler.weights_version == version


def test_greedy_takes_the_likeliest_token_and_reports_its_untempered_log_prob(pair: Pair) -> None:
    asked = prompts(6, seed=1)
    requests = [a_request(name, prompt, temperature=0.0) for name, prompt in asked.items()]
    requests += [a_request("sampled", [1, 2, 3])]  # greedy and sampled in one batch
    results = sample(pair.sampler, requests)
    for name, prompt in asked.items():
        logits_TV = response_logits(pair.model, prompt, results[name].token_ids)
        np.testing.assert_array_equal(results[name].token_ids, logits_TV.argmax(-1).numpy())
    assert worst_difference(pair.model, asked | {"sampled": [1, 2, 3]}, results) < TOLERANCE


def test_top_p_samples_within_the_nucleus_and_normalises_over_it(pair: Pair) -> None:
    asked = prompts(6, seed=2)
    requests = [a_request(n, ids, top_p=0.6, seed=int(n)) for n, ids in asked.items()]
    for name, result in sample(pair.sampler, requests).items():
        logits_TV = response_logits(pair.model, asked[name], result.token_ids)
        for logits_V, token, log_prob in zip(
            logits_TV, result.token_ids, result.log_probs, strict=True
        ):
            probs = logits_V.softmax(-1)
            likelier = probs[probs > probs[token]].sum()
            assert likelier < 0.6 + 1e-5
            ordered = probs.sort(descending=True).values
            nucleus = ordered[: int((ordered.cumsum(0) < 0.6).sum()) + 1].sum()
            assert abs(float((probs[token] / nucleus).log()) - log_prob) < 1e-3


def test_seeds_draw_from_the_distribution(pair: Pair) -> None:
    draws = 3000
    results = sample(
        pair.sampler,
        [a_request(str(seed), [5, 6, 7], seed=seed, max_tokens=1) for seed in range(draws)],
    )
    probs = response_logits(pair.model, [5, 6, 7], np.array([0]))[0].softmax(-1).numpy()
    counts = np.bincount([int(r.token_ids[0]) for r in results.values()], minlength=VOCABULARY)
    deviation = (counts - draws * probs) / np.sqrt(draws * probs * (1 - probs))
    assert np.abs(deviation[draws * probs > 10]).max() < 4.5


def test_a_seeded_sample_does_not_depend_on_order_or_company(pair: Pair) -> None:
    asked = prompts(8, seed=3, longest=60)
    requests = [a_request(name, prompt, seed=100 + int(name)) for name, prompt in asked.items()]
    together = sample(pair.sampler, requests)
    reversed_ = sample(pair.sampler, requests[::-1])
    alone = sample(pair.sampler, requests[3:4])
    for name, result in together.items():
        np.testing.assert_array_equal(result.token_ids, reversed_[name].token_ids)
    np.testing.assert_array_equal(together["3"].token_ids, alone["3"].token_ids)


def test_different_seeds_give_different_samples_of_one_prompt(pair: Pair) -> None:
    results = sample(pair.sampler, [a_request(str(i), [1, 2, 3], seed=i) for i in range(8)])
    assert len({tuple(result.token_ids) for result in results.values()}) == 8


def test_a_growing_chat_is_not_computed_again(pair: Pair) -> None:
    chat = prompts(1, seed=4, longest=200)["0"] + list(range(100))
    for turn in range(3):
        spared = pair.sampler.cached_prompt_tokens
        result = sample(pair.sampler, [a_request("chat", chat, seed=turn)])
        assert worst_difference(pair.model, {"chat": chat}, result) < TOLERANCE
        if turn:  # vLLM reuses whole blocks of 32 tokens
            assert pair.sampler.cached_prompt_tokens - spared >= len(chat) - 20 - 10 - 33
        chat = chat + result["chat"].token_ids.tolist() + list(range(10))


def test_a_group_shares_its_prompt(pair: Pair) -> None:
    prompt = prompts(1, seed=5)["0"] + list(range(70))
    spared = pair.sampler.cached_prompt_tokens
    first = sample(pair.sampler, [a_request("first", prompt, max_tokens=1)])
    results = sample(pair.sampler, [a_request(str(i), prompt, seed=i) for i in range(8)])
    assert pair.sampler.cached_prompt_tokens - spared >= 8 * (len(prompt) - 33)
    asked = {str(i): prompt for i in range(8)}
    assert worst_difference(pair.model, asked, results) < TOLERANCE
    assert worst_difference(pair.model, {"first": prompt}, first) < TOLERANCE


def test_a_weight_update_empties_the_prefix_cache(pair: Pair) -> None:
    request = a_request("again", prompts(1, seed=6)["0"] + list(range(70)))
    sample(pair.sampler, [request])
    spared = pair.sampler.cached_prompt_tokens
    pair.sampler.load_weights(pair.model.state_dict(), 1)
    sample(pair.sampler, [request])
    assert pair.sampler.cached_prompt_tokens == spared


def test_a_stop_token_ends_the_response_and_is_part_of_it(pair: Pair) -> None:
    free = sample(pair.sampler, [a_request("free", [1, 2, 3], seed=7)])["free"]
    assert free.finish_reason == "length"
    assert len(free.token_ids) == 20
    stop = int(free.token_ids[4])
    end = free.token_ids.tolist().index(stop) + 1
    stopped = sample(pair.sampler, [a_request("s", [1, 2, 3], seed=7, stop_token_ids=(stop,))])["s"]
    assert stopped.finish_reason == "stop"
    np.testing.assert_array_equal(stopped.token_ids, free.token_ids[:end])
    np.testing.assert_allclose(stopped.log_probs, free.log_probs[:end], atol=1e-5)


def test_the_context_ends_a_response(pair: Pair) -> None:
    result = sample(pair.sampler, [a_request("long", [3] * (CONTEXT - 4), max_tokens=50)])["long"]
    assert result.finish_reason == "length"
    assert len(result.token_ids) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_ids": []}, "prompt is empty"),
        ({"prompt_ids": [1] * CONTEXT}, "512 tokens and max_context_tokens=512"),
        ({"prompt_ids": [1, VOCABULARY]}, "token id 300 lies outside"),
        ({"prompt_ids": [-1, 4]}, "token id -1 lies outside"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": 0.001}, "temperature=0.001"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_refused_request_leaves_the_sampler_usable(
    pair: Pair, changes: dict, message: str
) -> None:
    values = {"prompt_ids": [1, 2]} | changes
    with pytest.raises(SamplerRefusal, match=message):
        pair.sampler.submit(a_request("bad", **values))
    assert pair.sampler.is_idle()
    assert len(sample(pair.sampler, [a_request("bad", [1, 2])])) == 1


def test_an_id_that_is_running_is_refused(pair: Pair) -> None:
    pair.sampler.submit(a_request("twin", [1, 2]))
    with pytest.raises(SamplerRefusal, match="running already"):
        pair.sampler.submit(a_request("twin", [1, 2]))
    assert drain(pair.sampler).keys() == {"twin"}


@pytest.mark.parametrize("defect", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_cover_the_model_change_nothing(pair: Pair, defect: str) -> None:
    disturbed = {name: tensor + 1 for name, tensor in pair.model.state_dict().items()}
    name = "model.layers.1.mlp.up_proj.weight"
    tensor = disturbed[name]
    if defect != "shape":
        del disturbed[name]
    if defect == "unexpected":
        disturbed["module." + name] = tensor
    if defect == "shape":
        disturbed[name] = tensor[:-1]
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as raised:
        pair.sampler.load_weights(disturbed, version=5)
    assert {"missing": "1 of", "unexpected": "nearest to", "shape": "(127, 64)"}[defect] in str(
        raised.value
    )
    assert pair.sampler.weights_version == 0
    asked = prompts(2)
    results = sample(pair.sampler, [a_request(name, ids) for name, ids in asked.items()])
    assert worst_difference(pair.model, asked, results) < TOLERANCE


def test_a_tied_head_may_be_left_out_but_may_not_differ(pair: Pair) -> None:
    disturb(pair.model, seed=50)
    weights = dict(pair.model.state_dict())
    head = weights.pop("lm_head.weight")
    if not pair.model.config.tie_word_embeddings:
        with pytest.raises(ValueError, match=r"missing: lm_head\.weight"):
            pair.sampler.load_weights(weights, version=1)
        return
    pair.sampler.load_weights(weights, version=1)
    asked = prompts(3)
    results = sample(pair.sampler, [a_request(name, ids) for name, ids in asked.items()])
    assert worst_difference(pair.model, asked, results) < TOLERANCE
    with pytest.raises(ValueError, match="ties the two"):
        pair.sampler.load_weights(weights | {"lm_head.weight": head + 1}, version=2)
    assert pair.sampler.weights_version == 1


def test_weights_are_not_replaced_under_a_running_request(pair: Pair) -> None:
    pair.sampler.submit(a_request("running", [1, 2, 3]))
    pair.sampler.step()
    with pytest.raises(RuntimeError, match="1 requests are running"):
        pair.sampler.load_weights(pair.model.state_dict(), version=1)
    assert pair.sampler.weights_version == 0
    assert worst_difference(pair.model, {"running": [1, 2, 3]}, drain(pair.sampler)) < TOLERANCE


def test_scoring_is_a_forward_pass_and_loses_no_running_request(pair: Pair) -> None:
    pair.sampler.submit(a_request("running", [1, 2, 3], max_tokens=1))
    token_ids = prompts(1, seed=8)["0"]
    with torch.no_grad():
        logits_TV = pair.model(torch.tensor([token_ids])).logits[0, :-1]
    expected = logits_TV.log_softmax(-1).gather(1, torch.tensor(token_ids[1:])[:, None])[:, 0]
    scored = pair.sampler.score(token_ids)
    assert scored.dtype == np.float32
    np.testing.assert_allclose(scored, expected.numpy(), atol=TOLERANCE)
    assert drain(pair.sampler).keys() == {"running"}
    assert pair.sampler.score([4]).shape == (0,)


def test_sampling_leaves_the_global_generators_alone(pair: Pair) -> None:
    before = torch.get_rng_state()
    sample(pair.sampler, [a_request(str(i), [1, 2, 3], seed=i) for i in range(3)])
    assert torch.equal(before, torch.get_rng_state())


def test_an_engine_that_slept_serves_again_after_new_weights_alone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(pair.sampler, VLLMSampler):
        pytest.skip("only vLLM's engine sleeps")
    calls: list[object] = []
    engine = pair.sampler._engine  # a CPU's engine cannot sleep; the order of calls is its own
    monkeypatch.setattr(engine, "sleep", lambda level: calls.append(level))
    monkeypatch.setattr(engine, "wake_up", calls.append)
    pair.sampler.submit(a_request("running", [1, 2, 3]))
    with pytest.raises(RuntimeError, match="sleep: 1 requests are running"):
        pair.sampler.sleep()
    while not pair.sampler.is_idle():
        pair.sampler.step()
    pair.sampler.sleep()
    assert pair.sampler.weights_version == NO_VERSION
    with pytest.raises(RuntimeError, match="load complete weights"):
        pair.sampler.submit(a_request("asleep", [1, 2, 3]))
    pair.sampler.load_weights(pair.model.state_dict(), version=3)
    assert calls == [2, ["weights"], ["kv_cache"]]
    pair.sampler.load_weights(pair.model.state_dict(), version=4)
    assert len(calls) == 3
    assert len(sample(pair.sampler, [a_request("awake", [1, 2, 3])])) == 1


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_both_samplers_agree_greedily(folders: dict[str, Path]) -> None:
    asked = prompts(8, seed=9)
    requests = [a_request(name, ids, temperature=0.0) for name, ids in asked.items()]
    results = []
    for sampler_class in SAMPLERS.values():
        sampler = sampler_class(folders["tied"], max_context_tokens=CONTEXT, max_concurrent=8)
        results.append(sample(sampler, requests))
        sampler.close()
    for name in asked:
        np.testing.assert_array_equal(results[0][name].token_ids, results[1][name].token_ids)
        np.testing.assert_allclose(
            results[0][name].log_probs, results[1][name].log_probs, atol=TOLERANCE
        )


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_a_model_folder_that_does_not_exist_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(FileNotFoundError, match=r"nowhere'.*no such model folder"):
        SAMPLERS[kind](tmp_path / "nowhere", max_context_tokens=8)


def test_a_context_beyond_the_model_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"max_context_tokens=9999.*at most 1024"):
        TransformersSampler(folders["tied"], max_context_tokens=9999)


def test_without_vllm_the_error_names_the_extras(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"stepopsd-rllib\[vllm\].*'transformers'"):
        VLLMSampler(folders["tied"], max_context_tokens=8)
