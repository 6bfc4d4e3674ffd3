"""What is read off the logits: the same whatever the chunks, with gradient where it belongs."""

from __future__ import annotations

import pytest
import torch

from stepopsd_rllib.models import output_head

VOCABULARY, WIDTH, POSITIONS = 11, 6, 7


@pytest.fixture(params=[None, 2], ids=["whole", "chunks"])
def head(request, monkeypatch) -> torch.nn.Linear:
    if request.param is not None:
        monkeypatch.setattr(output_head, "LOGIT_CHUNK_BYTES", 4 * VOCABULARY * request.param)
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, VOCABULARY)


def test_candidates_are_scored_beside_the_targets(head):
    hidden_NH = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    targets_N = torch.randint(VOCABULARY, (POSITIONS,))
    candidates_NK = torch.randint(VOCABULARY, (POSITIONS, 3))
    settings = {"temperature": 0.7, "entropy": "value"}
    log_probs_N, entropy_N, scores_NK = output_head.head_log_probs(
        head, hidden_NH, targets_N, candidates_NK=candidates_NK, **settings
    )
    assert scores_NK is not None
    expected_NV = (head(hidden_NH) / 0.7).log_softmax(-1)
    torch.testing.assert_close(scores_NK, expected_NV.gather(-1, candidates_NK))
    (gradient,) = torch.autograd.grad(scores_NK.square().sum(), hidden_NH, retain_graph=True)
    (expected,) = torch.autograd.grad(
        expected_NV.gather(-1, candidates_NK).square().sum(), hidden_NH
    )
    torch.testing.assert_close(gradient, expected)
    plain = output_head.head_log_probs(head, hidden_NH, targets_N, **settings)
    assert torch.equal(plain[0], log_probs_N) and torch.equal(plain[1], entropy_N)
    assert plain[2] is None


@pytest.mark.parametrize("positions", [0, POSITIONS])
def test_top_tokens_come_most_likely_first(head, positions):
    hidden_NH = torch.randn(positions, WIDTH)
    log_probs_NK, ids_NK = output_head.head_top_tokens(head, hidden_NH, temperature=0.7, count=4)
    expected = (head(hidden_NH) / 0.7).log_softmax(-1).sort(-1, descending=True)
    torch.testing.assert_close(log_probs_NK, expected.values[:, :4])
    assert torch.equal(ids_NK, expected.indices[:, :4])


def test_a_rounded_head_multiplies_bfloat16_numbers_and_sums_in_float32():
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(16, 40, bias=False)
    hidden_NH = torch.randn(6, 16, generator=generator, requires_grad=True)
    targets_N = torch.randint(40, (6,), generator=generator)
    log_probs_N, _, _ = output_head.head_log_probs(
        head, hidden_NH, targets_N, temperature=1.0, entropy="none", arithmetic="rounded"
    )
    exact_NV = hidden_NH.bfloat16().double() @ head.weight.bfloat16().double().T
    expected_N = exact_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    assert torch.allclose(log_probs_N.double(), expected_N, atol=1e-5)
    log_probs_N.sum().backward()
    assert hidden_NH.grad is not None and head.weight.grad is not None
