"""The command that teaches a model the form of an environment's turns."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM

from stepopsd_rllib.commands.warm_start import RECORD_FILE, WarmStart, warm_start
from tests.helpers.agents import largest_difference, small_config
from tests.helpers.houses import BARE

SETTINGS = {
    "model": "tiny",
    "env": "stepopsd/ALFWorld-v0",
    "env_config": {**BARE, "max_turns": 12},
    "episodes": 12,
    "tasks": 2,
}


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_model_that_was_warm_started_is_one_like_any_other(tmp_path, lora_rank):
    said: list[str] = []
    folder = warm_start(
        WarmStart(**SETTINGS, lora_rank=lora_rank, learning_rate=2e-3, epochs=2),  # type: ignore[arg-type]
        str(tmp_path / "out"),
        report=said.append,
    )
    record = json.loads((folder / RECORD_FILE).read_text())
    losses = record["held_out_loss"]
    assert losses["before"] != losses["after"]
    assert record["success"]["after"]["num_episodes"] == 2
    assert any("held out" in line for line in said)
    config = small_config(model=str(folder))
    config.validate()
    before = AutoModelForCausalLM.from_pretrained(small_config().model_path()).state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert largest_difference(before, after) > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"env": "stepopsd/Nothing-v0"}, "ENV='stepopsd/Nothing-v0': there is no expert for it"),
        ({"episodes": 1}, "--episodes 1: give at least 2"),
        ({"model": "no/such/model"}, "config.model='no/such/model': no Hugging Face model"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        warm_start(WarmStart(**{**SETTINGS, **changed}), str(tmp_path / "out"))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
