"""One engine over two processes, as it would be over two GPUs: it samples what the learner has."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from stepopsd_rllib.sampling.sampler import SampleRequest
from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler
from stepopsd_rllib.tiny.tiny import package_folder
from tests.helpers.agents import small_config

pytestmark = [pytest.mark.e2e, pytest.mark.vllm]

WIDE = {"tensor_parallel_size": 2}
PROMPT = list(range(20, 60))


def log_probs(model: torch.nn.Module, token_ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.tensor([token_ids])).logits[0, :-1]
    chosen = torch.tensor(token_ids[1:])[:, None]
    return torch.log_softmax(logits, -1).gather(-1, chosen)[:, 0].numpy()


def sampled(sampler: VLLMSampler) -> list[int]:
    request = SampleRequest(
        request_id="a",
        prompt_ids=PROMPT,
        temperature=1.0,
        top_p=1.0,
        seed=3,
        max_tokens=12,
        stop_token_ids=(),
    )
    sampler.submit(request)
    results = []
    while not sampler.is_idle():
        results += sampler.step()
    return results[0].token_ids.tolist()


def test_every_part_of_a_spread_engine_gets_the_weights():
    folder = package_folder("alfworld")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sampler = VLLMSampler(folder, max_context_tokens=256, engine_options=WIDE)
    try:
        torch.manual_seed(0)
        drawn = []
        for version in (1, 2):
            for weight in model.parameters():
                weight.data += 0.05 * torch.randn_like(weight)
            sampler.load_weights(model.state_dict(), version)
            np.testing.assert_allclose(sampler.score(PROMPT), log_probs(model, PROMPT), atol=1e-4)
            drawn.append(sampled(sampler))
            assert drawn[-1] == sampled(sampler)
        assert drawn[0] != drawn[1]
    finally:
        sampler.close()


def test_a_runner_whose_engine_is_spread_trains(build):
    config = small_config(sampler="vllm", sampler_config=WIDE).env_runners(num_env_runners=1)
    algorithm = build(config)
    results = [algorithm.train() for _ in range(2)]
    for result in results:
        learner = result["learners"]["default_policy"]
        assert learner["sampler_log_prob_difference_max"] < 1e-4
