"""Models that cannot be trained are refused by their files, before weights are read."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from stepopsd_rllib.training.model_checks import check_model
from tests.helpers.agents import small_config
from tests.helpers.methods import method_config

TINY = small_config().model_path()


@pytest.fixture
def model(tmp_path):
    """A copy of the embedded model's folder, and a way to change its settings."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))

    def changed(**settings) -> str:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
        return str(folder)

    return changed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"auto_map": {"AutoModelForCausalLM": "m.M"}, "model_type": "own"},
            "needs Python code out of its folder",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, r"its weights are quantised \(awq\)"),
        ({"model_type": "distilbert"}, "model_type='distilbert' is no causal language model"),
        ({"max_position_embeddings": 64}, "max_context_tokens=512: the model was made for"),
    ],
)
def test_a_model_that_cannot_be_trained_is_named_with_the_reason(model, settings, message):
    with pytest.raises(ValueError, match=message) as refusal:
        small_config(model=model(**settings)).validate()
    assert len(str(refusal.value).split("To suppress")[0].strip().splitlines()) == 1


def test_a_model_without_a_chat_template_is_refused_before_its_weights_are_read(model):
    folder = model()
    os.remove(f"{folder}/chat_template.jinja")
    with pytest.raises(ValueError, match="its tokenizer has no chat template"):
        small_config(model=folder).validate()


def test_a_broken_config_file_is_named(model):
    folder = model()
    with open(f"{folder}/config.json", "w") as file:
        file.write("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        small_config(model=folder).validate()


@pytest.mark.parametrize(
    ("name", "keys", "is_refused"),
    [
        ("StepOPSD", {"hindsight_position": "suffix"}, True),
        ("StepOPSD", {"hindsight_position": "prefix"}, False),
        ("UCOB", {}, True),
        ("OPID", {}, True),
        ("SEED", {}, False),  # an episode is told in front of its first turn
        ("GRPO", {}, False),
    ],
)
def test_a_model_that_forgets_is_refused_where_turns_hang_on_one_history(
    name, keys, is_refused, model
):
    folder = model(layer_types=["sliding_attention"] * 4, sliding_window=64)
    config = method_config(name, keys, "append")
    config.agent(model=folder)
    if is_refused:
        with pytest.raises(ValueError, match=f"has layers of sliding_attention, and {name} judges"):
            check_model(config)
    else:
        check_model(config)
