"""Rows that begin alike, forwarded once: the same loss and gradients as rows by themselves."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.core import DEFAULT_MODULE_ID
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

from stepopsd_rllib.episodes import to_rllib
from stepopsd_rllib.models import output_head, shared_attention
from stepopsd_rllib.models.shared_attention import SharedRows, can_share
from stepopsd_rllib.scoring import shared_rows
from stepopsd_rllib.scoring.shared_rows import row_micro_batches
from tests.helpers.agents import build_learner
from tests.helpers.methods import ACTIVE, method_config, method_groups

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def model_of(config) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


@pytest.fixture
def sharing_is_free(monkeypatch):
    """Everything is shared that can be: short rows would be forwarded by themselves."""
    monkeypatch.setattr(shared_rows, "PASS_TOKENS", 0)
    monkeypatch.setattr(shared_rows, "PAIRS_PER_TOKEN", 1e9)


def rows_with_beginnings(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve rows of unequal length: a set of four, one of five with two equal rows, three more."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(0, 97, (12, 40), generator=generator)
    ids_BT[1:4, :9] = ids_BT[0, :9]
    ids_BT[5:9, :20] = ids_BT[4, :20]
    ids_BT[6] = ids_BT[5]
    return ids_BT, torch.tensor([40, 30, 22, 40, 40, 40, 40, 33, 40, 20, 15, 40])


def passes_of(ids_BT, lengths_B, **options):
    """(rows, how they share) of every pass over padded rows."""
    ids = [row[:n].numpy() for row, n in zip(ids_BT, lengths_B.tolist(), strict=True)]
    passes = row_micro_batches(ids, **options)
    return [(p.rows, p.shared(ids_BT[p.rows], lengths_B[p.rows])) for p in passes]


def loss_and_gradients(model, ids_BT, lengths_B, *, share: bool, max_tokens: int = 200):
    """Of a function of all hidden states, and the number of tokens forwarded."""
    generator = torch.Generator().manual_seed(1)
    size = model.config.hidden_size
    weight_BTH = torch.randn(*ids_BT.shape, size, generator=generator, dtype=torch.float64)
    model.zero_grad()
    total, forwarded = 0.0, 0
    for rows, shared in passes_of(ids_BT, lengths_B, max_tokens=max_tokens, share=share):
        longest = int(lengths_B[rows].max())
        part_BT = ids_BT[rows, :longest]
        if shared is None:
            hidden_BTH = model.base_model(input_ids=part_BT, use_cache=False).last_hidden_state
            forwarded += int(lengths_B[rows].sum())
        else:
            hidden_BTH = shared.forward(model)[shared.source_BT]
            forwarded += shared.ids.numel()
        is_real_BT = torch.arange(longest)[None] < lengths_B[rows][:, None]
        loss = (hidden_BTH.tanh() * weight_BTH[rows, :longest])[is_real_BT].sum()
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.base_model.named_parameters()}, forwarded


@pytest.mark.parametrize("queries_at_once", [512, 7])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**SIZES),
        LlamaConfig(**SIZES),
        MistralConfig(**SIZES, sliding_window=None),
        GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    ],
    ids=lambda config: config.model_type,
)
def test_losses_and_gradients_are_those_of_rows_by_themselves(
    config, checkpointing, queries_at_once, sharing_is_free, monkeypatch
):
    monkeypatch.setattr(shared_attention, "QUERIES_AT_ONCE", queries_at_once)
    model = model_of(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert can_share(model)
    model.double().train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids_BT, lengths_B = rows_with_beginnings()
    loss, expected, alone = loss_and_gradients(model, ids_BT, lengths_B, share=False)
    shared_loss, actual, forwarded = loss_and_gradients(model, ids_BT, lengths_B, share=True)
    assert forwarded == alone - 3 * 9 - 4 * 20
    assert shared_loss == pytest.approx(loss, rel=1e-9)
    scale = max(float(value.abs().max()) for value in expected.values())
    # Norms and positions of transformers are float32 in a float64 model, too.
    assert all(
        float((actual[name] - value).abs().max()) / scale < 1e-6 for name, value in expected.items()
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4),
    max_tokens=st.integers(1, 120),
)
def test_every_row_is_forwarded_once_and_each_token_behind_its_own_history(seed, sizes, max_tokens):
    """Packed tokens and places give back the rows, whatever the sets and the budget."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for shared, members in sizes:
        head = torch.randint(0, 1000, (shared,), generator=generator).tolist()
        rows += [
            head + torch.randint(0, 1000, (n,), generator=generator).tolist()
            for n in torch.randint(1, 9, (members,), generator=generator).tolist()
        ]
    lengths_B = torch.tensor([len(row) for row in rows])
    ids_BT = torch.tensor([row + [0] * (int(lengths_B.max()) - len(row)) for row in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_rows, "PASS_TOKENS", 0)
        patch.setattr(shared_rows, "PAIRS_PER_TOKEN", 1e9)
        passes = passes_of(ids_BT, lengths_B, max_tokens=max_tokens, share=True)
    assert sorted(itertools.chain(*(part.tolist() for part, _ in passes))) == list(range(len(rows)))
    for part, shared in passes:
        if shared is None:
            continue
        assert shared.ids.numel() <= max_tokens or len(part) == 2
        for i, row in enumerate(part.tolist()):
            place = shared.source_BT[i, : len(rows[row])]
            assert shared.ids[0, place].tolist() == rows[row]
            assert shared.positions[0, place].tolist() == list(range(len(rows[row])))


def test_sharing_is_left_where_it_costs_more_than_it_saves():
    """Eight rows share 100 tokens: worth it before 100 tokens more, not before 8,000."""
    for own, pays in ((100, True), (8000, False)):
        ids_BT = torch.randint(0, 97, (8, 100 + own), generator=torch.Generator().manual_seed(0))
        ids_BT[1:, :100] = ids_BT[0, :100]
        lengths_B = torch.full((8,), 100 + own)
        passes = passes_of(ids_BT, lengths_B, max_tokens=16384, share=True)
        assert any(shared is not None for _, shared in passes) == pays


def test_models_whose_layers_forget_forward_every_row_by_itself():
    model = model_of(
        MistralConfig(**SIZES, sliding_window=8, layer_types=["sliding_attention"] * 2)
    )
    assert not can_share(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_cannot_be_told_how_tokens_are_packed_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(SharedRows, "forward", lambda self, model: torch.zeros(28, 32))
    model = model_of(Qwen3Config(**SIZES))
    assert not can_share(model)
    assert model.config._attn_implementation == "sdpa"


def exact_logits(weight, bias, hidden_NH, temperature, rounded):
    """Logits of the update in float64; what is scored without gradient is kept in float32."""
    logits_NV = torch.nn.functional.linear(hidden_NH, weight, bias) / temperature
    return logits_NV if torch.is_grad_enabled() else logits_NV.float()


def gradient_of(name: str, context: str, share: str, **agent):
    """Gradient and metrics of a method's update of episodes that begin alike."""
    config = method_config(name, ACTIVE.get(name, {}), context)
    config.agent(share_prefixes=share, max_sampler_difference=None, **agent)
    config.training(grad_clip=None, kl_coeff=0.1)
    learner = build_learner(config)
    learner.language_module.double()
    episodes = [to_rllib(e) for group in method_groups(context) for e in group]
    metrics = learner.update(episodes=episodes, timesteps={})[DEFAULT_MODULE_ID]
    named = learner.language_module.language_model.named_parameters()
    names = ("total_loss", "update_tokens_forwarded")
    values = {n: float(getattr(metrics[n], "peek", lambda n=n: metrics[n])()) for n in names}
    return {n: p.grad.clone() for n, p in named if p.grad is not None}, values


@pytest.mark.parametrize(
    ("name", "context", "checkpointing", "lora"),
    [
        ("GRPO", "append", True, {}),
        ("GRPO", "append", False, {"rank": 4}),
        ("SDAR", "window", True, {"rank": 4}),
        ("GRPO", "window", False, {}),
        ("SDAR", "append", False, {}),
        ("OPSD", "window", True, {}),
        ("SkillSD", "append", True, {}),
        ("UCOB", "append", False, {}),
        ("UCOB", "window", True, {}),
        ("StepOPSD", "append", False, {}),
    ],
)
def test_every_loss_has_the_same_gradient(
    name, context, checkpointing, lora, sharing_is_free, monkeypatch
):
    """In float64, logits too: exponentials of random log-probs magnify float32's last digits."""
    monkeypatch.setattr(output_head, "_chunk_logits", exact_logits)
    settings_ = {"gradient_checkpointing": checkpointing, "lora": lora}
    expected, metrics = gradient_of(name, context, "off", **settings_)
    actual, shared_metrics = gradient_of(name, context, "auto", **settings_)
    forwarded = "update_tokens_forwarded"
    assert shared_metrics[forwarded] < metrics[forwarded]
    assert shared_metrics["total_loss"] == pytest.approx(metrics["total_loss"], rel=1e-6, abs=1e-9)
    scale = max(float(value.abs().max()) for value in expected.values())
    assert scale > 0
    difference = max(float((actual[n] - value).abs().max()) for n, value in expected.items())
    assert difference / scale < 1e-6
