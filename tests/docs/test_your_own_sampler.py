"""The page on samplers: its class keeps the contract and trains; a breach has its sentence."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from stepopsd_rllib.sampling import SamplerContractError, check_sampler
from stepopsd_rllib.sampling.transformers_sampler import TransformersSampler
from tests.helpers.agents import small_config

PAGE = Path(__file__).parents[2] / "docs" / "your_own_sampler.md"
MODEL = small_config().model_path()


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """The page's blocks; the first stands in `my_sampler.py`, which can be imported."""
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    folder = tmp_path_factory.mktemp("own_sampler")
    (folder / "my_sampler.py").write_text(found[0], encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield found
    sys.path.remove(str(folder))


def test_the_class_of_the_page_keeps_the_contract_and_is_accepted(blocks):
    for block in blocks[1:]:
        exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})


def test_a_run_with_the_class_of_the_page_takes_the_step_of_the_package_s_own(blocks, local_ray):
    settings = {"groups_per_step": 2, "group_size": 2, "eval_num_tasks": 1}
    results = []
    for sampler, options in (
        ("my_sampler:UncachedSampler", {"device": "cpu"}),
        ("transformers", {}),
    ):
        config = small_config(sampler=sampler, sampler_config=options, **settings)
        algo = config.build_algo()
        results.append(algo.train()["learners"]["default_policy"])
        algo.stop()
    assert all(result["sampler_log_prob_difference_max"] < 1e-4 for result in results)


class Broken(TransformersSampler):
    """Breaks one sentence of the contract."""

    breach = ""

    def step(self):
        results = super().step()
        for result in results:
            if self.breach == "log-prob":
                object.__setattr__(result, "log_probs", result.log_probs[:-1])
            if self.breach == "dtype":
                object.__setattr__(result, "token_ids", result.token_ids.astype(np.int64))
            if self.breach == "off":
                object.__setattr__(result, "log_probs", result.log_probs - 0.5)
        return [*results, *results] if self.breach == "twice" else results

    def submit(self, request):
        if self.breach == "seed":
            object.__setattr__(request, "seed", request.seed + len(self._cache.tokens[0]))
        super().submit(request)

    def load_weights(self, weights, version):
        super().load_weights(weights, version)
        self.weights_version = version - (self.breach == "version")


@pytest.mark.parametrize(
    ("breach", "sentence"),
    [
        ("log-prob", "every token has its log-prob; this has 6 tokens and 5"),
        ("dtype", "token_ids is an array"),
        ("twice", "each submitted request once"),
        ("off", "log-probs of a sample at temperature 1 are score's"),
        ("seed", "depends on its prompt and seed alone"),
        ("version", "load_weights records the version"),
    ],
)
def test_a_sampler_that_breaks_the_contract_gets_its_sentence(breach, sentence):
    sampler = Broken(MODEL, max_context_tokens=64, max_concurrent=4)
    sampler.breach = breach
    weights = dict(AutoModelForCausalLM.from_pretrained(MODEL).named_parameters())
    with pytest.raises(SamplerContractError, match=sentence) as raised:
        check_sampler(sampler, weights=weights)
    assert "\n" not in str(raised.value)


def test_the_package_s_own_sampler_keeps_the_contract():
    weights = dict(AutoModelForCausalLM.from_pretrained(MODEL).named_parameters())
    check_sampler(
        TransformersSampler(MODEL, max_context_tokens=64, max_concurrent=3), weights=weights
    )


class Half:
    """No sampler."""

    def step(self):
        """Nothing."""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such.module:Sampler", "config.sampler='no.such.module:Sampler': ModuleNotFoundError"),
        ("tests.docs.test_your_own_sampler:Nothing", "AttributeError"),
        ("tests.docs.test_your_own_sampler:Half", "a sampler has a method 'submit'"),
        ("vlm", "must be 'auto', 'vllm', 'transformers', or a class as module:Class"),
    ],
)
def test_what_is_no_sampler_is_refused_before_anything_starts(name, message):
    with pytest.raises(ValueError, match=message) as raised:
        small_config(sampler=name).validate()
    assert "To suppress" in str(raised.value) or "\n" not in str(raised.value)
