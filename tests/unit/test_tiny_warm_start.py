from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.tiny.alfworld_demonstrations import (
    DemonstrationSettings,
    alfworld_demonstrations,
)
from stepopsd_rllib.tiny.batched_play import _GrowingContexts
from stepopsd_rllib.tiny.demonstrations import (
    DemonstratedTurn,
    Demonstration,
    SearchDemonstrationSettings,
    ShopDemonstrationSettings,
    search_qa_demonstrations,
    webshop_demonstrations,
)
from stepopsd_rllib.tiny.tiny import RECIPES, chat_row
from stepopsd_rllib.tiny.tiny_tokenizer import train_tokenizer
from stepopsd_rllib.tiny.warm_start import (
    ChatRow,
    CloningSettings,
    adamw_alone,
    clone,
    clone_batches,
    loss,
    mean_response_loss,
)


@pytest.fixture(scope="module")
def chat():
    texts = ["a b c d e f g h"] * 10
    return ChatFormat(train_tokenizer(texts, vocabulary_size=300))


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "head_dim": 16,
        "vocab_size": 300,
    }
    heads: dict[str, Any] = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    return Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, tie_word_embeddings=True))


def row(length, response_from):
    token_ids = np.arange(length, dtype=np.int32) + 3
    return ChatRow(token_ids=token_ids, response_mask=np.arange(length) >= response_from)


def test_a_row_holds_the_tokens_of_a_rollout_and_marks_learned_responses(chat):
    turns = (
        DemonstratedTurn(response="a", is_learned=True, next_message="b"),
        DemonstratedTurn(response="c", is_learned=False, next_message="d"),
        DemonstratedTurn(response="e", is_learned=True, next_message="never read"),
    )
    shown = Demonstration(task_id="t", system_prompt="s", first_message="m", turns=turns, won=True)
    made = chat_row(shown, chat)
    [end] = chat.end_of_turn_ids

    def response(text):
        return [*chat.tokenizer(text, add_special_tokens=False)["input_ids"], end]

    system = {"role": "system", "content": "s"}
    parts = [
        (chat.first_prompt([system, {"role": "user", "content": "m"}]), False),
        (response("a"), True),
        (chat.continuation("b", response_ended=True), False),
        (response("c"), False),
        (chat.continuation("d", response_ended=True), False),
        (response("e"), True),
    ]
    assert made.token_ids.tolist() == [i for ids, _ in parts for i in ids]
    assert made.response_mask.tolist() == [learned for ids, learned in parts for _ in ids]


def test_the_loss_is_the_two_masked_means_and_padding_does_not_matter(model):
    rows = [row(9, 5), row(5, 3)]

    def log_probs(each):
        ids = torch.from_numpy(each.token_ids).long()[None]
        table = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        return table.gather(1, ids[0, 1:, None])[:, 0], torch.from_numpy(each.response_mask[1:])

    scored = [log_probs(each) for each in rows]
    responses = -torch.cat([values[mask] for values, mask in scored]).mean()
    others = -torch.cat([values[~mask] for values, mask in scored]).mean()
    total, response_loss = loss(model, rows, observation_weight=0.25)
    assert total.item() == pytest.approx((responses + 0.25 * others).item(), abs=1e-5)
    assert response_loss == pytest.approx(responses.item(), abs=1e-5)


def test_cloning_learns_the_responses(model):
    rows = [row(12, 6)] * 32
    before = loss(model, rows, observation_weight=0.0)[1]
    settings = CloningSettings(epochs=20, tokens_per_batch=100, warmup_updates=5)
    report = clone(model, rows, settings, seed=0)
    assert report.response_tokens == 20 * 32 * 6
    assert loss(model, rows, observation_weight=0.0)[1] < 0.3 * before


def test_each_epoch_shows_each_row_once_within_the_token_budget():
    rows = [row(length, 1) for length in range(2, 40)]
    settings = CloningSettings(epochs=2, tokens_per_batch=90)
    batches = list(clone_batches(rows, settings, np.random.default_rng(0)))
    lengths = sorted(len(each.token_ids) for batch in batches for each in batch)
    assert lengths == sorted([*range(2, 40)] * 2)
    for batch in batches:
        assert len(batch) * max(len(each.token_ids) for each in batch) <= 90


def test_a_growing_context_predicts_what_one_long_forward_predicts(model):
    turns = [[[5, 6, 7], [8], [9, 10]], [[11], [12, 13, 14], []], [[15], [16], [17, 18]]]
    contexts = _GrowingContexts(model, rows=3)
    read = [[], [], []]
    with torch.no_grad():
        for turn in turns:
            for index, ids in enumerate(turn):
                contexts.add(index, ids)
                read[index] += ids
            logits = contexts.logits()
            for index in (index for index, ids in enumerate(turn) if ids):
                whole = model(input_ids=torch.tensor([read[index]])).logits[0, -1]
                assert torch.allclose(logits[index], whole, atol=1e-5)
        contexts.keep([0, 2])
        contexts.add(0, [20])
        contexts.add(1, [21])
        logits = contexts.logits()
        for index, ids in enumerate(([*read[0], 20], [*read[2], 21])):
            whole = model(input_ids=torch.tensor([ids])).logits[0, -1]
            assert torch.allclose(logits[index], whole, atol=1e-5)


def test_demonstrations_are_won_training_games_and_noise_is_not_learned():
    recipe = RECIPES["alfworld"]
    settings = DemonstrationSettings(episodes=30, noise=0.3)
    shown = alfworld_demonstrations(recipe.environment_config, settings, seed=0)
    assert 15 <= len(shown) <= 30
    assert all(demonstration.won for demonstration in shown)
    assert all("/train/" in demonstration.task_id for demonstration in shown)
    assert len({demonstration.task_id.split("/")[3] for demonstration in shown}) == 6
    learned = [turn.is_learned for demonstration in shown for turn in demonstration.turns]
    assert 0.55 < np.mean(learned) < 0.85
    assert shown == alfworld_demonstrations(recipe.environment_config, settings, seed=0)


def search_episodes(**mistakes):
    settings = SearchDemonstrationSettings(episodes=200, **mistakes)
    return search_qa_demonstrations(RECIPES["search_qa"].environment_config, settings, seed=0)


def test_search_demonstrations_without_mistakes_search_once_and_win():
    shown = search_episodes()
    assert all(demonstration.won for demonstration in shown)
    assert {len(demonstration.turns) for demonstration in shown} == {2}
    assert len({demonstration.task_id for demonstration in shown}) == 200
    assert shown == search_episodes()


def test_mistakes_of_search_demonstrations_lose_and_are_learned():
    guessing = search_episodes(guessing=0.5)
    at_once = [len(demonstration.turns) == 1 for demonstration in guessing]
    assert 0.4 < np.mean(at_once) < 0.6
    assert np.mean([demonstration.won for demonstration in guessing]) < 0.6
    for demonstration in search_episodes(confusion=1.0):
        assert not demonstration.won
        passage, answer = demonstration.turns[0].next_message, demonstration.turns[1].response
        assert answer.removeprefix("<answer>").removesuffix("</answer>") in passage
    for demonstration in [*guessing, *search_episodes(confusion=1.0)]:
        assert all(turn.is_learned for turn in demonstration.turns)


def test_informed_search_demonstrations_hold_skills_and_no_mistakes(chat):
    shown = search_episodes(informed=0.5, guessing=1.0)
    before = [shown_.privileged for shown_ in shown]
    inside = ["- Search first:" in shown_.first_message for shown_ in shown]
    informed = [bool(text) or told for text, told in zip(before, inside, strict=True)]
    assert 0.4 < np.mean(informed) < 0.6 and any(before) and any(inside)
    assert not any(text and told for text, told in zip(before, inside, strict=True))
    # All others guess, in one turn.
    assert [len(shown_.turns) == 2 for shown_ in shown] == informed
    assert all(shown_.won for shown_, told in zip(shown, informed, strict=True) if told)
    told = next(shown_ for shown_ in shown if shown_.privileged)
    prefix = chat.tokenizer(told.privileged, add_special_tokens=False)["input_ids"]
    row, plain = chat_row(told, chat), chat_row(replace(told, privileged=""), chat)
    assert row.token_ids.tolist() == [*prefix, *plain.token_ids]
    assert row.response_mask.tolist() == [False] * len(prefix) + plain.response_mask.tolist()


def test_a_wrong_query_of_search_demonstrations_is_corrected_and_not_learned():
    shown = search_episodes(noise=0.3)
    assert np.mean([demonstration.won for demonstration in shown]) > 0.95
    learned = [[turn.is_learned for turn in demonstration.turns] for demonstration in shown]
    assert any(turns[0] is False for turns in learned)
    assert all(turns[-1] for turns in learned)


def shop_episodes(**habits):
    settings = ShopDemonstrationSettings(episodes=100, **habits)
    return webshop_demonstrations(RECIPES["webshop"].environment_config, settings, seed=0)


def clicks(demonstration):
    return [turn.response.partition("[")[2].partition("]")[0] for turn in demonstration.turns]


def test_shop_demonstrations_without_habits_win_in_a_few_turns():
    shown = shop_episodes()
    assert all(demonstration.won for demonstration in shown)
    assert np.mean([len(demonstration.turns) for demonstration in shown]) < 5.2
    assert shown == shop_episodes()


def test_habits_of_shop_demonstrations_are_learned_and_cost_wins():
    hasty = shop_episodes(haste=1.0)
    assert np.mean([demonstration.won for demonstration in hasty]) < 0.1
    idle = shop_episodes(dithering=0.4)
    assert all(demonstration.won or len(demonstration.turns) == 20 for demonstration in idle)
    assert any("features" in clicks(demonstration) for demonstration in idle)
    for demonstration in [*hasty, *idle]:
        assert all(turn.is_learned for turn in demonstration.turns)


def test_random_clicks_of_shop_demonstrations_are_not_learned_and_made_good():
    shown = shop_episodes(noise=0.2)
    assert np.mean([demonstration.won for demonstration in shown]) > 0.85
    learned = [turn.is_learned for demonstration in shown for turn in demonstration.turns]
    assert 0.7 < np.mean(learned) < 0.95


def test_informed_shop_demonstrations_hold_skills_and_no_habits():
    shown = shop_episodes(informed=0.5, haste=1.0)
    told = [bool(d.privileged) or "- Search, choose, buy:" in d.first_message for d in shown]
    assert 0.3 < np.mean(told) < 0.7
    assert [demonstration.won for demonstration in shown] == told


def test_a_model_cloned_in_bfloat16_is_the_one_whose_loss_fell(model):
    rows = [row(12, 4) for _ in range(40)]
    settings = CloningSettings(
        epochs=2, tokens_per_batch=24, learning_rate=1e-2, observation_weight=0.0
    )
    before = mean_response_loss(model, rows[:1])
    report = clone(
        model,
        rows,
        settings,
        seed=0,
        make_optimizers=adamw_alone,
        autocast_dtype=torch.bfloat16,
    )
    after = mean_response_loss(model, rows[:1])
    assert report.final_loss < before / 2
    assert after == pytest.approx(report.final_loss, abs=0.1)
